//! Processes held by file descriptor: pidfd_open(2) and pidfd_send_signal(2).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

/// Opens process `pid` ([pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html)).
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0) };
    Ok(super::returned_fd(result)?)
}

/// Sends `signal` to the process ([pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html));
/// 0 only asks whether it is still there. `ESRCH` when it has ended and been waited for.
pub fn pidfd_send_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open for the call; a null siginfo is allowed and means what kill(2) sends.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, none, 0) };
    Ok(Errno::result(result).map(drop)?)
}
