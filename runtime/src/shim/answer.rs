//! What requests mean: each is checked, done and answered at once. Creating is [`super::create`]'s, execs are
//! [`super::exec`]'s.

use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use serde::Deserialize;

use super::children::{Container, Live, Process};
use super::clients::ClientGone;
use super::poller::Token;
use super::record;
use super::serve::Shim;
use crate::cgroup::Cgroup;
use crate::container::kill;
use crate::proto::frame;
use crate::proto::{
    ClientFrame, ContainerKey, ExecId, Failure, FailureKind, NEWEST_VERSION, OLDEST_VERSION, Reply, Request,
    ServerFrame, Welcome,
};
use crate::sys::pidfd::pidfd_open;
use crate::sys::pty::{WindowSize, set_window_size};

/// The highest signal number of Linux.
const LAST_SIGNAL: i32 = 64;

/// A reply and the descriptors that go with it.
pub(super) type Answer = Result<(Reply, Vec<OwnedFd>), Failure>;

/// The only part of a frame that a refusal needs.
#[derive(Deserialize)]
struct Id {
    id: u64,
}

impl Shim {
    /// Answers one frame of a client. A frame without a readable id ends the connection.
    pub(super) fn answer(&mut self, client: Token, json: &[u8]) -> Result<(ServerFrame, Vec<OwnedFd>), ClientGone> {
        let (id, answer) = match frame::decode::<ClientFrame>(json) {
            Ok(ClientFrame { id, request }) => (id, self.perform(client, request)),
            Err(error) => (
                frame::decode::<Id>(json)?.id,
                Err(failure(FailureKind::Malformed, &error)),
            ),
        };
        let (outcome, descriptors) = match answer {
            Ok((reply, descriptors)) => (Ok(reply), descriptors),
            Err(failure) => (Err(failure), Vec::new()),
        };
        Ok((ServerFrame::Reply { id, outcome }, descriptors))
    }

    fn perform(&mut self, client: Token, request: Request) -> Answer {
        let is_welcome = self.clients.get(&client).is_some_and(|client| client.version.is_some());
        if !is_welcome && !matches!(request, Request::Hello { .. }) {
            return Err(refuse(FailureKind::Version, "the first request must be a hello"));
        }
        match request {
            Request::Hello { oldest, newest } => plain(self.hello(client, oldest, newest).map(Reply::Hello)),
            Request::Subscribe => done(self.subscribe(client)),
            Request::List => plain(Ok(self.list())),
            Request::Create(create) => plain(self.create(*create)),
            Request::Start(key) => done(self.start(&key)),
            Request::Signal { key, signal, all } => done(self.signal(&key, signal, all)),
            Request::Delete(key) => done(self.delete(&key)),
            Request::Exec(exec) => self.exec(client, *exec),
            Request::Resize {
                key,
                exec_id,
                rows,
                columns,
            } => done(self.resize(&key, exec_id.as_ref(), WindowSize { rows, columns })),
            Request::SignalExec { key, exec_id, signal } => done(self.signal_exec(&key, &exec_id, signal)),
            Request::ReopenLog(key) => done(self.reopen_log(&key)),
            Request::Shutdown => done(self.shut_down()),
        }
    }

    fn hello(&mut self, client: Token, oldest: u32, newest: u32) -> Result<Welcome, Failure> {
        let version = newest.min(NEWEST_VERSION);
        if version < oldest.max(OLDEST_VERSION) {
            let message = format!(
                "this shim speaks versions {OLDEST_VERSION} to {NEWEST_VERSION}, the client {oldest} to {newest}"
            );
            return Err(refuse(FailureKind::Version, message));
        }
        if let Some(client) = self.clients.get_mut(&client) {
            client.version = Some(version);
        }
        Ok(Welcome {
            version,
            ..self.welcome.clone()
        })
    }

    fn subscribe(&mut self, client: Token) -> Result<(), Failure> {
        if let Some(client) = self.clients.get_mut(&client) {
            client.is_subscribed = true;
        }
        Ok(())
    }

    fn list(&self) -> Reply {
        Reply::Containers(self.children.containers.values().map(Container::listed).collect())
    }

    fn signal(&mut self, key: &ContainerKey, signal: i32, all: bool) -> Result<(), Failure> {
        let signal = checked(signal)?;
        let container = self.container(key)?;
        match &container.state.cgroup {
            Some(cgroup) if all => signal_cgroup(cgroup, signal),
            Some(_) | None => {
                let process = container.live.as_ref().and_then(Live::pidfd);
                process.map_or(Ok(()), |process| send(process, signal))
            }
        }
    }

