//! How a process is scheduled: sched_setattr(2), sched_setaffinity(2), ioprio_set(2), set_mempolicy(2), personality(2).

use nix::errno::Errno;

/// What sched_setattr(2) takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SchedulerAttributes {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    /// Nanoseconds, as the two below.
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// `struct sched_attr` of linux/sched/types.h in its first version.
#[repr(C)]
struct KernelAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// `SCHED_ATTR_SIZE_VER0` of linux/sched/types.h.
const SIZE: u32 = 48;
const _: () = assert!(size_of::<KernelAttributes>() == 48);

/// Sets policy and parameters of this process
/// ([sched_setattr(2)](https://man7.org/linux/man-pages/man2/sched_setattr.2.html)).
pub(crate) fn set_scheduler(attributes: &SchedulerAttributes) -> nix::Result<()> {
    let attributes = KernelAttributes {
        size: SIZE,
        policy: attributes.policy,
        flags: attributes.flags,
        nice: attributes.nice,
        priority: attributes.priority,
        runtime: attributes.runtime,
        deadline: attributes.deadline,
        period: attributes.period,
    };
    // SAFETY: reads one sched_attr, whose size stands in it.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// Class and level as one number (`IOPRIO_PRIO_VALUE` of linux/ioprio.h).
pub(crate) const fn io_priority(class: i32, level: i32) -> i32 {
    class << 13 | level
}

/// Sets the I/O priority of this process ([ioprio_set(2)](https://man7.org/linux/man-pages/man2/ioprio_set.2.html)).
pub(crate) fn set_io_priority(priority: i32) -> nix::Result<()> {
    const PROCESS: libc::c_int = 1;
    // SAFETY: takes integers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, 0, priority) }).map(drop)
}

/// Sets the execution domain ([personality(2)](https://man7.org/linux/man-pages/man2/personality.2.html)).
pub(crate) fn set_personality(domain: u32) -> nix::Result<()> {
    // SAFETY: takes an integer only.
    Errno::result(unsafe { libc::personality(domain.into()) }).map(drop)
}

/// Sets from which nodes memory comes; `mode` with its flags, `nodes` as bits
/// ([set_mempolicy(2)](https://man7.org/linux/man-pages/man2/set_mempolicy.2.html)).
pub(crate) fn set_memory_policy(mode: u32, nodes: &[u64]) -> nix::Result<()> {
    let (pointer, bits) = match nodes {
        [] => (std::ptr::null(), 0),
        // The kernel takes one bit less than it is told.
        nodes => (nodes.as_ptr(), nodes.len() * 64 + 1),
    };
    // SAFETY: reads as many bits as the slice has, or none.
    Errno::result(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) }).map(drop)
}

/// Sets the CPUs that this thread runs on
/// ([sched_setaffinity(2)](https://man7.org/linux/man-pages/man2/sched_setaffinity.2.html)).
pub(crate) fn set_affinity(cpus: &[u64]) -> nix::Result<()> {
    // SAFETY: reads the bytes of the slice.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) }).map(drop)
}

/// The CPUs that this thread runs on.
pub(crate) fn affinity() -> nix::Result<Vec<u64>> {
    let mut cpus = vec![0_u64; 8192 / 64];
    let room = size_of_val(cpus.as_slice());
    // SAFETY: writes at most as many bytes as the vector has.
    let written = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, room, cpus.as_mut_ptr()) };
    let written = usize::try_from(Errno::result(written)?).map_err(|_| Errno::EIO)?;
    cpus.truncate(written.div_ceil(size_of::<u64>()));
    Ok(cpus)
}
