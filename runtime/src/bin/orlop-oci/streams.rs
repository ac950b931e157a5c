//! The descriptors that come and go with a process: those it inherits, its terminal, its pidfd, its pid file.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use runtime::container::named::Fresh;
use runtime::spec::Process;
use runtime::sys::fd::is_inherited;
use runtime::sys::socket::pass;

use crate::arguments::{Word, number, unexpected};

/// Name of the first descriptor beyond the standard streams.
const FIRST: u32 = 3;

/// How many descriptors may be preserved.
const PRESERVED_LIMIT: u32 = 1000;

/// The flags about descriptors, of `create`, `run` and `exec`.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) console_socket: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    preserved: u32,
}

impl Streams {
    pub(crate) fn take(&mut self, word: &Word, parser: &mut lexopt::Parser) -> Result<()> {
        let Word::Flag(flag) = word else {
            return Err(unexpected(word));
        };
        match flag.as_str() {
            "console-socket" => self.console_socket = Some(parser.value()?.into()),
            "pidfd-socket" => self.pidfd_socket = Some(parser.value()?.into()),
            "pid-file" => self.pid_file = Some(parser.value()?.into()),
            "preserve-fds" => self.preserved = number(parser, "preserve-fds")?,
            _ => return Err(unexpected(word)),
        }
        Ok(())
    }

    /// Every descriptor that is to be preserved must be there, before we open any ourselves.
    pub(crate) fn check(&self) -> Result<()> {
        let all = self.all_preserved();
        ensure!(
            all <= PRESERVED_LIMIT,
            "--preserve-fds: {all} are more than {PRESERVED_LIMIT}"
        );
        for number in FIRST..FIRST + all {
            ensure!(
                is_inherited(number),
                "--preserve-fds: descriptor {number} is not open (of {all} from {FIRST} on)"
            );
        }
        Ok(())
    }

    /// A terminal needs somebody who holds its other end, and the socket needs a terminal.
    pub(crate) fn check_terminal(&self, is_terminal: bool, detached: bool) -> Result<()> {
        match (is_terminal, detached, &self.console_socket) {
            (true, true, None) => bail!("a detached process with a terminal needs --console-socket to pass it to"),
            (true, false, Some(_)) | (false, _, Some(_)) => {
                bail!("--console-socket is for a detached process with a terminal")
            }
            (true, true, Some(_)) | (true, false, None) | (false, _, None) => Ok(()),
        }
    }

    /// With those that a service manager has passed to this process (sd_listen_fds(3)).
    pub(crate) fn all_preserved(&self) -> u32 {
        self.preserved.saturating_add(listeners())
    }

    /// Tells a process of the sockets that a service manager has passed to us for it.
    pub(crate) fn pass_listeners(&self, process: Option<&mut Process>) {
        if let Some(process) = process.filter(|_| listeners() > 0) {
            let ours = [format!("LISTEN_FDS={}", listeners()), "LISTEN_PID=1".into()];
            let environment = process.env().iter().flatten().cloned().chain(ours).collect();
            process.set_env(Some(environment));
        }
    }

    /// Gives a new container's terminal and pidfd to who asked for them, and its process id to the file.
    pub(crate) fn hand_over(&self, fresh: &mut Fresh) -> Result<()> {
        if let Some(socket) = &self.console_socket {
            let terminal = fresh.take_terminal().context("the container has made no terminal")?;
            hand_over(socket, std::os::fd::AsFd::as_fd(&terminal))?;
        }
        if let Some(pidfd) = fresh.pidfd() {
            self.hand_over_pidfd(pidfd)?;
        }
        self.write_pid(fresh.pid())
    }

    pub(crate) fn hand_over_pidfd(&self, pidfd: BorrowedFd<'_>) -> Result<()> {
        match &self.pidfd_socket {
            Some(socket) => hand_over(socket, pidfd),
            None => Ok(()),
        }
    }

    /// Writes the file as a whole: who waits for it never reads half a number.
    pub(crate) fn write_pid(&self, pid: u32) -> Result<()> {
        let Some(file) = &self.pid_file else { return Ok(()) };
        let name = file.file_name().context("--pid-file: is not the name of a file")?;
        let beside = file.with_file_name(format!(".{}", name.to_string_lossy()));
        let write = || fs::write(&beside, pid.to_string()).and_then(|()| fs::rename(&beside, file));
        write().with_context(|| format!("write {}", file.display()))
    }
}

/// Sends a descriptor to who listens on a unix socket. The bytes beside it say what it is; some receivers want some.
pub(crate) fn hand_over(socket: &Path, descriptor: BorrowedFd<'_>) -> Result<()> {
    let send = || -> io::Result<()> { pass(&UnixStream::connect(socket)?, b"/dev/ptmx", descriptor) };
    send().with_context(|| format!("pass a descriptor to {}", socket.display()))
}

fn listeners() -> u32 {
    let variable = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    match variable("LISTEN_PID") {
        Some(pid) if pid == std::process::id() => variable("LISTEN_FDS").unwrap_or(0),
        _ => 0,
    }
}
