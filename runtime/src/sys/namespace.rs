//! setns(2) and unshare(2), which nix has too, but behind functions that are banned for threaded callers.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::thread::SingleThreaded;

/// Enters the namespaces `kinds` (`CLONE_NEW*`) of `file`, a namespace file or a pidfd
/// ([setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html)). For the child, which has one thread by birth.
pub(crate) fn setns(file: BorrowedFd<'_>, kinds: libc::c_int) -> nix::Result<()> {
    // SAFETY: takes integers and touches no memory of ours.
    Errno::result(unsafe { libc::setns(file.as_raw_fd(), kinds) }).map(drop)
}

/// Lets the next children be born in the pid namespace of `file`; this process itself stays where it is.
pub(crate) fn set_children_pid_namespace(_token: &SingleThreaded, file: BorrowedFd<'_>) -> nix::Result<()> {
    setns(file, libc::CLONE_NEWPID)
}

/// Leaves the namespaces `kinds` for new ones ([unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html)).
/// For the child, which has one thread by birth.
pub(crate) fn unshare(kinds: libc::c_int) -> nix::Result<()> {
    // SAFETY: takes an integer and touches no memory of ours.
    Errno::result(unsafe { libc::unshare(kinds) }).map(drop)
}

/// Gives this process an anonymous session keyring of its own
/// ([keyctl(2)](https://man7.org/linux/man-pages/man2/keyctl.2.html)).
pub(crate) fn join_new_session_keyring() -> nix::Result<()> {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name is allowed and means a new anonymous keyring.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::c_long::from(libc::KEYCTL_JOIN_SESSION_KEYRING),
            anonymous,
        )
    };
    Errno::result(result).map(drop)
}

/// Sets the host name of this UTS namespace
/// ([sethostname(2)](https://man7.org/linux/man-pages/man2/sethostname.2.html)).
pub(crate) fn sethostname(name: &std::ffi::CStr) -> nix::Result<()> {
    // SAFETY: the pointer is good for count_bytes bytes.
    Errno::result(unsafe { libc::sethostname(name.as_ptr(), name.count_bytes()) }).map(drop)
}

/// Sets the NIS domain name of this UTS namespace
/// ([setdomainname(2)](https://man7.org/linux/man-pages/man2/setdomainname.2.html)).
pub(crate) fn setdomainname(name: &std::ffi::CStr) -> nix::Result<()> {
    // SAFETY: the pointer is good for count_bytes bytes.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr(), name.count_bytes()) }).map(drop)
}

/// `IFF_UP` of linux/if.h, in the type that the request has.
const IFF_UP: libc::c_short = 1;

/// In the type that the C library's ioctl has for it.
const SET_FLAGS: libc::Ioctl = libc::SIOCSIFFLAGS as libc::Ioctl;

/// Brings the loopback device of this network namespace up
/// ([netdevice(7)](https://man7.org/linux/man-pages/man7/netdevice.7.html)).
pub(crate) fn bring_loopback_up() -> nix::Result<()> {
    // SAFETY: takes integers and returns a new descriptor.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let socket = super::returned_fd(libc::c_long::from(socket))?;
    // SAFETY: ifreq is plain data for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = IFF_UP;
    // SAFETY: the request is an initialised ifreq, which is what this ioctl reads.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), SET_FLAGS, &raw const request) }).map(drop)
}
