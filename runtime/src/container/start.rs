//! `start`: lets a created container execute the user's program.

use std::io;
use std::os::fd::OwnedFd;

use super::create::Created;
use super::error::StartError;

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
        drop(self.channel);
        Err(StartError::Wake(io::ErrorKind::Unsupported.into()))
    }
}
