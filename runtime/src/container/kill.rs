//! `kill`: a signal to a container's process.

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::pidfd::pidfd_send_signal;

/// Sends `signal` (its number, real-time ones too) to one process of a container.
///
/// Every process of a container is ended by [`crate::cgroup::Cgroup::kill`].
pub fn kill(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    pidfd_send_signal(process, signal)
}
