//! Descriptors by number: dup3(2), `F_DUPFD_CLOEXEC`, close_range(2).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// Makes `number` a copy of `fd` that is closed by exec ([dup3(2)](https://man7.org/linux/man-pages/man2/dup3.2.html)).
///
/// Only for the child, which owns every number and never returns to what thinks it owned it. They must differ.
pub(crate) fn dup3_cloexec(fd: BorrowedFd<'_>, number: RawFd) -> nix::Result<()> {
    // SAFETY: touches no memory; what was open as `number` is closed, which the caller answers for.
    let result = unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) };
    Errno::result(result).map(drop)
}

/// A copy of `fd` with the lowest free number from `first` on, closed by exec
/// ([fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html), `F_DUPFD_CLOEXEC`).
pub fn duplicate_from(fd: BorrowedFd<'_>, first: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: touches no memory and returns a new descriptor.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, first) };
    super::returned_fd(libc::c_long::from(result))
}

/// Closes the copy of `fd` that a child has inherited.
///
/// Only for the child, which never returns to what thinks it owned it.
pub(crate) fn close_inherited(fd: BorrowedFd<'_>) {
    // SAFETY: touches no memory; the caller does not use the descriptor afterwards.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// Closes every descriptor from `first` on ([close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html)).
///
/// Only for the child, which never returns to what thinks it owned them.
pub(crate) fn close_from(first: RawFd) -> nix::Result<()> {
    // SAFETY: touches no memory; the caller uses none of the closed descriptors afterwards.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    Errno::result(result).map(drop)
}

/// Lends the descriptor `number` for as long as the process lives.
///
/// Only for the child, for a number that it has itself put in place with [`dup3_cloexec`].
pub(crate) fn fixed(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the caller has just placed an open file at this number and never closes it.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Whether this process has inherited descriptor `number`: it is open and exec would not close it.
pub fn is_inherited(number: u32) -> bool {
    let Ok(number) = RawFd::try_from(number) else {
        return false;
    };
    // SAFETY: touches no memory; a number that is not open is an error.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}
