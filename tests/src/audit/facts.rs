//! Gathers the facts of a scope, one line of text for each: processes, mounts, cgroups, pins, files and networks.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Scope, network, process};
use crate::cgroup::subdirectories;
use crate::scratch::INPUT;

impl Scope<'_> {
    /// Everything in the scope, as sorted lines that name the kind first.
    pub(super) fn facts(&self) -> BTreeSet<String> {
        let mut facts = BTreeSet::new();
        let inodes: Vec<_> = self.namespaces.iter().map(|namespace| namespace.inode()).collect();
        facts.extend(process::processes(self.scratch.id(), &inodes, self.is_machine));
        facts.extend(self.mounts());
        facts.extend(self.cgroups());
        facts.extend(tree(&self.scratch.bpf_path(), &|_| false).map(|path| format!("pinned object {path}")));
        let is_ignored = |path: &str| path == INPUT || self.ignored.iter().any(|ignored| path == ignored);
        facts.extend(tree(self.scratch.dir(), &is_ignored).map(|path| format!("file {path}")));
        for namespace in &self.namespaces {
            facts.extend(
                namespace
                    .run(network::facts)
                    .map(|fact| format!("netns {}: {fact}", namespace.inode())),
            );
        }
        if self.is_machine {
            facts.extend(network::facts());
            facts.extend(process::namespaces());
            facts.extend(programs());
            // The test's own directory is the harness's to remove; what is in it has been counted above.
            let is_own = |path: &str| path == self.scratch.id();
            facts.extend(tree(Path::new("/sys/fs/bpf"), &is_own).map(|path| format!("pinned object {path}")));
        }
        facts
    }

    /// Mounts of this process's mount namespace: those that carry the id, or all.
    fn mounts(&self) -> Vec<String> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let lines = table
            .lines()
            .filter(|line| self.is_machine || line.contains(self.scratch.id()));
        lines.map(|line| format!("mount {line}")).collect()
    }

    fn cgroups(&self) -> Vec<String> {
        let root = crate::cgroup_root();
        let mut found = Vec::new();
        collect_cgroups(&root, &mut found);
        let own = |path: &String| self.is_machine || path.contains(self.scratch.id());
        found
            .into_iter()
            .filter(own)
            .map(|path| format!("cgroup {path}"))
            .collect()
    }
}

fn collect_cgroups(dir: &Path, found: &mut Vec<String>) {
    for child in subdirectories(dir) {
        found.push(child.display().to_string());
        collect_cgroups(&child, found);
    }
}

/// Paths below `dir`, relative to it; nothing when `dir` is missing. `is_ignored` cuts whole subtrees.
fn tree(dir: &Path, is_ignored: &dyn Fn(&str) -> bool) -> impl Iterator<Item = String> {
    let mut found = Vec::new();
    collect_tree(dir, dir, is_ignored, &mut found);
    found.into_iter()
}

fn collect_tree(base: &Path, dir: &Path, is_ignored: &dyn Fn(&str) -> bool, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let relative = path
            .strip_prefix(base)
            .expect("an entry is below its directory")
            .display()
            .to_string();
        if is_ignored(&relative) {
            continue;
        }
        found.push(relative);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_tree(base, &path, is_ignored, found);
        }
    }
}

/// BPF programs that the kernel holds; the kernel frees them some time after their last user is gone.
fn programs() -> Vec<String> {
    let loaded = aya::programs::loaded_programs().flatten();
    loaded
        .map(|program| format!("bpf program {} {:?}", program.id(), program.name_as_str()))
        .collect()
}
