//! What happens when a child ends: its last words into the log, its exit on record, and only then the news.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::children::{Child, Container, Process};
use super::output::Progress;
use super::serve::{Shim, now};
use super::{oom, record, report};
use crate::cgroup::Cgroup;
use crate::container::Exit;
use crate::proto::{ContainerKey, Event, ExecId, ExitReason, ExitRecord, Status, UnixNanos};
use crate::sys;

/// How many ended children are handled in one turn of the loop.
const TURN: usize = 256;

/// How long streams stay open that somebody holds after their container's end. Its own last words are in the log by
/// then; this is for processes that are being killed.
const LINGER: Duration = Duration::from_secs(2);

impl Shim {
    /// Handles children that have ended, known ones and orphans. Tells whether there may be more.
    pub(super) fn reap(&mut self) -> bool {
        for _ in 0..TURN {
            match sys::wait::ended_child() {
                Ok(Some(ended)) => self.end_child(ended.pid),
                Ok(None) => return false,
                Err(error) => {
                    report("look for ended children", &error);
                    return false;
                }
            }
        }
        true
    }

    fn end_child(&mut self, pid: u32) {
        match self.children.find(pid) {
            Some(Child::Init(key)) => self.end_init(&key),
            Some(Child::Exec(key, exec_id)) => self.end_exec(&key, &exec_id),
            None => {}
        }
        // An orphan, or one whose exit could not be read: it must not come up again.
        sys::wait::reap(pid);
    }

    fn end_init(&mut self, key: &ContainerKey) {
        let finished_at = now();
        let Some(container) = self.children.containers.get_mut(key) else {
            return;
        };
        if let Some(cgroup) = &container.state.cgroup
            && let Err(error) = Cgroup::at(cgroup).kill()
        {
            report("end the rest of a container", &error);
        }
        self.drain(key);
        let Some(container) = self.children.containers.get_mut(key) else {
            return;
        };
        let Some(live) = &container.live else { return };
        let exit = match &live.process {
            Process::Waiting(created) => Exit::try_wait(created.pidfd.as_fd()),
            Process::Running(pidfd) => Exit::try_wait(pidfd.as_fd()),
            Process::Ended(_) => return,
        };
        let kills = oom::kills(container.state.cgroup.as_deref());
        let exit = match exit {
            Ok(Some(exit)) => exit_record(container, exit, oom::explains(exit, live.oom_kills, kills), finished_at),
            Ok(None) | Err(_) => unreadable_exit(container, finished_at),
        };
        self.conclude(key, exit);
    }

    /// Enters the end of a container's first process: on record first, then in the list and to the subscribers.
    pub(super) fn conclude(&mut self, key: &ContainerKey, exit: ExitRecord) {
        let Some(container) = self.children.containers.get_mut(key) else {
            return;
        };
        if let Some(live) = &mut container.live {
            live.process = Process::Ended(Instant::now() + LINGER);
            live.terminal = None;
        }
        container.unrecorded = Some(exit);
        container.settle();
        self.record(key);
    }

    /// Tries again to record exits that could not be recorded.
    pub(super) fn record_again(&mut self) {
        let keys: Vec<ContainerKey> = self.children.containers.keys().cloned().collect();
        for key in keys {
            self.record(&key);
        }
    }

    fn record(&mut self, key: &ContainerKey) {
        let Some(container) = self.children.containers.get_mut(key) else {
            return;
        };
        let Some(exit) = container.unrecorded.take() else {
            return;
        };
        match record::write_exit(&self.dir, key, &exit) {
            Ok(()) => {}
            // Somebody has removed the directory: there is no record to wait for any more.
            Err(error) if error.is_not_found() => report("record an exit", &error),
            Err(error) => {
                report("record an exit, will try again", &error);
                container.unrecorded = Some(exit);
                return;
            }
        }
        container.state.status = Status::Exited;
        container.state.exit = Some(exit.clone());
        self.broadcast(&Event::Exited { key: key.clone(), exit });
    }

    fn end_exec(&mut self, key: &ContainerKey, exec_id: &ExecId) {
        let Some(container) = self.children.containers.get_mut(key) else {
            return;
        };
        let execs = container.live.as_ref().map_or(&[][..], |live| &live.execs);
        let Some(exec) = execs.iter().find(|exec| exec.exec_id == *exec_id) else {
            return;
        };
        let exit_code = match Exit::try_wait(exec.pidfd.as_fd()) {
            Ok(Some(exit)) => i32::from(exit.shell_code()),
            Ok(None) | Err(_) => UNREADABLE,
        };
        container.end_exec(exec_id, exit_code);
        self.broadcast(&Event::ExecExited {
            key: key.clone(),
            exec_id: exec_id.clone(),
            exit_code,
        });
    }

    /// Moves what a container has said by now into its log; streams that nobody else holds end here.
    pub(super) fn drain(&mut self, key: &ContainerKey) {
        let Some(live) = self
            .children
            .containers
            .get_mut(key)
            .and_then(|container| container.live.as_mut())
        else {
            return;
        };
        let now = now();
        for mut output in std::mem::take(&mut live.outputs) {
            match output.drain(now, &mut live.log, &mut self.scratch) {
                Progress::Ended => self.poller.remove(&output, output.token),
                Progress::Read(_) | Progress::Empty => live.outputs.push(output),
            }
        }
    }

    /// Closes a container's streams, whoever else may hold them.
    pub(super) fn close_outputs(&mut self, key: &ContainerKey) {
        let Some(container) = self.children.containers.get_mut(key) else {
            return;
        };
        if let Some(live) = &mut container.live {
            for mut output in std::mem::take(&mut live.outputs) {
                output.end(now(), &mut live.log, &mut self.scratch);
                self.poller.remove(&output, output.token);
            }
        }
        container.settle();
    }

    /// Closes the streams of containers that ended longer than [`LINGER`] ago.
    pub(super) fn close_overdue(&mut self, now: Instant) {
        let is_overdue = |container: &Container| {
            let process = container.live.as_ref().map(|live| &live.process);
            matches!(process, Some(Process::Ended(close_at)) if *close_at <= now)
        };
        let containers = self
            .children
            .containers
            .iter()
            .filter(|(_, container)| is_overdue(container));
        let keys: Vec<ContainerKey> = containers.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.close_outputs(&key);
        }
    }
}

/// The exit code for an end that nobody can tell anything of, as containerd has it.
const UNREADABLE: i32 = 255;

fn exit_record(container: &Container, exit: Exit, oom_killed: bool, finished_at: UnixNanos) -> ExitRecord {
    let signal = match exit {
        Exit::Code(_) => None,
        Exit::Signal(signal) => Some(signal),
    };
    let reason = match exit {
        _ if oom_killed => ExitReason::OomKilled,
        Exit::Code(0) => ExitReason::Completed,
        Exit::Code(_) | Exit::Signal(_) => ExitReason::Error,
    };
    ExitRecord {
        exit_code: exit.shell_code().into(),
        signal,
        started_at: container.state.started_at,
        finished_at,
        oom_killed,
        reason,
        message: String::new(),
    }
}

fn unreadable_exit(container: &Container, finished_at: UnixNanos) -> ExitRecord {
    ExitRecord {
        exit_code: UNREADABLE,
        reason: ExitReason::Error,
        message: "the exit status could not be read".into(),
        ..exit_record(container, Exit::Code(u8::MAX), false, finished_at)
    }
}
