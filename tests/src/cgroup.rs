//! The cgroup v2 hierarchy of this machine, pure or hybrid.

use std::path::{Path, PathBuf};

/// The root of the v2 hierarchy: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid host.
pub fn cgroup_root() -> PathBuf {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        root.to_owned()
    } else {
        root.join("unified")
    }
}

/// The controllers that the v2 hierarchy has, for instance `memory`; none where there is no v2 hierarchy.
pub fn cgroup_controllers() -> Vec<String> {
    let text = std::fs::read_to_string(cgroup_root().join("cgroup.controllers")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Kills what runs in `dir` and below and removes the tree; a tree that is gone already is fine.
pub(crate) fn remove_tree(dir: &Path) {
    let _ = std::fs::write(dir.join("cgroup.kill"), "1");
    for _ in 0..100 {
        if remove_bottom_up(dir) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn remove_bottom_up(dir: &Path) -> bool {
    for child in subdirectories(dir) {
        remove_bottom_up(&child);
    }
    let _ = std::fs::remove_dir(dir);
    !dir.exists()
}

/// The cgroups right below `dir`.
pub(crate) fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
