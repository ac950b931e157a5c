//! `start`: lets a created container execute the user's program.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::create::Created;
use super::error::{StartError, StepError};
use super::launch::{end, receive, say};
use crate::report::{LEAVE, Report, START};
use crate::sys::stopwatch::{Lap, lap};

/// A container's process that runs the user's program.
#[derive(Debug)]
pub struct Running {
    /// Process id as this process sees it.
    pub pid: u32,
    /// The same process; readable when it has ended. [`super::Exit::wait`] reaps it.
    pub pidfd: OwnedFd,
    /// Master of its terminal.
    pub terminal: Option<OwnedFd>,
    /// What was asked for and can't be enforced on this host, one sentence each.
    pub unenforced: Vec<String>,
}

impl Created {
    /// Lets the process execute the user's program; returns once it has, or with the reason why it could not.
    pub fn start(self) -> Result<Running, StartError> {
        if let Err(error) = self.wake() {
            end(self.pidfd.as_fd());
            return Err(error);
        }
        lap(Lap::STARTED);
        Ok(Running {
            pid: self.pid,
            pidfd: self.pidfd,
            terminal: self.terminal,
            unenforced: self.unenforced,
        })
    }

    /// Lets the process wait at its gate, where it stays when its parent goes. Only for one that was given a gate.
    pub(super) fn leave(&self) -> Result<(), StartError> {
        say(self.channel.as_fd(), LEAVE).map_err(|errno| StartError::Wake(errno.into()))
    }

    fn wake(&self) -> Result<(), StartError> {
        if !self.is_told {
            say(self.channel.as_fd(), START).map_err(|errno| {
                if errno == Errno::EPIPE {
                    StartError::Died
                } else {
                    StartError::Wake(errno.into())
                }
            })?;
        }
        match receive(self.channel.as_fd()).map_err(StartError::Wake)? {
            // Exec closed the other end. So did the process's end, if something killed it just now: that exit is as
            // good as one of the user's program.
            (None, _) => Ok(()),
            (Some(Report::Failed { step, errno }), _) => Err(StartError::Exec(self.step_error(step, errno))),
            (Some(Report::Ready | Report::Terminal | Report::Hooks | Report::Born | Report::Listener { .. }), _) => {
                Err(StartError::Died)
            }
        }
    }

    fn step_error(&self, step: u32, errno: Errno) -> StepError {
        let found = self.steps.iter().find(|(number, _)| *number == step);
        let (action, field) = found.map_or_else(|| ("start".into(), "process".into()), |(_, step)| step.clone());
        StepError {
            action,
            field,
            source: errno.into(),
        }
    }
}
