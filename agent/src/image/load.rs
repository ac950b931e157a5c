//! Loads images from a layout or an archive: spool, find, check each layer, unpack, record. All of it blocks, so all of
//! it runs in one blocking task.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::{Archive, ArchiveError, Found, LayerMember};
use super::digest::{Digest, Hasher};
use super::disk::Temporary;
use super::layer::{self, Cancel, LayerError};
use super::manifest::{self, Platform};
use super::record::Record;
use super::store::{Inner, Pin, Store, StoreError};
use super::{Image, Reference};

/// Where an image is loaded from.
pub enum Source {
    /// An OCI layout directory, an OCI archive or a `docker save` archive, the archives optionally gzip or zstd.
    Path(PathBuf),
    /// The bytes of such an archive, which are spooled into the store first.
    Stream(Box<dyn Read + Send>),
}

/// Why a load failed. Nothing of the image at fault stays in the store.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The archive or layout can't be read or isn't acceptable.
    #[error("load images")]
    Archive(#[from] ArchiveError),
    /// The archive can't be opened or spooled.
    #[error("read the archive {}", .0.display())]
    Spool(PathBuf, #[source] io::Error),
    /// An image carries no name and none was given.
    #[error("image {0} carries no usable name; give one")]
    Nameless(Digest),
    /// One name for several images.
    #[error("a name was given, but there are {0} images for this machine instead of one")]
    NotOne(usize),
    /// A layer isn't what its descriptor says.
    #[error("layer {name} has the digest {actual}, its manifest says {expected}")]
    Digest {
        /// Where it lies.
        name: String,
        /// In the manifest.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A layer isn't acceptable, or can't be unpacked.
    #[error("unpack layer {name}")]
    Layer {
        /// Where it lies.
        name: String,
        /// What is wrong.
        source: LayerError,
    },
    /// The store failed, not the archive.
    #[error("store a loaded image")]
    Store(#[from] StoreError),
}

impl Store {
    /// Loads the images of a layout or an archive. `name` overrides the names they carry and is needed when they carry
    /// none; with `name`, there must be exactly one image.
    pub async fn load(&self, source: Source, name: Option<&Reference>) -> Result<Vec<Arc<Image>>, LoadError> {
        let (inner, name) = (self.0.clone(), name.cloned());
        let cancel = CancelOnDrop(Cancel::default());
        let flag = cancel.0.clone();
        let loaded = tokio::task::spawn_blocking(move || {
            let loaded = load(&inner, source, name.as_ref(), &flag);
            let swept = inner.sweep().map_err(LoadError::Store);
            loaded.and_then(|images| swept.map(|()| images))
        });
        loaded
            .await
            .unwrap_or_else(|error| Err(LoadError::Store(StoreError::Task(error))))
    }
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn load(
    inner: &Arc<Inner>,
    source: Source,
    name: Option<&Reference>,
    cancel: &Cancel,
) -> Result<Vec<Arc<Image>>, LoadError> {
    let archive = open(inner, source)?;
    let platform = Platform::host();
    let found = archive.images(&platform)?;
    if name.is_some() && found.len() != 1 {
        return Err(LoadError::NotOne(found.len()));
    }
    let mut images = Vec::new();
    for mut found in found {
        if let Some(name) = name {
            found.names = vec![name.clone()];
        }
        images.extend(
            Loading {
                inner,
                archive: &archive,
                cancel,
            }
            .image(&found, &platform)?,
        );
    }
    Ok(images)
}

/// A directory and an uncompressed archive are read where they are; what else comes is spooled first.
fn open(inner: &Inner, source: Source) -> Result<Archive, LoadError> {
    let path = match source {
        Source::Stream(reader) => return spool(inner, "from its stream".as_ref(), reader),
        Source::Path(path) if path.is_dir() => return Ok(Archive::directory(&path)?),
        Source::Path(path) => path,
    };
    let failed = |error| LoadError::Spool(path.clone(), error);
    let mut file = File::open(&path).map_err(failed)?;
    let is_plain = file.metadata().map_err(failed)?.is_file() && !layer::is_compressed(&mut file).map_err(failed)?;
    if is_plain {
        Ok(Archive::tar(file)?)
    } else {
        spool(inner, &path, Box::new(file))
    }
}

/// Decompresses into a file of our own.
fn spool(inner: &Inner, path: &Path, reader: Box<dyn Read + Send>) -> Result<Archive, LoadError> {
    let failed = |error| LoadError::Spool(path.to_owned(), error);
    let temporary = Temporary(inner.temporary());
    let reader = layer::decompress(BufReader::with_capacity(128 << 10, reader)).map_err(failed)?;
    write(reader, &temporary.0, inner.limits.bytes).map_err(failed)?;
    // Open, the file lasts as long as it is needed; by name, no longer than this.
    Ok(Archive::tar(File::open(&temporary.0).map_err(failed)?)?)
}

fn write(reader: impl Read, path: &Path, limit: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let count = io::copy(&mut reader.take(limit.saturating_add(1)), &mut file)?;
    if count > limit {
        Err(io::Error::other(format!("it has more than {limit} bytes")))
    } else {
        Ok(())
    }
}

struct Loading<'a> {
    inner: &'a Arc<Inner>,
    archive: &'a Archive,
    cancel: &'a Cancel,
}

impl Loading<'_> {
    fn image(&self, found: &Found, platform: &Platform) -> Result<Vec<Arc<Image>>, LoadError> {
        let parsed = manifest::diff_ids(&found.config, found.layers.len(), platform);
        let diff_ids = parsed.map_err(ArchiveError::Manifest)?;
        let id = Digest::of(&found.config);
        if found.names.is_empty() {
            return Err(LoadError::Nameless(id));
        }
        let chain = manifest::chain_ids(&diff_ids);
        let _pin = Pin::new(self.inner, chain.iter().chain([&id]).cloned().collect());
        let mut size = found.config.len() as u64;
        for (index, member) in found.layers.iter().enumerate() {
            size = size.saturating_add(self.layer(member, &diff_ids[index], &chain[..=index])?);
        }
        let record = |name: &Reference| Record {
            reference: name.clone(),
            digest: found.digest.clone(),
            manifest: found.digest.clone(),
            config: id.clone(),
            layers: chain.clone(),
            size,
        };
        let add = |name| {
            self.inner
                .add_image(record(name), &found.config)
                .map_err(LoadError::Store)
        };
        found.names.iter().map(add).collect()
    }

    /// Unpacks the last layer of `chain` unless it is here; returns its size in the archive.
    fn layer(&self, member: &LayerMember, diff_id: &Digest, chain: &[Digest]) -> Result<u64, LoadError> {
        let opened = self.archive.open(&member.name)?;
        let (reader, size) = opened.ok_or_else(|| ArchiveError::Missing(member.name.clone()))?;
        let id = chain.last().expect("a layer's chain has at least the layer itself");
        let _turn = self.inner.unpacks.blocking_turn(id);
        if self.inner.has_layer(id) {
            return Ok(size);
        }
        let temporary = Temporary(self.inner.temporary());
        let actual = copy(reader, &temporary.0).map_err(|error| LoadError::Spool(member.name.clone().into(), error))?;
        if let Some(descriptor) = member
            .descriptor
            .as_ref()
            .filter(|descriptor| descriptor.digest != actual)
        {
            let (name, expected) = (member.name.clone(), descriptor.digest.clone());
            return Err(LoadError::Digest { name, expected, actual });
        }
        let blob = File::open(&temporary.0).map_err(|error| LoadError::Spool(temporary.0.clone(), error))?;
        let added = self.inner.add_layer(blob, diff_id, chain, self.cancel.clone());
        added.map_err(|source| LoadError::Layer {
            name: member.name.clone(),
            source,
        })?;
        Ok(size)
    }
}

/// Copies to a file of our own, which nobody changes between the check and the use.
fn copy(mut from: impl Read, path: &Path) -> io::Result<Digest> {
    let mut file = File::create(path)?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                file.write_all(&buffer[..count])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
