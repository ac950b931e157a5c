//! clone3(2): the one place where a process is made.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::thread::SingleThreaded;

/// The new process, as its parent sees it.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
}

/// `CLONE_INTO_CGROUP` of linux/sched.h; libc has it in a type that is too small.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Whose child the new process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    /// Ours.
    Us,
    /// Our own parent's (`CLONE_PARENT`).
    Ours,
}

/// Makes a process that runs `child` in a copy of this one's memory, in new namespaces by `namespaces` (`CLONE_NEW*`)
/// and born in `cgroup` ([clone3(2)](https://man7.org/linux/man-pages/man2/clone3.2.html)).
///
/// The process ends where `child` returns. It should neither allocate nor take locks: the token shows that no other
/// thread could hold one, but what it changes in its copy of memory is lost work.
pub(crate) fn clone3(
    token: &SingleThreaded,
    namespaces: libc::c_int,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce(),
) -> nix::Result<Child> {
    clone3_for(token, Parent::Us, namespaces, cgroup, child)
}

/// As [`clone3`], for a `parent`. Of a child of our parent the pid is as we see it, which may not be as our parent does.
pub(crate) fn clone3_for(
    _token: &SingleThreaded,
    parent: Parent,
    namespaces: libc::c_int,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce(),
) -> nix::Result<Child> {
    let mut pidfd: libc::c_int = -1;
    let flags = libc::CLONE_PIDFD | namespaces;
    // A child of our parent takes over the signal that our own end sends.
    let (parent_flag, exit_signal) = match parent {
        Parent::Us => (0, libc::SIGCHLD),
        Parent::Ours => (libc::CLONE_PARENT, 0),
    };
    let flags = flags | parent_flag;
    // SAFETY: clone_args is plain integers; zero means "not used" for each of them.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(flags.cast_unsigned());
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = u64::from(exit_signal.unsigned_abs());
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: args and pidfd live across the call and its size is given. Without CLONE_VM the child has its own copy of
    // memory, as after fork(2); the token shows that this process has no other thread, whose locks it would inherit.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    let pid = u32::try_from(Errno::result(pid)?).map_err(|_| Errno::EOVERFLOW)?;
    if pid == 0 {
        child();
        exit_now(0)
    }
    // SAFETY: the kernel stored a new descriptor there (CLONE_PIDFD); nobody else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}

/// Ends this process at once, without destructors or exit handlers: those belong to the parent.
pub(crate) fn exit_now(code: libc::c_int) -> ! {
    // SAFETY: _exit(2) touches no memory and does not return.
    unsafe { libc::_exit(code) }
}
