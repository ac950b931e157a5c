//! System calls that no crate wraps the way we need them: one file per group, one function per man page.
//!
//! The only home of `unsafe` in this crate. Functions that the child calls between `clone3` and `execve` neither
//! allocate nor panic; they say so in their docs.
#![expect(
    unsafe_code,
    reason = "the one home of system calls; every block answers its contract"
)]

pub(crate) mod fork;
pub mod pidfd;
pub mod pty;
pub(crate) mod socket;
pub mod thread;
pub(crate) mod wait;
