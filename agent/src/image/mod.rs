//! Images: their names, where they come from (a registry, a layout, an archive), how their layers get onto disk safely,
//! and the directories that containers write to above them.
//!
//! Nothing here mounts: an image is a list of unpacked directories, and the overlay over them is made by the runtime in
//! the container's own mount namespace. Everything from outside is hostile until its digest says otherwise, and its
//! contents stay hostile after that.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use agent::image::{PullOptions, Reference, SnapshotId, Store};
//!
//! let store = Store::open("/var/lib/orlop".as_ref())?;
//! let name: Reference = "busybox:1.36".parse()?;
//! let image = match store.resolve(&name) {
//!     Some(image) => image,
//!     None => store.pull(&name, &PullOptions::default()).await?,
//! };
//! let id = SnapshotId::new("0b5f…", "web", 0)?;
//! let snapshot = store.create_snapshot(&id, &image)?;
//! println!("mount {:?} with upper {:?}", snapshot.lower, snapshot.upper);
//! # Ok(())
//! # }
//! ```

mod accounts;
mod archive;
mod attributes;
mod auth;
mod digest;
mod disk;
mod entry;
mod flight;
mod http;
mod layer;
mod load;
mod manifest;
mod parents;
mod pax;
mod problem;
mod pull;
mod record;
mod reference;
mod registry;
mod session;
mod snapshot;
mod store;
mod unpack;
mod view;

use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;

pub use accounts::{Accounts, AccountsError};
pub use archive::ArchiveError;
pub use digest::{Digest, DigestError};
pub use entry::{EntryError, NameError};
pub use http::HttpError;
pub use layer::{LayerError, Limits};
pub use load::{LoadError, Source};
pub use manifest::{ManifestError, Platform};
pub use pax::PaxError;
pub use problem::UnpackError;
pub use pull::{Credentials, PullError, PullOptions};
pub use reference::{Reference, ReferenceError};
pub use registry::RegistryError;
pub use snapshot::{Snapshot, SnapshotId};
pub use store::{Store, StoreError};

/// An image that is wholly on this node, its layers unpacked.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The name it was pulled or loaded by.
    pub reference: Reference,
    /// What the name resolved to: the digest of the index or manifest that the registry served, or of the manifest that
    /// was loaded.
    pub digest: Digest,
    /// The digest of the configuration: docker's image id.
    pub id: Digest,
    /// The image's configuration: entrypoint, environment, user, …
    pub config: ImageConfiguration,
    /// The unpacked layers, topmost first, at least one: ready for overlay's `lowerdir`.
    pub layers: Vec<PathBuf>,
    /// Names of the stacks of layers, the lowest first: equal names are the same directories.
    pub chain_ids: Vec<Digest>,
    /// Bytes of the configuration and the layers as they were transferred.
    pub size: u64,
}

impl Image {
    /// `registry/repository@sha256:…`, what a pod's status shows as `imageID`.
    pub fn repo_digest(&self) -> String {
        format!("{}@{}", self.reference.name(), self.digest)
    }
}
