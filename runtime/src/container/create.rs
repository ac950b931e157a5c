//! `create`: a process with everything set up, which waits to be started.

use std::io;
use std::os::fd::OwnedFd;

use super::error::CreateError;
use super::{CreateRequest, SingleThreaded};

/// A container whose process has done all of its set-up and waits for [`Created::start`].
///
/// Dropping it ends the waiting process, which the owner of the pidfd has still to reap.
#[derive(Debug)]
pub struct Created {
    /// Process id of the container's init, as this process sees it.
    pub pid: u32,
    /// The same process; readable when it has ended.
    pub pidfd: OwnedFd,
    /// Master of the container's terminal.
    pub terminal: Option<OwnedFd>,
    /// What the spec asks for and this host can't enforce, one sentence each.
    pub unenforced: Vec<String>,
    /// Wakes the process; its end says that the exec succeeded.
    pub(super) channel: OwnedFd,
}

/// Creates a container from `request`. Its process waits for [`Created::start`].
pub fn create(_token: &SingleThreaded, _request: CreateRequest<'_>) -> Result<Created, CreateError> {
    Err(CreateError::Host {
        action: "create a container".into(),
        source: io::ErrorKind::Unsupported.into(),
    })
}
