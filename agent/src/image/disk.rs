//! File operations of the store that say what they did to what, and that leave the whole of something or nothing.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::store::StoreError;

/// Something in `tmp` that goes when it is no longer needed, unless it was renamed away.
pub(super) struct Temporary(pub(super) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            tracing::warn!(path = %self.0.display(), ?error, "leave a temporary file until the store is opened again");
        }
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

/// Images hold setuid programs and devices: nobody but root may come near them.
pub(super) fn make_directory(path: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StoreError::Io {
        action: "make",
        path: path.to_owned(),
        source,
    })
}

pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let read = || {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()
    };
    read().map_err(|source| StoreError::Io {
        action: "list",
        path: directory.to_owned(),
        source,
    })
}

/// Removes a file or a tree, never following links; what isn't there is fine.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_directory {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::Io {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