    /// Ended containers only. What is on disk alone, because an earlier shim left it or the deletion of a container was
    /// cut short, is removed just so.
    fn delete(&mut self, key: &ContainerKey) -> Result<(), Failure> {
        let cgroup = match self.children.containers.get(key) {
            Some(container) if container.is_alive() => {
                return Err(refuse(FailureKind::State, "the container has not ended; kill it first"));
            }
            Some(container) => container.state.cgroup.clone(),
            None => None,
        };
        if let Some(cgroup) = cgroup {
            Cgroup::at(cgroup)
                .remove()
                .map_err(|error| failure(FailureKind::Failed, &error))?;
        }
        record::remove(&self.dir, key).map_err(|error| failure(FailureKind::Failed, &error))?;
        self.close_outputs(key);
        self.children.containers.remove(key);
        Ok(())
    }

    fn resize(&mut self, key: &ContainerKey, exec_id: Option<&ExecId>, size: WindowSize) -> Result<(), Failure> {
        let live = self.live(key)?;
        let terminal = match exec_id {
            None => live.terminal.as_ref(),
            Some(exec_id) => live.exec(exec_id)?.terminal.as_ref(),
        };
        let terminal = terminal.ok_or_else(|| refuse(FailureKind::State, "the process has no terminal"))?;
        set_window_size(terminal.as_fd(), size).map_err(|error| failure(FailureKind::Failed, &error))
    }

    fn reopen_log(&mut self, key: &ContainerKey) -> Result<(), Failure> {
        // An ended container writes no more: its log is as good as reopened.
        let Some(live) = &mut self.container(key)?.live else {
            return Ok(());
        };
        live.log.reopen().map_err(|error| failure(FailureKind::Failed, &error))
    }

    fn shut_down(&mut self) -> Result<(), Failure> {
        if self.children.any_alive() {
            return Err(refuse(FailureKind::State, "a container is alive"));
        }
        self.is_over = true;
        Ok(())
    }

    /// The container of this name.
    pub(super) fn container(&mut self, key: &ContainerKey) -> Result<&mut Container, Failure> {
        let missing = || {
            refuse(
                FailureKind::NotFound,
                format!("no container {} attempt {}", key.container, key.attempt),
            )
        };
        self.children.containers.get_mut(key).ok_or_else(missing)
    }

    /// The container of this name, while something of it lives.
    pub(super) fn live(&mut self, key: &ContainerKey) -> Result<&mut Live, Failure> {
        let ended = || refuse(FailureKind::State, "the container has ended");
        self.container(key)?.live.as_mut().ok_or_else(ended)
    }
}

impl Live {
    /// The first process, until it has ended.
    pub(super) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.process {
            Process::Waiting(created) => Some(created.pidfd.as_fd()),
            Process::Running(pidfd) => Some(pidfd.as_fd()),
            Process::Ended(_) => None,
        }
    }
}

/// Checks a signal number.
pub(super) fn checked(signal: i32) -> Result<i32, Failure> {
    let is_signal = (1..=LAST_SIGNAL).contains(&signal);
    let message = || format!("signal {signal} is not one of 1 to {LAST_SIGNAL}");
    if is_signal {
        Ok(signal)
    } else {
        Err(refuse(FailureKind::Malformed, message()))
    }
}

/// Checks a path that a client names.
pub(super) fn is_plain_absolute(path: &Path) -> bool {
    path.is_absolute()
        && path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// Sends a signal; a process that has just ended needs none.
pub(super) fn send(process: BorrowedFd<'_>, signal: i32) -> Result<(), Failure> {
    match kill(process, signal) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(failure(FailureKind::Failed, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn signal_cgroup(cgroup: &Path, signal: i32) -> Result<(), Failure> {
    let cgroup = Cgroup::at(cgroup);
    if signal == libc::SIGKILL {
        return cgroup.kill().map_err(|error| failure(FailureKind::Failed, &error));
    }
    for pid in cgroup
        .processes()
        .map_err(|error| failure(FailureKind::Failed, &error))?
    {
        // Who ended since the list was read needs no signal. A number that was given anew within this moment can only
        // belong to a process of the same cgroup or to one that the kernel numbered a whole round later.
        if let Ok(process) = pidfd_open(pid) {
            send(process.as_fd(), signal)?;
        }
    }
    Ok(())
}

fn plain(reply: Result<Reply, Failure>) -> Answer {
    reply.map(|reply| (reply, Vec::new()))
}

fn done(result: Result<(), Failure>) -> Answer {
    plain(result.map(|()| Reply::Done))
}

/// A refusal in words of our own.
pub(super) fn refuse(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure {
        kind,
        message: message.into(),
        exit_code: None,
    }
}

/// A failure with the whole chain of its causes.
pub(super) fn failure(kind: FailureKind, error: &dyn Error) -> Failure {
    refuse(kind, chain(error))
}

/// An error and its causes, outermost first.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_clients_must_be_absolute_and_plain() {
        for (path, expected) in [
            ("/a/b", true),
            ("/", true),
            ("a", false),
            ("/a/../b", false),
            ("", false),
        ] {
            assert_eq!(is_plain_absolute(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn signals_are_numbers_of_linux() {
        assert!(checked(15).is_ok() && checked(64).is_ok());
        assert!(checked(0).is_err() && checked(65).is_err() && checked(-9).is_err());
    }
}
