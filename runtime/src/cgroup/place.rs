//! Where a container's cgroup is to be. Pure, but for where the tree is mounted.

use std::path::{Component, Path, PathBuf};

use super::systemd::{Scope, SystemdError};
use super::{CgroupError, root};
use crate::plan::FieldError;

/// Where a container's cgroup is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It has none of its own, and stays in its caller's.
    Callers,
    /// This directory, made and removed by us.
    Directory(PathBuf),
    /// A scope, made and removed by systemd.
    Scope(Scope),
}

impl Place {
    /// The directory, unless it is for systemd to choose.
    pub fn directory(&self) -> Option<PathBuf> {
        match self {
            Self::Callers | Self::Scope(_) => None,
            Self::Directory(directory) => Some(directory.clone()),
        }
    }

    /// The directory; for a scope the one that systemd will choose.
    pub fn foreseen(&self) -> Result<Option<PathBuf>, PlaceError> {
        match self {
            Self::Callers | Self::Directory(_) => Ok(self.directory()),
            Self::Scope(scope) => Ok(Some(root()?.join(scope.path()?))),
        }
    }
}

/// Why a place could not be told.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The path of the spec is none.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// There is no cgroup2 tree.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// systemd did not say.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
}

/// The directory for `linux.cgroupsPath`, absolute or not, below the root of the tree; without one a place of our own.
pub fn below_root(asked: Option<&Path>, id: &str) -> Result<PathBuf, PlaceError> {
    Ok(root()?.join(path(asked, id)?))
}

fn path(asked: Option<&Path>, id: &str) -> Result<PathBuf, FieldError> {
    let Some(asked) = asked.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(format!("orlop-oci-{id}").into());
    };
    let refuse = |reason| Err(FieldError::new("linux.cgroupsPath", reason));
    let below: PathBuf = asked
        .components()
        .filter(|part| !matches!(part, Component::RootDir | Component::CurDir))
        .collect();
    if below.components().any(|part| part == Component::ParentDir) {
        return refuse("must not contain \"..\"");
    }
    if below.as_os_str().is_empty() {
        return refuse("must not be the root of the tree");
    }
    Ok(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_the_root() {
        for (asked, place) in [
            (None, Some("orlop-oci-c")),
            (Some(""), Some("orlop-oci-c")),
            (Some("/a/b"), Some("a/b")),
            (Some("a/b"), Some("a/b")),
            (Some("//a/./b/"), Some("a/b")),
            (Some("/"), None),
            (Some("../a"), None),
            (Some("/a/../../b"), None),
        ] {
            let found = path(asked.map(Path::new), "c").ok();
            assert_eq!(found.as_deref(), place.map(Path::new), "{asked:?}");
        }
    }
}
