//! A message with a descriptor over the channel to the parent, sent without allocating.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;

/// Room for one control message with one descriptor, aligned as cmsg(3) wants it.
#[repr(C)]
union Control {
    header: libc::cmsghdr,
    bytes: [u8; 64],
}

/// Size of one descriptor in a control message.
const PASSED_SIZE: u32 = 4;

/// Sends `bytes` and a copy of `passed` as one message
/// ([sendmsg(2)](https://man7.org/linux/man-pages/man2/sendmsg.2.html), `SCM_RIGHTS` of unix(7)).
pub(crate) fn send_with_fd(socket: BorrowedFd<'_>, bytes: &[u8], passed: BorrowedFd<'_>) -> nix::Result<()> {
    let mut control = Control { bytes: [0; 64] };
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: msghdr is plain data for which zeros are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    // The type of a length is the C library's.
    // SAFETY: computes a size; CMSG_SPACE of one int is 24 bytes, well below the 64 of `control`.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(PASSED_SIZE) } as _;
    // SAFETY: msg_control and msg_controllen describe `control`, so this is its start.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: the header is non-null, inside `control` and aligned for it by the union.
    let header = unsafe { &mut *header };
    header.cmsg_level = libc::SOL_SOCKET;
    header.cmsg_type = libc::SCM_RIGHTS;
    // SAFETY: computes a size.
    header.cmsg_len = unsafe { libc::CMSG_LEN(PASSED_SIZE) } as _;
    // SAFETY: points right behind the header, where `control` has room for one descriptor.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: as above; the write need not be aligned.
    unsafe { data.cast::<RawFd>().write_unaligned(passed.as_raw_fd()) };
    // SAFETY: every pointer of the message points to something alive across the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    Errno::result(sent).map(drop)
}
