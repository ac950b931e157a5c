//! The containers of the pod and their execs: the book that the shim keeps of its children. It starts and ends none.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::logs::Log;
use super::output::Output;
use super::poller::Token;
use crate::container::Created;
use crate::proto::{ContainerKey, ContainerState, ExecId, ExecState, ExitRecord, LogCounters, Status};

/// How many containers a shim keeps, the exited ones that nobody has deleted included.
pub(super) const CONTAINER_LIMIT: usize = 64;
/// How many execs may run in a pod at once.
pub(super) const EXEC_LIMIT: usize = 64;
/// How many ended execs of a container stay in the list, the last ones.
const ENDED_EXEC_LIMIT: usize = 32;

/// A container, from its creation to its deletion.
#[derive(Debug)]
pub(super) struct Container {
    /// What the list says of it; counters and execs included.
    pub(super) state: ContainerState,
    /// What there is to it while something of it lives or may still speak.
    pub(super) live: Option<Live>,
    /// An exit that could not be recorded yet, and so has not been reported either.
    pub(super) unrecorded: Option<ExitRecord>,
}

/// What a living container holds.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) process: Process,
    /// Its terminal, for resizing.
    pub(super) terminal: Option<OwnedFd>,
    pub(super) outputs: Vec<Output>,
    pub(super) log: Log,
    /// The count of [`super::oom::kills`] before it was created.
    pub(super) oom_kills: u64,
    pub(super) execs: Vec<Exec>,
}

/// A container's first process.
#[derive(Debug)]
pub(super) enum Process {
    /// Set up, waiting for its start.
    Waiting(Created),
    /// Runs the program.
    Running(OwnedFd),
    /// Has ended; streams that somebody else holds open are closed at this time.
    Ended(Instant),
}

/// An exec that runs.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) exec_id: ExecId,
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    /// Its terminal, for resizing; only while its client is there, so that it is hung up when the client goes.
    pub(super) terminal: Option<OwnedFd>,
    /// The client that started it, while it is connected.
    pub(super) owner: Option<Token>,
}

/// Which child of the shim a process id is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Child {
    /// The first process of a container.
    Init(ContainerKey),
    /// An exec in a container.
    Exec(ContainerKey, ExecId),
}

impl Container {
    /// An ended container that an earlier shim of this pod has left on record.
    pub(super) fn ended(state: ContainerState) -> Self {
        Self {
            state,
            live: None,
            unrecorded: None,
        }
    }

    /// Whether its first process has not ended yet.
    pub(super) fn is_alive(&self) -> bool {
        self.live
            .as_ref()
            .is_some_and(|live| !matches!(live.process, Process::Ended(_)))
    }

    /// What the list says of it now.
    pub(super) fn listed(&self) -> ContainerState {
        let log = self.live.as_ref().map_or(self.state.log, |live| live.log.counters());
        ContainerState {
            log,
            ..self.state.clone()
        }
    }

    /// Closes the log when nobody can write to it any more.
    pub(super) fn settle(&mut self) {
        let Some(live) = &self.live else { return };
        let is_over = matches!(live.process, Process::Ended(_)) && live.outputs.is_empty() && live.execs.is_empty();
        if is_over {
            self.state.log = live.log.counters();
            self.live = None;
        }
    }

    /// Enters an exec that was started.
    pub(super) fn begin_exec(&mut self, exec: Exec) {
        self.state.execs.push(ExecState {
            exec_id: exec.exec_id.clone(),
            pid: exec.pid,
            exit_code: None,
        });
        if let Some(live) = &mut self.live {
            live.execs.push(exec);
        }
    }

    /// Enters the end of an exec; forgets the oldest ended ones beyond the limit.
    pub(super) fn end_exec(&mut self, exec_id: &ExecId, exit_code: i32) {
        if let Some(live) = &mut self.live {
            live.execs.retain(|exec| exec.exec_id != *exec_id);
        }
        if let Some(listed) = self.state.execs.iter_mut().find(|exec| exec.exec_id == *exec_id) {
            listed.exit_code = Some(exit_code);
        }
        let ended = self.state.execs.iter().filter(|exec| exec.exit_code.is_some()).count();
        let mut surplus = ended.saturating_sub(ENDED_EXEC_LIMIT);
        self.state.execs.retain(|exec| {
            let goes = exec.exit_code.is_some() && surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
        self.settle();
    }
}

/// The containers of the pod.
#[derive(Debug, Default)]
pub(super) struct Children {
    pub(super) containers: BTreeMap<ContainerKey, Container>,
}

impl Children {
    /// Whether a first process of any container has not ended yet.
    pub(super) fn any_alive(&self) -> bool {
        self.containers.values().any(Container::is_alive)
    }

    /// Which child this process is; an orphan that the kernel gave us is none.
    pub(super) fn find(&self, pid: u32) -> Option<Child> {
        self.containers.iter().find_map(|(key, container)| {
            let live = container.live.as_ref()?;
            if container.is_alive() && container.state.pid == Some(pid) {
                return Some(Child::Init(key.clone()));
            }
            let exec = live.execs.iter().find(|exec| exec.pid == pid)?;
            Some(Child::Exec(key.clone(), exec.exec_id.clone()))
        })
    }

    /// Every running exec.
    pub(super) fn execs(&mut self) -> impl Iterator<Item = &mut Exec> {
        self.containers
            .values_mut()
            .filter_map(|container| container.live.as_mut())
            .flat_map(|live| &mut live.execs)
    }

    /// Lets go of what a client held that is gone: its execs run on, without terminal and without owner.
    pub(super) fn disown(&mut self, client: Token) {
        for exec in self.execs().filter(|exec| exec.owner == Some(client)) {
            exec.owner = None;
            exec.terminal = None;
        }
    }

    /// When the next stream is to be closed that somebody holds open after its container's end.
    pub(super) fn next_close(&self) -> Option<Instant> {
        let lives = self.containers.values().filter_map(|container| container.live.as_ref());
        let times = lives
            .filter(|live| !live.outputs.is_empty())
            .filter_map(|live| match live.process {
                Process::Ended(close_at) => Some(close_at),
                Process::Waiting(_) | Process::Running(_) => None,
            });
        times.min()
    }

    /// Whether an exit waits to be recorded.
    pub(super) fn any_unrecorded(&self) -> bool {
        self.containers.values().any(|container| container.unrecorded.is_some())
    }
}

/// Counters and status for a container that is about to be made.
pub(super) fn new_state(create: &crate::proto::Create, now: crate::proto::UnixNanos) -> ContainerState {
    ContainerState {
        key: ContainerKey {
            container: create.container.clone(),
            attempt: create.attempt,
        },
        status: Status::Created,
        pid: None,
        pid_start_time: 0,
        created_at: now,
        started_at: None,
        cgroup: create.cgroup.clone(),
        log_path: create.log_path.clone(),
        unenforced: Vec::new(),
        exit: None,
        log: LogCounters::default(),
        execs: Vec::new(),
    }
}
