//! From a layer's blob to its directory: decompression within limits, the digest of what came out, and the entries.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::digest::{Digest, Hasher};
use super::entry::{self, EntryError};
use super::problem::UnpackError;
use super::unpack::Unpacker;
use super::view::View;

/// How much of anything an image may have.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Entries in one layer.
    pub entries: u64,
    /// Bytes of one layer's tar, uncompressed.
    pub bytes: u64,
    /// A layer may grow to this many times its compressed size …
    pub ratio: u64,
    /// … or to this many bytes, whichever is more.
    pub free_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            bytes: 64 << 30,
            ratio: 200,
            free_bytes: 256 << 20,
        }
    }
}

/// Why a layer was refused.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The blob can't be read or isn't what its first bytes promise.
    #[error("read the layer")]
    Read(#[source] io::Error),
    /// The tar isn't acceptable.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// An entry isn't acceptable where it stands, or can't be made.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Unpacked well, but it can't be put into the store.
    #[error("put the layer into the store")]
    Store(#[source] io::Error),
    /// What came out isn't what the image's configuration says.
    #[error("the layer's content has the digest {actual}, the image's configuration says {expected}")]
    DiffId {
        /// `rootfs.diff_ids` of the configuration.
        expected: Digest,
        /// What was unpacked.
        actual: Digest,
    },
}

/// Tells a running unpack that nobody waits for it any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub(super) fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Unpacks `blob` into the empty directory `root`, above the layers `below`. On failure `root` holds a part of it.
pub(super) fn unpack(
    blob: File,
    diff_id: &Digest,
    root: &Path,
    below: &View,
    limits: &Limits,
    cancel: Cancel,
) -> Result<(), LayerError> {
    let size = blob.metadata().map_err(LayerError::Read)?.len();
    let reader = decompress(BufReader::with_capacity(128 << 10, blob)).map_err(LayerError::Read)?;
    let most = limits
        .bytes
        .min(limits.free_bytes.max(size.saturating_mul(limits.ratio)));
    let mut meter = Meter {
        reader,
        most,
        hasher: Hasher::default(),
        cancel,
    };
    let mut unpacker = Unpacker::new(root, below, limits.entries).map_err(LayerError::Read)?;
    entry::read(&mut meter, |entry, content| {
        unpacker.apply(entry, content).map_err(LayerError::from)
    })?;
    unpacker.finish()?;
    let actual = meter.hasher.finish();
    if actual == *diff_id {
        Ok(())
    } else {
        Err(LayerError::DiffId {
            expected: diff_id.clone(),
            actual,
        })
    }
}

/// Chooses the decompressor by the first bytes, as docker does: media types in the wild are often wrong, and the digest
/// of what comes out decides anyway.
pub(super) fn decompress(mut blob: impl BufRead + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let magic = blob.fill_buf()?;
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(blob)?;
            // 128 MiB, the largest window of `zstd --ultra`; `--long` layers are refused.
            decoder.window_log_max(27)?;
            Box::new(decoder)
        }
        _ => Box::new(blob),
    })
}

/// Whether [`decompress`] would do anything with the file, which is left at its start.
pub(super) fn is_compressed(file: &mut File) -> io::Result<bool> {
    let mut magic = Vec::new();
    file.by_ref().take(4).read_to_end(&mut magic)?;
    file.rewind()?;
    Ok(matches!(magic[..], [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd]))
}

/// Counts and hashes what comes out of the decompressor, and stops it at the limit.
struct Meter {
    reader: Box<dyn Read + Send>,
    most: u64,
    hasher: Hasher,
    cancel: Cancel,
}

impl Read for Meter {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.0.load(Ordering::Relaxed) {
            return Err(io::Error::other("cancelled"));
        }
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        if self.hasher.count() > self.most {
            return Err(io::Error::other(format!(
                "it unpacks to more than the {} bytes allowed for its size",
                self.most
            )));
        }
        Ok(count)
    }
}
