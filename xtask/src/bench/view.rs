//! A shell that stays, in a mount namespace of its own where a runtime finds the cgroup tree that it can work with.
//!
//! On a host with a pure cgroup v2 tree all runtimes see the host. On a hybrid one, runc is shown the v2 hierarchy and
//! crun the v1 ones, for crun refuses a mix. Commands go through the same kind of shell for all, ours included, so that its cost
//! is the same for all.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::Context;

use super::timed;
use crate::{command, workspace};

/// Which cgroup tree is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// The machine's own.
    Host,
    /// Only v2, on `/sys/fs/cgroup`.
    V2,
    /// Only v1.
    V1,
}

impl View {
    /// What to call a program that sees this tree.
    pub(super) fn label(self, program: &str) -> String {
        match self {
            Self::Host => program.to_owned(),
            Self::V2 => format!("{program} (v2)"),
            Self::V1 => format!("{program} (v1)"),
        }
    }

    /// `self` on a hybrid host, and the host's own tree elsewhere.
    pub(super) fn where_hybrid(self) -> Self {
        if Path::new("/sys/fs/cgroup/unified/cgroup.controllers").exists() {
            self
        } else {
            Self::Host
        }
    }

    fn preparation(self) -> &'static str {
        match self {
            Self::Host => "true",
            Self::V2 => "umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup",
            Self::V1 => "umount -l /sys/fs/cgroup/unified",
        }
    }
}

/// Where runtimes keep what they know of their containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    /// The machine's own `/run`.
    Host,
    /// One of its own in memory, as most machines have it: where it is on a disk, a crowd waits for that.
    Memory,
}

impl Run {
    fn preparation(self) -> &'static str {
        match self {
            Self::Host => "true",
            Self::Memory => "mount -t tmpfs -o mode=755 none /run",
        }
    }
}

/// The shell.
#[derive(Debug)]
pub(super) struct Shell {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

/// Of one line of shell.
const LIMIT: Duration = Duration::from_secs(60);

/// The answer is one line: the exit code, and what was said on standard error if it is not 0. That goes through a file,
/// because a container that goes on would hold a pipe open. The shell makes no process of its own where all goes well:
/// what it takes would be counted as everybody's.
const SERVE: &str = r#"
errors=$(mktemp)
exec 3<>"$errors"
rm "$errors"
errors=/proc/self/fd/3
while read -r line; do
    eval "$line" >/dev/null 2>"$errors" </dev/null
    code=$?
    if [ $code = 0 ]; then echo 0; else echo $code $(cat "$errors"); fi
done
"#;

/// Serves where it is.
const STAY: &str = r#"exec sh -c "$1""#;
/// Serves in another root: `$2` is the root, `$3` where things are built. A root that can be pivoted away from is a mount.
const ENTER: &str = r#"
mount --bind "$2" "$2" && cd "$2" && mkdir -p proc sys dev run tmp etc ".$3" &&
for directory in proc sys dev run tmp; do mount --rbind "/$directory" "$directory" || exit; done &&
mount --bind "$3" ".$3" && exec chroot "$2" sh -c "$1"
"#;
/// Length of a tick of the times in /proc (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

impl Shell {
    /// Starts a shell in a private mount namespace with its view; with `root` in that, which sees this machine's
    /// files of `SHARED` and what is built here.
    pub(super) fn start(view: View, run: Run, root: Option<&Path>) -> anyhow::Result<Self> {
        let mut unshare = command::as_root("unshare");
        let script = format!(
            "{} && {} && {}",
            run.preparation(),
            view.preparation(),
            if root.is_some() { ENTER } else { STAY }
        );
        unshare.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh", SERVE]);
        if let Some(root) = root {
            unshare.arg(root).arg(workspace::target_dir());
        }
        let mut child = unshare
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start unshare")?;
        let input = child.stdin.take().context("standard input is a pipe")?;
        let output = child.stdout.take().context("standard output is a pipe")?;
        let answers = lines(output);
        let mut shell = Self { child, input, answers };
        shell.run("true")?;
        Ok(shell)
    }

    /// Runs a line of shell; what it prints on standard output is dropped.
    pub(super) fn run(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.input, "{line}").context("write to the shell")?;
        let answer = self
            .answers
            .recv_timeout(LIMIT)
            .with_context(|| format!("{line}: no end within {LIMIT:?}"))?;
        let (code, error) = answer.split_once(' ').unwrap_or((&answer, ""));
        anyhow::ensure!(code == "0", "{line} ended with {code}: {error}");
        Ok(())
    }

    /// The CPU time of all that has ended in it.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let (_, fields) = text.rsplit_once(')').with_context(|| format!("parse {path}"))?;
        // cutime and cstime, the 16th and 17th of proc_pid_stat(5); what follows the name begins with the third.
        let ticks = fields.split_whitespace().skip(13).take(2).map(str::parse::<u32>);
        let ticks: u32 = ticks.sum::<Result<_, _>>().with_context(|| format!("parse {path}"))?;
        Ok(TICK * ticks)
    }

    /// How long a line takes.
    pub(super) fn time(&mut self, line: &str) -> anyhow::Result<Duration> {
        timed(|| self.run(line))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
