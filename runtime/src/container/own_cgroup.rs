//! The cgroup that a process is in: of who makes a container, which a container without one of its own stays in; or of
//! a container's init.

use std::fs;
use std::path::PathBuf;

use crate::cgroup;
use crate::cgroup::Cgroup;
use crate::proc::cgroup_path;

/// The cgroup that this process is in, and its children if nothing else is said (cgroups(7), `/proc/self/cgroup`).
pub(super) fn of_this_process() -> Option<PathBuf> {
    let list = fs::read_to_string("/proc/self/cgroup").ok()?;
    Some(cgroup::root().ok()?.join(cgroup_path(&list)?))
}

/// The cgroup that another process is in; none if we see it only from the outside (cgroup_namespaces(7)).
pub(super) fn of_process(pid: u32) -> Option<Cgroup> {
    Some(Cgroup::at(cgroup::root().ok()?.join(path_of(pid)?.strip_prefix('/')?)))
}

/// Its path from the root of the tree.
pub(super) fn path_of(pid: u32) -> Option<String> {
    let list = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = cgroup_path(&list).filter(|path| path.split('/').all(|part| part != ".."))?;
    Some(format!("/{path}"))
}
