//! waitid(2). nix's wrapper can't be used: it fails, after reaping, for a child that a real-time signal has killed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// How a child ended, as `siginfo_t` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The child.
    pub(crate) pid: u32,
    /// `CLD_EXITED`, `CLD_KILLED` or `CLD_DUMPED`.
    pub(crate) code: libc::c_int,
    /// The exit code or the signal.
    pub(crate) status: libc::c_int,
}

/// Waits for the end of one child, given by pidfd, and reaps it unless `flags` say otherwise (`WNOWAIT`). `None` when
/// it has not ended, which only happens with `WNOHANG`.
pub(crate) fn wait(child: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<Option<Ended>> {
    waitid(libc::P_PIDFD, child.as_raw_fd().cast_unsigned(), flags)
}

/// A child that has ended and was not yet waited for; it remains so. `None` when there is none.
pub(crate) fn ended_child() -> io::Result<Option<Ended>> {
    match waitid(libc::P_ALL, 0, libc::WNOHANG | libc::WNOWAIT) {
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        ended => ended,
    }
}

/// Reaps every child of this process that has ended, but for `kept`; ends at that one.
pub fn reap_others(kept: u32) {
    while let Ok(Some(ended)) = ended_child() {
        if ended.pid == kept {
            return;
        }
        reap(ended.pid);
    }
}

/// Reaps a child that has ended; nothing happens when it has not, or is no child of ours.
pub(crate) fn reap(pid: u32) {
    let _ = waitid(libc::P_PID, pid, libc::WNOHANG);
}

/// [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html) with `WEXITED`.
fn waitid(kind: libc::idtype_t, id: libc::id_t, flags: libc::c_int) -> io::Result<Option<Ended>> {
    // SAFETY: siginfo_t is plain data, for which zeros are valid; they mean "no child" below.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a siginfo_t of ours that lives across the call.
    Errno::result(unsafe { libc::waitid(kind, id, &raw mut info, flags | libc::WEXITED) })?;
    // SAFETY: waitid has filled in the fields of SIGCHLD, or left the zeros.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0);
    Ok(pid.map(|pid| Ended {
        pid,
        code: info.si_code,
        status,
    }))
}
