//! The cgroup of who makes a container, which a container without one of its own stays in.

use std::fs;
use std::path::PathBuf;

use crate::cgroup;
use crate::proc::cgroup_path;

/// The cgroup that this process is in, and its children if nothing else is said (cgroups(7), `/proc/self/cgroup`).
pub(super) fn of_this_process() -> Option<PathBuf> {
    let list = fs::read_to_string("/proc/self/cgroup").ok()?;
    Some(cgroup::root().ok()?.join(cgroup_path(&list)?))
}
