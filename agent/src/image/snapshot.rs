//! What a container writes above its image: overlay's upper and work directories and the mount point.
//!
//! The overlay itself is mounted by the runtime in the container's mount namespace, never on the host.

use std::fmt;
use std::path::PathBuf;

use super::StoreError;

/// Names one container attempt of a pod: exactly one set of directories.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    pod: String,
    container: String,
    attempt: u32,
}

impl SnapshotId {
    /// The snapshot of `container`'s attempt in the pod with that uid; both must be fit to name a directory.
    pub fn new(pod: &str, container: &str, attempt: u32) -> Result<Self, StoreError> {
        for name in [pod, container] {
            let is_fit = (1..=253).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
                && !name.starts_with('.');
            if !is_fit {
                return Err(StoreError::Invalid(format!(
                    "{name:?} can't name a directory of a snapshot"
                )));
            }
        }
        Ok(Self {
            pod: pod.to_owned(),
            container: container.to_owned(),
            attempt,
        })
    }

    /// The pod's uid.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// The container's name.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// How many times the container was made before.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.pod, self.container, self.attempt)
    }
}

/// The directories of one container's root, for the runtime's `Rootfs::Overlay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The image's layers, topmost first.
    pub lower: Vec<PathBuf>,
    /// Where the container's writes go.
    pub upper: PathBuf,
    /// Overlay's scratch directory, beside `upper`.
    pub work: PathBuf,
    /// An empty directory to mount on.
    pub target: PathBuf,
}
