//! What a container is doing, as the kernel tells it.

use std::fmt;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::Named;
use crate::cgroup::Cgroup;

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is being made, or who made it was killed meanwhile.
    Creating,
    /// It waits to be started.
    Created,
    /// It runs its program.
    Running,
    /// All of it is stopped for a while.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl Status {
    /// The word of the specification.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl Named {
    /// What it is doing now.
    pub fn status(&self) -> Status {
        match self.record.init {
            None => Status::Creating,
            Some(init) if !init.is_alive() => Status::Stopped,
            Some(_) if self.is_frozen() => Status::Paused,
            Some(_) if self.waits() => Status::Created,
            Some(_) => Status::Running,
        }
    }

    fn is_frozen(&self) -> bool {
        self.record
            .cgroup
            .as_ref()
            .is_some_and(|path| Cgroup::at(path).is_frozen())
    }

    /// Whether its process waits at the gate. That process has the pipe open until it executes the program, and nobody
    /// else has: a pipe without a reader can't be opened for writing (fifo(7)).
    fn waits(&self) -> bool {
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        open(&self.start_pipe(), flags, Mode::empty()).is_ok()
    }
}
