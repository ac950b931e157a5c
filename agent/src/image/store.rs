//! The image store below the agent's state directory, and the ways images get into it and out.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Image, Reference, Snapshot, SnapshotId};

/// A handle on the store; clones share it. Methods that aren't `async` read or write files and may block briefly.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    dir: PathBuf,
}

/// How to reach a registry.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Talk plain HTTP to the registry. A registry on a loopback address is always talked to in plain HTTP.
    pub insecure_http: bool,
    /// Sent to the registry's token server over HTTPS, or to the registry itself if it asks for basic authentication.
    pub credentials: Option<Credentials>,
    /// A transfer that brings less than 4 KiB in this time is given up.
    pub stall: Duration,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            insecure_http: false,
            credentials: None,
            stall: Duration::from_secs(30),
        }
    }
}

/// A user of a registry.
#[derive(Clone)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The password or access token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Where an image is loaded from.
pub enum Source {
    /// An OCI layout directory, an OCI archive or a `docker save` archive, the archives optionally gzip or zstd.
    Path(PathBuf),
    /// The bytes of such an archive; spooled into the store first.
    Stream(Box<dyn io::Read + Send>),
}

/// Why the store can't be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("image store {} is in use by another agent", .0.display())]
    InUse(PathBuf),
    /// A file operation failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What we did.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A pod uid, container name or image layer that can't name a directory, or no longer does.
    #[error("{0}")]
    Invalid(String),
}

/// Why a pull failed. Nothing of it stays in the store.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The store failed, not the registry.
    #[error("store image {reference}")]
    Store {
        /// The image that was pulled.
        reference: Reference,
        /// What failed.
        source: StoreError,
    },
}

/// Why a load failed. Nothing of it stays in the store.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store failed, not the archive.
    #[error("store a loaded image")]
    Store(#[source] StoreError),
}

impl Store {
    /// Opens the store in `dir` and makes it if need be, locks it against other agents, and removes what a killed
    /// pull, load or removal left behind. Blocks.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(|source| StoreError::Io {
            action: "make",
            path: dir.into(),
            source,
        })?;
        Ok(Self(Arc::new(Inner { dir: dir.to_owned() })))
    }

    /// The image of that name if it is here. A name with a digest is also found under another tag of its repository.
    /// Only memory is read.
    pub fn resolve(&self, _reference: &Reference) -> Option<Arc<Image>> {
        None
    }

    /// All images, by name.
    pub fn list(&self) -> Vec<Arc<Image>> {
        Vec::new()
    }

    /// Fetches the image from its registry, whether or not it is here already; layers that are here are not fetched
    /// again. Pulls of the same content wait for each other. Dropping the future stops the pull.
    pub async fn pull(&self, reference: &Reference, _options: &PullOptions) -> Result<Arc<Image>, PullError> {
        let source = StoreError::Invalid(format!("pulling into {} is not built yet", self.0.dir.display()));
        Err(PullError::Store {
            reference: reference.clone(),
            source,
        })
    }

    /// Loads the images of a layout or an archive. `name` overrides the names they carry and is needed when they carry
    /// none; with `name`, there must be exactly one image.
    pub async fn load(&self, _source: Source, _name: Option<&Reference>) -> Result<Vec<Arc<Image>>, LoadError> {
        Err(LoadError::Store(StoreError::Invalid(
            "loading is not built yet".to_owned(),
        )))
    }

    /// Forgets the image and deletes the layers that no other image and no container uses; `false` if there is no such
    /// image.
    pub async fn remove(&self, _reference: &Reference) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Makes the directories that a container writes to, above the image's layers; the same again if they exist.
    /// The layers stay until the snapshot is removed. Blocks.
    pub fn create_snapshot(&self, id: &SnapshotId, _image: &Image) -> Result<Snapshot, StoreError> {
        Err(StoreError::Invalid(format!("snapshot {id} can't be made yet")))
    }

    /// Deletes what a container wrote; nothing to do if it is not there. The container must be gone. Blocks.
    pub fn remove_snapshot(&self, _id: &SnapshotId) -> Result<(), StoreError> {
        Ok(())
    }

    /// All snapshots, in the order of their ids. Blocks.
    pub fn snapshots(&self) -> Result<Vec<SnapshotId>, StoreError> {
        Ok(Vec::new())
    }
}
