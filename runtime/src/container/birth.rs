//! The birth of a container's process: in its namespaces and its cgroup, or in one as near to that as there is.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use super::SingleThreaded;
use super::door::{self, Way};
use super::error::{CreateError, host};
use crate::cgroup::Cgroup;
use crate::cgroup::systemd::Unit;
use crate::step::NamespaceFile;
use crate::sys::clone::{Child, clone3};
use crate::sys::namespace::set_children_pid_namespace;

/// What a process is born with.
#[derive(Clone, Copy)]
pub(super) struct Birth<'a> {
    /// Existing namespaces that somebody else has to enter for it.
    pub(super) door: &'a [NamespaceFile],
    /// New ones (`CLONE_NEW*`).
    pub(super) namespaces: libc::c_int,
    /// An existing pid namespace.
    pub(super) pid_namespace: Option<BorrowedFd<'a>>,
    /// The systemd unit that its cgroup belongs to.
    pub(super) unit: Option<Unit<'a>>,
}

impl Birth<'_> {
    /// Makes the process in `cgroup`; in that of the `companion` where that is gone or takes no process any more.
    pub(super) fn give(
        self,
        token: &SingleThreaded,
        cgroup: Option<&Cgroup>,
        companion: impl FnOnce() -> Option<Cgroup>,
        run: impl Fn() + Copy,
    ) -> Result<Child, CreateError> {
        match self.give_in(token, cgroup, run) {
            Err(error) if takes_none(&error) => match companion() {
                Some(other) => self.give_in(token, Some(&other), run),
                None => Err(error),
            },
            born => born,
        }
    }

    fn give_in(
        self,
        token: &SingleThreaded,
        cgroup: Option<&Cgroup>,
        run: impl Fn() + Copy,
    ) -> Result<Child, CreateError> {
        let directory = cgroup.map(Cgroup::open).transpose()?;
        let born = self.clone_in(token, directory.as_ref().map(AsFd::as_fd), run);
        match (born, self.unit, cgroup) {
            (Err(error), Some(unit), Some(cgroup)) if may_not(&error) => {
                let way = Way::Brought(unit, cgroup.path());
                door::clone_through(token, self.door, self.namespaces, way, run)
            }
            (born, ..) => born,
        }
    }

    fn clone_in(
        self,
        token: &SingleThreaded,
        cgroup: Option<BorrowedFd<'_>>,
        run: impl Fn(),
    ) -> Result<Child, CreateError> {
        if !self.door.is_empty() {
            return door::clone_through(token, self.door, self.namespaces, Way::Birth(cgroup), run);
        }
        in_pid_namespace(token, self.pid_namespace, || {
            clone3(token, self.namespaces, cgroup, run).map_err(|errno| host("clone the container's process", errno))
        })
    }
}

/// Whether the cgroup takes no process: it has just been removed, or has turned controllers on for those below it, which
/// is what clone3(2) or systemd says of it.
fn takes_none(error: &CreateError) -> bool {
    match error {
        CreateError::Cgroup(_) | CreateError::Systemd(_) => true,
        CreateError::Host { source, .. } => matches!(source.raw_os_error(), Some(libc::EBUSY | libc::ENODEV)),
        CreateError::CgroupFrozen { .. } => false,
        CreateError::Field(_) | CreateError::Step(_) | CreateError::Hook(_) | CreateError::Died => false,
    }
}

/// What clone3(2) answers for a cgroup that is not ours to put a process into from where we are (cgroups(7), "Delegation
/// containment rules").
fn may_not(error: &CreateError) -> bool {
    matches!(error, CreateError::Host { source, .. } if source.raw_os_error() == Some(libc::EACCES))
}

/// A process can't move to another pid namespace, only its next children can: ours are sent there for one clone.
fn in_pid_namespace<T>(
    token: &SingleThreaded,
    namespace: Option<BorrowedFd<'_>>,
    make: impl FnOnce() -> Result<T, CreateError>,
) -> Result<T, CreateError> {
    let Some(namespace) = namespace else { return make() };
    let own = File::open("/proc/self/ns/pid").map_err(|error| host("open this process's pid namespace", error))?;
    let join = |file| set_children_pid_namespace(token, file).map_err(|errno| host("join the pid namespace", errno));
    join(namespace)?;
    let made = make();
    join(own.as_fd())?;
    made
}
