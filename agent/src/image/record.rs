//! What the store keeps on disk about an image.

use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::reference::Reference;

/// One image by one name: `images/<sha256 of the name>.json`. Names can be longer than file names may be.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) reference: Reference,
    /// What the reference resolved to: an index or a manifest.
    pub(super) digest: Digest,
    /// The manifest for this machine's platform.
    pub(super) manifest: Digest,
    /// The configuration, kept in `blobs/sha256`.
    pub(super) config: Digest,
    /// The chain ids of the layers, the lowest first.
    pub(super) layers: Vec<Digest>,
    /// Bytes as transferred.
    pub(super) size: u64,
}

impl Record {
    pub(super) fn path(images: &Path, reference: &Reference) -> PathBuf {
        images.join(format!("{}.json", Digest::of(reference.to_string().as_bytes()).hex()))
    }
}
