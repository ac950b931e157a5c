//! The cgroup v2 tree: where it is, and one directory of it.
//!
//! Only v2 is driven. On a hybrid host the v2 tree has few controllers or none: then cgroups still group, kill and
//! freeze, and limits that can't be enforced are reported as such.

mod members;

use std::io;
use std::path::{Path, PathBuf};

/// A file of the cgroup tree that could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct CgroupError {
    /// What was tried: `create`, `write "max" to`, …
    pub action: String,
    /// The file or directory.
    pub path: PathBuf,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// Where the cgroup2 filesystem is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid host.
pub fn root() -> Result<PathBuf, CgroupError> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(PathBuf::from)
        .find(|root| root.join("cgroup.controllers").exists())
        .ok_or_else(|| CgroupError {
            action: "find the cgroup2 filesystem below".into(),
            path: "/sys/fs/cgroup".into(),
            source: io::ErrorKind::NotFound.into(),
        })
}

/// One cgroup, by its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup at `path`, an absolute directory in the cgroup2 filesystem; it need not exist.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Kills every process in it and below it (`cgroup.kill`). Nothing happens when it does not exist.
    pub fn kill(&self) -> Result<(), CgroupError> {
        match std::fs::write(self.path.join("cgroup.kill"), "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CgroupError {
                action: "kill every process of".into(),
                path: self.path.clone(),
                source: error,
            }),
            _ => Ok(()),
        }
    }
}
