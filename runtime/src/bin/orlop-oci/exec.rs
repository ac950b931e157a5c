//! `exec`: one more process in a container.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Component, PathBuf};

use anyhow::{Context, Result, ensure};
use lexopt::ValueExt;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use runtime::container::config;
use runtime::container::named::{ExecOrder, Named};
use runtime::container::{Manner, Running, initial_cpus, kill};
use runtime::spec::Process;

use crate::arguments::{Globals, Word, is_on, next, number, required_id};
use crate::foreground::{Foreground, stdio};
use crate::streams::{Streams, hand_over};

/// Exit code when no process was added.
const NO_PROCESS: u8 = 255;

#[derive(Debug, Default)]
pub(crate) struct Exec {
    id: String,
    /// A file with an OCI process; else the container's own with the changes below.
    process: Option<PathBuf>,
    pub(crate) command: Vec<String>,
    environment: Vec<String>,
    cwd: Option<PathBuf>,
    pub(crate) user: Option<(u32, Option<u32>)>,
    additional_gids: Vec<u32>,
    capabilities: Vec<String>,
    cgroup: Option<PathBuf>,
    apparmor: Option<String>,
    process_label: Option<String>,
    no_new_privileges: bool,
    terminal: bool,
    detach: bool,
    ignore_paused: bool,
    streams: Streams,
}

impl Exec {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let (mut exec, mut id) = (Self::default(), None);
        while let Some(word) = next(&mut parser)? {
            match word {
                Word::Value(value) if id.is_none() => {
                    id = Some(value);
                    if exec.process.is_none() {
                        exec.command = rest(&mut parser)?;
                    }
                }
                word @ (Word::Flag(_) | Word::Value(_)) => exec.take(&word, &mut parser)?,
            }
        }
        exec.id = required_id("exec", id)?;
        ensure!(
            exec.process.is_some() || !exec.command.is_empty(),
            "exec needs a command or --process FILE"
        );
        Ok(exec)
    }

    fn take(&mut self, word: &Word, parser: &mut lexopt::Parser) -> Result<()> {
        let Word::Flag(flag) = word else {
            return self.streams.take(word, parser);
        };
        match flag.as_str() {
            "p" | "process" => self.process = Some(parser.value()?.into()),
            "e" | "env" => self.environment.push(parser.value()?.string()?),
            "cwd" => self.cwd = Some(parser.value()?.into()),
            "u" | "user" => self.user = Some(parse_user(&parser.value()?.string()?)?),
            "g" | "additional-gids" => self.additional_gids.push(number(parser, "additional-gids")?),
            "c" | "cap" => self.capabilities.push(parser.value()?.string()?),
            "cgroup" => self.cgroup = Some(sub_cgroup(&parser.value()?.string()?)?),
            "apparmor" => self.apparmor = Some(parser.value()?.string()?),
            "process-label" => self.process_label = Some(parser.value()?.string()?),
            "no-new-privs" => self.no_new_privileges = is_on(parser)?,
            "t" | "tty" => self.terminal = is_on(parser)?,
            "d" | "detach" => self.detach = is_on(parser)?,
            "ignore-paused" => self.ignore_paused = is_on(parser)?,
            _ => return self.streams.take(word, parser),
        }
        Ok(())
    }

    /// The exit code is the process's own; 255, as runc's, when there was none.
    pub(crate) fn run(&self, globals: &Globals) -> u8 {
        self.add(globals).unwrap_or_else(|error| {
            globals.log.error(&format!("{error:#}"));
            NO_PROCESS
        })
    }

    fn add(&self, globals: &Globals) -> Result<u8> {
        self.streams.check()?;
        let named = globals.store().find(&self.id)?;
        let process = self.process(&named, globals)?;
        let is_terminal = process.terminal().unwrap_or(false);
        // Who has a socket to pass the terminal to does not hold it here, detached or not.
        let detached = self.detach || self.streams.console_socket.is_some();
        self.streams.check_terminal(is_terminal, detached)?;
        let foreground = if self.detach {
            None
        } else {
            Some(Foreground::take(false)?)
        };
        let order = ExecOrder {
            process: &process,
            stdio: stdio(is_terminal, detached)?,
            manner: Manner {
                preserved_fds: self.streams.all_preserved(),
                ..Manner::default()
            },
            cgroup: self.cgroup(&named),
            ignore_paused: self.ignore_paused,
        };
        let mut running = named.exec(order)?;
        if let Some(cpus) = initial_cpus(&process) {
            globals.log.debug(&format!("affinity: {}", in_hex(&cpus)));
        }
        // The creation of the container has warned of it.
        for sentence in &running.unenforced {
            globals.log.debug(sentence);
        }
        if let Err(error) = self.tell(&mut running) {
            // Nobody knows of it. That it could not be ended says less.
            let _ = kill(running.pidfd.as_fd(), libc::SIGKILL);
            return Err(error);
        }
        match foreground {
            Some(foreground) => Ok(foreground.wait(running)?.shell_code()),
            None => Ok(0),
        }
    }

    /// Hands its terminal and its pidfd over and writes its number down, for whoever asks for them.
    fn tell(&self, running: &mut Running) -> Result<()> {
        if let Some(socket) = &self.streams.console_socket {
            let terminal = running.terminal.take().context("the process has made no terminal")?;
            hand_over(socket, terminal.as_fd())?;
        }
        self.streams.hand_over_pidfd(running.pidfd.as_fd())?;
        self.streams.write_pid(running.pid)
    }

    fn cgroup(&self, named: &Named) -> Option<PathBuf> {
        let (whole, below) = (named.record.cgroup.as_ref()?, self.cgroup.as_ref()?);
        Some(whole.join(below))
    }

    fn process(&self, named: &Named, globals: &Globals) -> Result<Process> {
        if let Some(file) = &self.process {
            let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
            let mut passed_over = Vec::new();
            let process = config::read_telling(&text, &mut passed_over);
            globals.warn(&passed_over);
            return process.with_context(|| format!("parse {}", file.display()));
        }
        let own = named.spec()?.process().clone();
        self.changed(own.context("config.json: process: is missing")?)
    }

    /// The container's own process with what the flags say.
    fn changed(&self, mut process: Process) -> Result<Process> {
        process
            .set_args(Some(self.command.clone()))
            .set_terminal(Some(self.terminal));
        let own = process.env().iter().flatten();
        let kept = own.filter(|variable| !self.environment.iter().any(|new| name(new) == name(variable)));
        let environment = kept.chain(&self.environment).cloned().collect();
        process.set_env(Some(environment));
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        let mut user = process.user().clone();
        if let Some((uid, gid)) = self.user {
            user.set_uid(uid).set_gid(gid.unwrap_or_else(|| process.user().gid()));
        }
        if !self.additional_gids.is_empty() {
            user.set_additional_gids(Some(self.additional_gids.clone()));
        }
        process.set_user(user);
        if !self.capabilities.is_empty() {
            process.set_capabilities(Some(with_capabilities(
                process.capabilities().clone(),
                &self.capabilities,
            )?));
        }
        if self.no_new_privileges {
            process.set_no_new_privileges(Some(true));
        }
        if let Some(profile) = &self.apparmor {
            process.set_apparmor_profile(Some(profile.clone()));
        }
        if let Some(label) = &self.process_label {
            process.set_selinux_label(Some(label.clone()));
        }
        Ok(process)
    }
}

