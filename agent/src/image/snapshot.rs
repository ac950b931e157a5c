//! What a container writes above its image: overlay's upper and work directories and the mount point.
//!
//! `snapshots/<pod uid>/<container>/<attempt>/{upper,work,root,layers.json}`; a snapshot appears whole by a rename. The
//! overlay itself is mounted by the runtime in the container's mount namespace, never on the host.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, Uid, fchmod, fchown, fstat};

use super::Image;
use super::digest::Digest;
use super::disk::{Temporary, entries, make_directory, remove};
use super::store::{Store, StoreError};

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
                return Err(StoreError::Name(name.to_owned()));
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

    fn path(&self, snapshots: &Path) -> PathBuf {
        snapshots
            .join(&self.pod)
            .join(&self.container)
            .join(self.attempt.to_string())
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

/// The layers that each snapshot stands on.
#[derive(Debug, Default)]
pub(super) struct Uses(BTreeMap<SnapshotId, Vec<Digest>>);

impl Uses {
    pub(super) fn layers(&self) -> impl Iterator<Item = &Digest> {
        self.0.values().flatten()
    }

    /// Reads all snapshots below `snapshots`. One that is damaged is removed: only a crash of the whole machine does
    /// that, and no container outlives it.
    pub(super) fn read(snapshots: &Path) -> Result<Self, StoreError> {
        let mut uses = BTreeMap::new();
        for pod in entries(snapshots)? {
            for container in entries(&pod)? {
                for attempt in entries(&container)? {
                    let layers = fs::read(attempt.join("layers.json")).ok();
                    let layers = layers.and_then(|bytes| serde_json::from_slice(&bytes).ok());
                    match (id_of(&attempt), layers) {
                        (Some(id), Some(layers)) => drop(uses.insert(id, layers)),
                        (None, _) | (_, None) => remove(&attempt)?,
                    }
                }
            }
        }
        Ok(Self(uses))
    }
}

fn id_of(path: &Path) -> Option<SnapshotId> {
    let mut names = path.iter().rev().map(|name| name.to_str());
    let (attempt, container, pod) = (names.next()??, names.next()??, names.next()??);
    SnapshotId::new(pod, container, attempt.parse().ok()?).ok()
}

impl Store {
    /// Makes the directories that a container writes to, above the image's layers; the same again if they exist.
    /// The layers stay until the snapshot is removed, even if the image is removed. Blocks.
    pub fn create_snapshot(&self, id: &SnapshotId, image: &Image) -> Result<Snapshot, StoreError> {
        let path = id.path(&self.0.path("snapshots"));
        // Held throughout, so that a sweep sees the layers unused and gone, or used and here.
        let mut state = self.0.state();
        if let Some(layers) = state.snapshots.0.get(id) {
            return Ok(snapshot(&path, self.0.lower(layers)));
        }
        if !image.chain_ids.iter().all(|chain_id| self.0.has_layer(chain_id)) {
            return Err(StoreError::Gone(image.reference.clone()));
        }
        let temporary = Temporary(self.0.temporary());
        fill(&temporary.0, image)?;
        make_directory(path.parent().unwrap_or(&path))?;
        let rename = fs::rename(&temporary.0, &path);
        rename.map_err(|source| StoreError::Io {
            action: "make",
            path: path.clone(),
            source,
        })?;
        state.snapshots.0.insert(id.clone(), image.chain_ids.clone());
        Ok(snapshot(&path, self.0.lower(&image.chain_ids)))
    }

    /// Deletes what a container wrote; nothing to do if it is not there. The container must be gone. Blocks.
    pub fn remove_snapshot(&self, id: &SnapshotId) -> Result<(), StoreError> {
        let snapshots = self.0.path("snapshots");
        let path = id.path(&snapshots);
        let temporary = Temporary(self.0.temporary());
        {
            let mut state = self.0.state();
            match fs::rename(&path, &temporary.0) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::Io {
                        action: "remove",
                        path,
                        source,
                    });
                }
                _ => {}
            }
            state.snapshots.0.remove(id);
            // The container's and the pod's directories go with their last snapshot; until then they aren't empty.
            for parent in [snapshots.join(&id.pod).join(&id.container), snapshots.join(&id.pod)] {
                let _ = fs::remove_dir(parent);
            }
        }
        remove(&temporary.0)
    }

    /// All snapshots, in the order of their ids.
    pub fn snapshots(&self) -> Vec<SnapshotId> {
        self.0.state().snapshots.0.keys().cloned().collect()
    }
}

fn snapshot(path: &Path, lower: Vec<PathBuf>) -> Snapshot {
    Snapshot {
        lower,
        upper: path.join("upper"),
        work: path.join("work"),
        target: path.join("root"),
    }
}

/// The merged root has the owner and mode of `upper`, so that takes those of the image's root.
fn fill(path: &Path, image: &Image) -> Result<(), StoreError> {
    for directory in ["upper", "work", "root"] {
        make_directory(&path.join(directory))?;
    }
    let copy = || -> io::Result<()> {
        let (from, to) = (File::open(&image.layers[0])?, File::open(path.join("upper"))?);
        let stat = fstat(from.as_fd())?;
        let is_bare = image.chain_ids.is_empty();
        fchown(
            to.as_fd(),
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
        )?;
        Ok(fchmod(
            to.as_fd(),
            Mode::from_raw_mode(if is_bare { 0o755 } else { stat.st_mode & 0o7777 }),
        )?)
    };
    copy().map_err(|source| StoreError::Io {
        action: "make",
        path: path.join("upper"),
        source,
    })?;
    let layers = serde_json::to_vec(&image.chain_ids).expect("digests are strings");
    let written = path.join("layers.json");
    fs::write(&written, layers).map_err(|source| StoreError::Io {
        action: "write",
        path: written,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_one_directory_below_the_store() {
        assert_eq!(
            SnapshotId::new("u-1", "web", 2).unwrap().path("/s".as_ref()),
            Path::new("/s/u-1/web/2")
        );
        for bad in ["", ".", "..", "a/b", ".hidden", "a b", "a\0"] {
            assert!(
                SnapshotId::new(bad, "web", 0).is_err() && SnapshotId::new("uid", bad, 0).is_err(),
                "{bad:?}"
            );
        }
    }
}
