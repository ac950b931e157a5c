//! Extended attributes.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Gives an open file the attribute `name`, or another value of it
/// ([fsetxattr(2)](https://man7.org/linux/man-pages/man2/fsetxattr.2.html)).
pub(crate) fn fsetxattr(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> nix::Result<()> {
    // SAFETY: the name is null-terminated, and the value is good for its length.
    let result = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}
