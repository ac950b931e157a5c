//! Finds the images in an OCI layout (a directory or a tar of one) or in the archive of `docker save` and its like.
//!
//! An archive is a tar on disk whose members are read where they lie; its names only ever find members, never files.
//! Nothing is believed because of its name: `load.rs` checks every blob against its digest.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::digest::Digest;
use super::entry::{self, EntryError, EntryPath, Kind};
use super::manifest::{self, DOCUMENT_BYTES, Descriptor, Document, Manifest, ManifestError, Platform};
use super::reference::Reference;

/// Members of an archive: far more than 127 layers of many images have.
const MEMBERS: usize = 100_000;
/// Images in one archive.
const IMAGES: usize = 1000;

/// Why an archive or a layout is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file operation failed.
    #[error("read {what}")]
    Read {
        /// What was read: a member or the whole.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The archive is no acceptable tar.
    #[error("read the archive")]
    Tar(#[from] EntryError),
    /// Neither `index.json` nor `manifest.json` is there.
    #[error("it is neither an OCI layout nor a docker archive: it has no index.json and no manifest.json")]
    Unknown,
    /// A member that should be there is not.
    #[error("{0} is missing")]
    Missing(String),
    /// A document that isn't what it should be.
    #[error("read {what}")]
    Json {
        /// The member.
        what: &'static str,
        /// What is wrong and where.
        source: serde_json::Error,
    },
    /// A manifest, index or configuration isn't acceptable.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A document larger than we read, or more of something than we take.
    #[error("{what} has more than {limit} {unit}")]
    TooMuch {
        /// The member, or the whole.
        what: String,
        /// How much is taken.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// A document's bytes don't have the digest that names it.
    #[error("{expected} is damaged: its content has the digest {actual}")]
    Digest {
        /// Its name.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
}

type Result<T, E = ArchiveError> = std::result::Result<T, E>;

/// A place with members.
pub(super) enum Archive {
    Directory(std::os::fd::OwnedFd),
    Tar {
        file: File,
        members: BTreeMap<EntryPath, Member>,
    },
}

/// What a tar has under a name.
pub(super) enum Member {
    Content {
        position: u64,
        size: u64,
    },
    /// `docker save` writes a layer once and links to it.
    Link(OsString),
}

/// An image in an archive, its documents read and its layers not yet.
pub(super) struct Found {
    /// The names it carries.
    pub(super) names: Vec<Reference>,
    pub(super) digest: Digest,
    pub(super) config: Vec<u8>,
    /// The lowest first.
    pub(super) layers: Vec<LayerMember>,
}

/// Where a layer lies.
pub(super) struct LayerMember {
    pub(super) name: String,
    /// What it must be. A docker archive doesn't say; the configuration's diff id still decides.
    pub(super) descriptor: Option<Descriptor>,
}

impl Archive {
    /// Opens a layout directory.
    pub(super) fn directory(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty());
        let failed = |error: rustix::io::Errno| ArchiveError::Read {
            what: path.display().to_string(),
            source: error.into(),
        };
        Ok(Self::Directory(directory.map_err(failed)?))
    }

    /// Opens an uncompressed tar.
    pub(super) fn tar(file: File) -> Result<Self> {
        let mut members = BTreeMap::new();
        entry::read(BufReader::with_capacity(128 << 10, &file), |entry, content| {
            let member = match &entry.kind {
                Kind::File { size } => Member::Content {
                    position: content.position,
                    size: *size,
                },
                Kind::Symlink(target) => Member::Link(target.clone()),
                Kind::Directory | Kind::HardLink(_) | Kind::Character { .. } | Kind::Block { .. } | Kind::Fifo => {
                    return Ok(());
                }
            };
            members.insert(entry.path.clone(), member);
            let is_full = members.len() > MEMBERS;
            if is_full {
                Err(too_much("the archive", MEMBERS as u64, "members"))
            } else {
                Ok(())
            }
        })?;
        Ok(Self::Tar { file, members })
    }

    /// All images for `platform`.
    pub(super) fn images(&self, platform: &Platform) -> Result<Vec<Found>> {
        let images = if let Some(index) = self.document("index.json")? {
            self.layout_images(&index, platform)?
        } else if let Some(manifest) = self.document("manifest.json")? {
            self.docker_images(&manifest)?
        } else {
            return Err(ArchiveError::Unknown);
        };
        if images.len() > IMAGES {
            Err(too_much("the archive", IMAGES as u64, "images"))
        } else {
            Ok(images)
        }
    }

    /// A member's content and size; `None` if there is no such member.
    pub(super) fn open(&self, name: &str) -> Result<Option<(Box<dyn Read + '_>, u64)>> {
        let failed = |source| ArchiveError::Read {
            what: name.to_owned(),
            source,
        };
        let opened = match self {
            Self::Directory(directory) => open_below(directory, name),
            Self::Tar { file, members } => open_member(file, members, name),
        };
        opened.map_err(failed)
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some((reader, _)) = self.open(name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let read = reader.take(DOCUMENT_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|source| ArchiveError::Read {
            what: name.to_owned(),
            source,
        })?;
        let is_whole = bytes.len() as u64 <= DOCUMENT_BYTES;
        if is_whole {
            Ok(Some(bytes))
        } else {
            Err(too_much(name, DOCUMENT_BYTES, "bytes"))
        }
    }

    fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let name = blob_name(digest);
        let bytes = self.document(&name)?.ok_or(ArchiveError::Missing(name))?;
        let actual = Digest::of(&bytes);
        if actual == *digest {
            Ok(bytes)
        } else {
            Err(ArchiveError::Digest {
                expected: digest.clone(),
                actual,
            })
        }
    }

    /// image-spec, image-layout.md#indexjson-file
    fn layout_images(&self, index: &[u8], platform: &Platform) -> Result<Vec<Found>> {
        let entries = match manifest::parse(index, None)? {
            Document::Index(index) => index.0,
            Document::Manifest(_) => return Err(ArchiveError::Unknown),
        };
        let is_ours = |entry: &&Descriptor| entry.platform.as_ref().is_none_or(|for_| for_ == platform);
        entries
            .iter()
            .filter(is_ours)
            .map(|entry| self.layout_image(entry, platform))
            .collect()
    }

    fn layout_image(&self, entry: &Descriptor, platform: &Platform) -> Result<Found> {
        let manifest = match manifest::parse(&self.blob(&entry.digest)?, Some(&entry.media_type))? {
            Document::Manifest(manifest) => manifest,
            Document::Index(index) => {
                let chosen = index.choose(platform, &entry.digest)?;
                match manifest::parse(&self.blob(&chosen.digest)?, Some(&chosen.media_type))? {
                    Document::Manifest(manifest) => manifest,
                    Document::Index(_) => return Err(manifest::nested(&chosen.digest).into()),
                }
            }
        };
        let Manifest { config, layers } = manifest;
        let layer = |layer: Descriptor| LayerMember {
            name: blob_name(&layer.digest),
            descriptor: Some(layer),
        };
        Ok(Found {
            names: layout_name(entry).into_iter().collect(),
            digest: entry.digest.clone(),
            config: self.blob(&config.digest)?,
            layers: layers.into_iter().map(layer).collect(),
        })
    }

    /// The `manifest.json` of `docker save`. It has no digest for the whole image, so the one of the configuration, which
    /// lists the layers' digests, stands in.
    fn docker_images(&self, manifest: &[u8]) -> Result<Vec<Found>> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Saved {
            config: String,
            repo_tags: Option<Vec<String>>,
            layers: Vec<String>,
        }
        let saved: Vec<Saved> = serde_json::from_slice(manifest).map_err(|source| ArchiveError::Json {
            what: "manifest.json",
            source,
        })?;
        let found = |saved: Saved| {
            let config = self
                .document(&saved.config)?
                .ok_or(ArchiveError::Missing(saved.config))?;
            let names = saved.repo_tags.unwrap_or_default();
            Ok(Found {
                names: names.iter().filter_map(|name| name.parse().ok()).collect(),
                digest: Digest::of(&config),
                config,
                layers: saved
                    .layers
                    .into_iter()
                    .map(|name| LayerMember { name, descriptor: None })
                    .collect(),
            })
        };
        saved.into_iter().map(found).collect()
    }
}

/// The full name that containerd and docker write, else the layout's own annotation if it is more than a bare tag.
fn layout_name(entry: &Descriptor) -> Option<Reference> {
    let annotation = |key: &str| entry.annotations.get(key);
    let full = annotation("io.containerd.image.name").and_then(|name| name.parse().ok());
    let own = annotation("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']));
    full.or_else(|| own.and_then(|name| name.parse().ok()))
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn too_much(what: &str, limit: u64, unit: &'static str) -> ArchiveError {
    ArchiveError::TooMuch {
        what: what.to_owned(),
        limit,
        unit,
    }
}

type Opened<'a> = io::Result<Option<(Box<dyn Read + 'a>, u64)>>;

/// Opens a regular file below a directory; a link that leads out of it is an error.
fn open_below<'a>(directory: &std::os::fd::OwnedFd, name: &str) -> Opened<'a> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(directory, name, flags, Mode::empty(), resolve) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(Some((Box::new(file), metadata.len())))
}

/// Finds a member, through one link at most, and reads it from its place in the tar.
fn open_member<'a>(file: &'a File, members: &BTreeMap<EntryPath, Member>, name: &str) -> Opened<'a> {
    let Ok(path) = EntryPath::parse(name.as_bytes()) else {
        return Err(io::Error::other("the name leads out of the archive"));
    };
    let member = match members.get(&path) {
        Some(Member::Link(target)) => path.sibling(target).and_then(|path| members.get(&path)),
        member => member,
    };
    let Some(Member::Content { position, size }) = member else {
        return Ok(None);
    };
    let mut file = file;
    file.seek(SeekFrom::Start(*position))?;
    Ok(Some((Box::new(file.take(*size)), *size)))
}
