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

/// The pid of `process` as this process sees it (`Pid:` of proc_pid_fdinfo(5)); none when it has ended and been waited
/// for, or is in a pid namespace out of sight.
pub(crate) fn pid_of(process: BorrowedFd<'_>) -> Option<u32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).ok()?;
    crate::proc::pid_of_pidfd(&info)
}

/// A copy of the descriptor `number` of `process`
/// ([pidfd_getfd(2)](https://man7.org/linux/man-pages/man2/pidfd_getfd.2.html)).
pub(crate) fn pidfd_getfd(process: BorrowedFd<'_>, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only and returns a new descriptor.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    Ok(super::returned_fd(result)?)
}