/// Bits as one number, the lowest word first.
fn in_hex(words: &[u64]) -> String {
    let digits: String = words.iter().rev().map(|word| format!("{word:016x}")).collect();
    format!("0x{}", digits.trim_start_matches('0'))
}

/// Everything to the end of the line, without the `--` that may stand in between.
fn rest(parser: &mut lexopt::Parser) -> Result<Vec<String>> {
    let mut words: Vec<OsString> = parser.raw_args()?.collect();
    if words.first().is_some_and(|word| word == "--") {
        words.remove(0);
    }
    Ok(words.into_iter().map(|word| word.string()).collect::<Result<_, _>>()?)
}

/// Adds capabilities to all sets but the inheritable one, which would hand them on to files (CVE-2022-29162); to the
/// ambient one where the container has inheritable ones, without which there are none.
fn with_capabilities(sets: Option<LinuxCapabilities>, names: &[String]) -> Result<LinuxCapabilities> {
    let mut sets = sets.unwrap_or_default();
    let added: Capabilities = names
        .iter()
        .map(|name| capability(name).with_context(|| format!("--cap: {name:?} is not a capability")))
        .collect::<Result<_>>()?;
    let with = |set: &Option<Capabilities>| Some(set.iter().flatten().copied().chain(added.iter().copied()).collect());
    let (bounding, permitted, effective) = (with(sets.bounding()), with(sets.permitted()), with(sets.effective()));
    if sets.inheritable().is_some() {
        let ambient = with(sets.ambient());
        sets.set_ambient(ambient);
    }
    sets.set_bounding(bounding)
        .set_permitted(permitted)
        .set_effective(effective);
    Ok(sets)
}

/// As config.json names it; the prefix may be left out.
fn capability(name: &str) -> Result<Capability, serde_json::Error> {
    let name = name.to_ascii_uppercase();
    let name = if name.starts_with("CAP_") {
        name
    } else {
        format!("CAP_{name}")
    };
    serde_json::from_value(name.into())
}

/// A path below the container's cgroup. In the manner of cgroup v1 a controller may stand before it, which means nothing.
fn sub_cgroup(text: &str) -> Result<PathBuf> {
    let path = text.rsplit_once(':').map_or(text, |(_, path)| path);
    let path: PathBuf = path.trim_start_matches('/').into();
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    ensure!(is_plain, "--cgroup: {text:?} leads out of the container's cgroup");
    Ok(path)
}

/// Numbers only: a name would have to be looked up in files that the container controls (CVE-2026-30892).
fn parse_user(text: &str) -> Result<(u32, Option<u32>)> {
    let number = |text: &str| {
        text.parse::<u32>()
            .with_context(|| format!("{text:?} is not a user or group number"))
    };
    match text.split_once(':') {
        Some((user, group)) => Ok((number(user)?, Some(number(group)?))),
        None => Ok((number(text)?, None)),
    }
}

/// The name of an environment variable.
fn name(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_one_number() {
        assert_eq!(in_hex(&[3]), "0x3");
        assert_eq!(in_hex(&[1, 16]), "0x100000000000000001");
    }
}
