//! Execs: further processes in a running container.
//!
//! Their streams go to the client and the shim keeps no end of them, so an exec sees end of file, a broken pipe or a
//! hang-up when its client goes. It is not killed then: as with kubectl, a process that wants to run on may. Such
//! processes are bounded by [`EXEC_LIMIT`]: when it is reached, the oldest one without a client makes room.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::answer::{Answer, checked, failure, refuse, send};
use super::children::{EXEC_LIMIT, Exec, Live, Process};
use super::create::{StreamError, create_failure, failed, pipe};
use super::poller::Token;
use super::record;
use super::serve::Shim;
use crate::container::{self, ExecError, Manner, SingleThreaded, Stdio};
use crate::proto::{self, ContainerKey, ExecId, Failure, FailureKind, Reply, Stream};
use crate::spec::Spec;

/// The child's ends, and ours with what they are.
type Ends = (Stdio, Vec<(Stream, OwnedFd)>);

impl Shim {
    /// Starts an exec for a client.
    pub(super) fn exec(&mut self, client: Token, exec: proto::Exec) -> Answer {
        let proto::Exec {
            key,
            exec_id,
            process,
            stdin,
        } = exec;
        self.check_exec(&key, &exec_id)?;
        self.make_room()?;
        let spec = record::container_dir(&self.dir, &key).join("config.json");
        let spec: Spec = record::read(&spec).map_err(failed)?;
        let token = SingleThreaded::prove().map_err(failed)?;
        let is_terminal = process.terminal().unwrap_or(false);
        let (stdio, mut ends) = ends(is_terminal, stdin).map_err(|error| failed(StreamError(error)))?;
        let cgroup = self.container(&key)?.state.cgroup.clone();
        let Process::Running(pidfd) = &self.live(&key)?.process else {
            return Err(refuse(FailureKind::State, "the container does not run"));
        };
        let target = container::Target {
            unit: None,
            follows_init: true,
            pidfd: pidfd.as_fd(),
            cgroup: cgroup.as_deref(),
            groups: &[],
            spec: &spec,
            who: None,
        };
        let running = container::exec(&token, target, &process, stdio, Manner::default())
            .map_err(|error| exec_failure(&error))?;
        let terminal = running.terminal.map(|master| (master.try_clone(), master));
        let terminal = match terminal {
            Some((copy, master)) => {
                ends.push((Stream::Terminal, master));
                // Without the copy the terminal can't be resized, and that is all.
                copy.ok()
            }
            None => None,
        };
        let reply = Reply::Exec {
            pid: running.pid,
            streams: ends.iter().map(|(stream, _)| *stream).collect(),
        };
        let exec = Exec {
            exec_id,
            pid: running.pid,
            pidfd: running.pidfd,
            terminal,
            owner: Some(client),
        };
        self.container(&key)?.begin_exec(exec);
        Ok((reply, ends.into_iter().map(|(_, descriptor)| descriptor).collect()))
    }

    fn check_exec(&mut self, key: &ContainerKey, exec_id: &ExecId) -> Result<(), Failure> {
        let container = self.container(key)?;
        if container.state.execs.iter().any(|exec| exec.exec_id == *exec_id) {
            return Err(refuse(FailureKind::Exists, format!("an exec {exec_id} exists")));
        }
        match container.live.as_ref().map(|live| &live.process) {
            Some(Process::Running(_)) => Ok(()),
            Some(Process::Waiting(_) | Process::Ended(_)) | None => {
                Err(refuse(FailureKind::State, "the container does not run"))
            }
        }
    }

    fn make_room(&mut self) -> Result<(), Failure> {
        if self.children.execs().count() < EXEC_LIMIT {
            return Ok(());
        }
        match self.children.execs().find(|exec| exec.owner.is_none()) {
            Some(oldest) => send(oldest.pidfd.as_fd(), libc::SIGKILL),
            None => Err(refuse(
                FailureKind::Limit,
                format!("{EXEC_LIMIT} execs run in this pod already"),
            )),
        }
    }

    /// Signals an exec; one that has ended needs no signal.
    pub(super) fn signal_exec(&mut self, key: &ContainerKey, exec_id: &ExecId, signal: i32) -> Result<(), Failure> {
        let signal = checked(signal)?;
        let container = self.container(key)?;
        if container
            .state
            .execs
            .iter()
            .any(|exec| exec.exec_id == *exec_id && exec.exit_code.is_some())
        {
            return Ok(());
        }
        send(self.live(key)?.exec(exec_id)?.pidfd.as_fd(), signal)
    }
}

impl Live {
    /// The running exec of this name.
    pub(super) fn exec(&self, exec_id: &ExecId) -> Result<&Exec, Failure> {
        let missing = || refuse(FailureKind::NotFound, format!("no exec {exec_id} runs"));
        self.execs
            .iter()
            .find(|exec| exec.exec_id == *exec_id)
            .ok_or_else(missing)
    }
}

fn ends(is_terminal: bool, wants_stdin: bool) -> io::Result<Ends> {
    if is_terminal {
        return Ok((
            Stdio::Terminal {
                size: None,
                plain_lines: false,
            },
            Vec::new(),
        ));
    }
    let mut ours = Vec::new();
    let stdin = if wants_stdin {
        let (reader, writer) = io::pipe()?;
        ours.push((Stream::Stdin, writer.into()));
        reader.into()
    } else {
        File::open("/dev/null")?.into()
    };
    let (read_stdout, stdout) = pipe()?;
    let (read_stderr, stderr) = pipe()?;
    ours.push((Stream::Stdout, read_stdout.into()));
    ours.push((Stream::Stderr, read_stderr.into()));
    Ok((Stdio::Streams { stdin, stdout, stderr }, ours))
}

fn exec_failure(error: &ExecError) -> Failure {
    let failure = match error {
        ExecError::Create(cause) => Failure {
            kind: create_failure(cause).kind,
            ..failed(error)
        },
        ExecError::Start(_) => failure(FailureKind::Failed, error),
    };
    Failure {
        exit_code: Some(error.exit_code().into()),
        ..failure
    }
}
