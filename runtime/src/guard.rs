//! The guards against known attacks, by name, so that a test build can leave one out.
//!
//! A test of an attack is worth something only if the attack works without the guard. A build with the feature `weaken`
//! leaves out the guard that `ORLOP_WEAKEN` names; the same test must then see the attack succeed. In every other build
//! [`Guard::is_out`] is `false` when compiled, and nothing of this is left.

/// One guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Guard {
    /// The host's root is detached before any path of the container is looked up or made (CVE-2021-30465, CVE-2019-18837,
    /// CVE-2024-45310).
    DetachedHost = 1,
    /// /proc, /sys and /dev are mounted on real directories (CVE-2019-19921, CVE-2023-27561, CVE-2025-54867).
    RealDirectories,
    /// Paths are looked up within the root and without the magic links of /proc (CVE-2024-21626).
    ResolvedInside,
    /// No descriptor of the runtime or its caller reaches the container (CVE-2024-21626).
    ClosedDescriptors,
    /// The runtime runs from a read-only file (CVE-2019-5736).
    SealedProgram,
    /// What hides a masked file is the host's null device (CVE-2025-31133).
    TrustedNull,
    /// The kernel's settings are written through a procfs that is mounted nowhere (CVE-2025-52881).
    DetachedProc,
    /// A process inherits no capability that the spec does not say (CVE-2022-29162, CVE-2025-27612).
    PlainCapabilities,
    /// A process that joins a container gets the container's seccomp filter.
    FilteredExec,
    /// Devices that no rule allows are denied (GHSA-g54h-m393-cpwq).
    DeniedDevices,
    /// Who is in a container can't look into the process that joins it (CVE-2016-9962).
    UndumpableJoin,
    /// Without a cgroup namespace a user namespace sees its cgroup read-only (CVE-2023-25809).
    ReadOnlyCgroup,
    /// A terminal is known by its master, not by a path (CVE-2025-52565).
    TerminalOfMaster,
    /// The name of a container is no path.
    PlainNames,
    /// Nothing is allocated between clone and exec, where another thread's lock would be held for ever.
    QuietChild,
}

impl Guard {
    /// Whether this build was told to do without.
    #[cfg(not(feature = "weaken"))]
    pub const fn is_out(self) -> bool {
        false
    }

    /// Whether this build was told to do without.
    #[cfg(feature = "weaken")]
    pub fn is_out(self) -> bool {
        weak::OUT.load(std::sync::atomic::Ordering::Relaxed) == self as u32
    }
}

#[cfg(feature = "weaken")]
pub use weak::leave_out;

#[cfg(feature = "weaken")]
mod weak {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Guard;

    /// Read in the child too, which may not allocate: so a number, and 0 for none.
    pub(super) static OUT: AtomicU32 = AtomicU32::new(0);

    const ALL: [Guard; 15] = [
        Guard::DetachedHost,
        Guard::RealDirectories,
        Guard::ResolvedInside,
        Guard::ClosedDescriptors,
        Guard::SealedProgram,
        Guard::TrustedNull,
        Guard::DetachedProc,
        Guard::PlainCapabilities,
        Guard::FilteredExec,
        Guard::DeniedDevices,
        Guard::UndumpableJoin,
        Guard::ReadOnlyCgroup,
        Guard::TerminalOfMaster,
        Guard::PlainNames,
        Guard::QuietChild,
    ];

    /// Leaves the guard out that has this name, for instance `DetachedHost`, from now on; false when none has it.
    pub fn leave_out(name: &str) -> bool {
        let guard = ALL.into_iter().find(|guard| format!("{guard:?}") == name);
        OUT.store(guard.map_or(0, |guard| guard as u32), Ordering::Relaxed);
        guard.is_some()
    }
}
