//! waitid(2) for any child, without reaping it.

use std::io;

use nix::errno::Errno;

/// The process id of a child that has ended and was not yet waited for; it remains so.
/// `None` when there is none ([waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html) with `P_ALL`, `WNOWAIT`).
///
/// nix's `waitid` can't be used here: it fails for a child that was killed by a real-time signal.
pub(crate) fn ended_child() -> io::Result<Option<u32>> {
    // SAFETY: siginfo_t is plain data, for which zeros are valid; they mean "no child" to the reader below.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is a siginfo_t of ours that lives across the call.
    match Errno::result(unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) }) {
        // SAFETY: waitid has filled in the fields of SIGCHLD, or left the zeros.
        Ok(_) => Ok(u32::try_from(unsafe { info.si_pid() }).ok().filter(|pid| *pid != 0)),
        Err(Errno::ECHILD) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Reaps a child that has ended, whatever it ended with; nothing happens when it has not, or is no child of ours.
pub(crate) fn reap(pid: u32) {
    let none = std::ptr::null_mut();
    // SAFETY: a null siginfo is allowed and means that the status is of no interest.
    unsafe { libc::waitid(libc::P_PID, pid, none, libc::WEXITED | libc::WNOHANG) };
}
