//! System calls that no crate wraps the way we need them: one file per group, one function per man page.
//!
//! The only home of `unsafe` in this crate. What the child calls between `clone3` and `execve` neither allocates nor
//! panics; `nix` is used there only for functions of which the same is true (`CStr` paths are passed through).
#![expect(
    unsafe_code,
    reason = "the one home of system calls; every block answers its contract"
)]

pub mod allocator;
pub mod fd;
pub mod memory;
pub mod pidfd;
pub mod pty;
pub mod seal;
pub mod socket;
pub mod thread;
pub mod wait;

pub(crate) mod bpf;
pub(crate) mod capability;
pub(crate) mod channel;
pub(crate) mod clone;
pub(crate) mod directory;
pub(crate) mod exec;
pub(crate) mod fork;
pub(crate) mod mount;
pub(crate) mod namespace;
pub(crate) mod rlimit;
pub(crate) mod schedule;
pub(crate) mod seccomp;
pub(crate) mod signal;
pub(crate) mod stopwatch;
pub(crate) mod xattr;

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;

/// The descriptor that a system call has just returned, or its error.
fn returned_fd(result: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = libc::c_int::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: callers pass the result of a system call that returns a new descriptor, which nobody else owns yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
