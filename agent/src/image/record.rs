//! What the store keeps on disk about an image, and how small files get there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::reference::Reference;
use super::store::StoreError;

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

/// Writes a file so that after a crash there is the old one, or the new one in full. `temporary` is on the same file
/// system, and nobody else's.
pub(super) fn write_durably(path: &Path, bytes: &[u8], temporary: &Path) -> Result<(), StoreError> {
    let write = || -> io::Result<()> {
        let mut file = File::create(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(temporary, path)?;
        sync_directory(path.parent().unwrap_or(path))
    };
    write().map_err(|source| StoreError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

/// Makes renames into and out of the directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
