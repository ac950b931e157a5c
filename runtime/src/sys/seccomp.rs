//! seccomp(2): the filter of system calls that a process can't take off again.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

/// One instruction of classic BPF, as the kernel has it.
pub(crate) type Instruction = libc::sock_filter;

/// Filters every system call of this process and its descendants from here on
/// ([seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html)). Needs no_new_privs or CAP_SYS_ADMIN.
pub(crate) fn set_mode_filter(filter: &[Instruction], flags: libc::c_ulong) -> nix::Result<()> {
    seccomp(filter, flags).map(drop)
}

/// As [`set_mode_filter`]; returns the descriptor by which somebody decides about the calls that the filter asks about
/// (`SECCOMP_FILTER_FLAG_NEW_LISTENER`).
pub(crate) fn set_mode_filter_with_listener(filter: &[Instruction], flags: libc::c_ulong) -> nix::Result<OwnedFd> {
    super::returned_fd(seccomp(filter, flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?)
}

fn seccomp(filter: &[Instruction], flags: libc::c_ulong) -> nix::Result<libc::c_long> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::E2BIG)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the instructions, whose number is given; it does not write to them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    Errno::result(result)
}
