//! setrlimit(2) for every resource by its number; nix knows only some.

use nix::errno::Errno;

/// Sets both limits of `resource` ([setrlimit(2)](https://man7.org/linux/man-pages/man2/setrlimit.2.html)).
pub(crate) fn setrlimit(resource: i32, soft: u64, hard: u64) -> nix::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let none = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: reads one initialised rlimit64; the old value is not asked for.
    Errno::result(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, none) }).map(drop)
}

/// Raises the hard limit of process `pid` to `hard` and leaves the soft one; nothing happens when it is as high already.
pub(crate) fn raise_hard_limit(pid: u32, resource: i32, hard: u64) -> nix::Result<()> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let none = std::ptr::null::<libc::rlimit64>();
    // SAFETY: writes one rlimit64; no new value is given.
    Errno::result(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, none, &raw mut limit) })?;
    if limit.rlim_max >= hard {
        return Ok(());
    }
    limit.rlim_max = hard;
    let none = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: reads one initialised rlimit64; the old value is not asked for.
    Errno::result(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, none) }).map(drop)
}
