//! The image store below the agent's state directory: what is in it, what uses what, and what may go.
//!
//! ```text
//! lock                 held while the store is open
//! blobs/sha256/<hex>   configurations; layers' blobs while they are being pulled
//! layers/<hex>/        one unpacked layer by chain id, for root alone; fs/ inside it is overlay's lowerdir
//! images/<hex>.json    one record per name
//! snapshots/           what containers write (see `snapshot.rs`)
//! empty/               the one layer of an image that has none
//! tmp/                 everything unfinished; emptied on open
//! ```
//!
//! Things come into being in `tmp`, are made durable, and then appear by a rename; they go by a rename back into `tmp`.
//! A record is written after its layers, so a record is never without them. How images come in is in `pull.rs` and
//! `load.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use tokio::task::JoinError;

use super::digest::Digest;
use super::disk::{Temporary, entries, make_directory, remove, sync_directory, write_durably};
use super::flight::Flights;
use super::http::Http;
use super::layer::{self, Cancel, LayerError, Limits};
use super::record::Record;
use super::snapshot::Uses;
use super::view::View;
use super::{Image, Reference};

/// A program that a dying agent was just starting shares its lock until it has closed the agent's files.
const LOCK_TIME: Duration = Duration::from_millis(500);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A handle on the store; clones share it. Methods that aren't `async` read or write files and may block briefly.
#[derive(Clone)]
pub struct Store(pub(super) Arc<Inner>);

pub(super) struct Inner {
    dir: PathBuf,
    pub(super) limits: Limits,
    /// One download of a blob at a time.
    pub(super) downloads: Flights,
    /// One unpack of a stack of layers at a time.
    pub(super) unpacks: Flights,
    state: Mutex<State>,
    http: OnceLock<Http>,
    temporaries: AtomicU64,
    /// The lock goes with the file.
    _lock: File,
}

#[derive(Default)]
pub(super) struct State {
    images: BTreeMap<Reference, (Record, Arc<Image>)>,
    pub(super) snapshots: Uses,
    /// What running pulls and loads need, by how many of them.
    pins: BTreeMap<Digest, usize>,
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
    /// A task of ours panicked, or the program is ending.
    #[error("finish a task of the image store")]
    Task(#[source] JoinError),
    /// A pod uid or a container name that can't name a directory.
    #[error("{0:?} can't name a directory of a snapshot")]
    Name(String),
    /// The image was removed after it was resolved.
    #[error("the layers of {0} are no longer in the store; pull it again")]
    Gone(Reference),
}

impl Store {
    /// Opens the store in `dir` and makes it if need be, locks it against other agents, and removes what a killed
    /// pull, load or removal left behind. Blocks.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, Limits::default())
    }

    /// As [`Store::open`], with other limits on what images may have.
    pub fn open_with(dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        make_directory(dir)?;
        let lock = lock(dir)?;
        for name in ["blobs", "blobs/sha256", "layers", "images", "snapshots", "empty", "tmp"] {
            make_directory(&dir.join(name))?;
        }
        let store = Self(Arc::new(Inner {
            dir: dir.to_owned(),
            limits,
            downloads: Flights::default(),
            unpacks: Flights::default(),
            state: Mutex::default(),
            http: OnceLock::new(),
            temporaries: AtomicU64::new(0),
            _lock: lock,
        }));
        store.0.empty_tmp()?;
        store.0.state().snapshots = Uses::read(&store.0.path("snapshots"))?;
        store.0.read_records()?;
        store.0.sweep()?;
        Ok(store)
    }

    /// The image of that name if it is here. A name with a digest is also found under another tag of its repository.
    /// Only memory is read.
    pub fn resolve(&self, reference: &Reference) -> Option<Arc<Image>> {
        let state = self.0.state();
        if let Some((_, image)) = state.images.get(reference) {
            return Some(image.clone());
        }
        let digest = reference.digest()?;
        let is_it = |record: &Record| {
            [&record.digest, &record.manifest].contains(&digest) && record.reference.name() == reference.name()
        };
        state
            .images
            .values()
            .find(|(record, _)| is_it(record))
            .map(|(_, image)| image.clone())
    }

    /// All images, by name.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.0.state().images.values().map(|(_, image)| image.clone()).collect()
    }

    /// Forgets the image and deletes the layers that no other image and no container uses; `false` if there is no such
    /// image.
    pub async fn remove(&self, reference: &Reference) -> Result<bool, StoreError> {
        let path = Record::path(&self.0.path("images"), reference);
        if self.0.state().images.remove(reference).is_none() {
            return Ok(false);
        }
        fs::remove_file(&path).map_err(|source| StoreError::Io {
            action: "remove",
            path,
            source,
        })?;
        self.0.sweep_aside().await?;
        Ok(true)
    }
}

impl Inner {
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the state")
    }

    pub(super) fn http(&self) -> Http {
        self.http.get_or_init(Http::new).clone()
    }

    /// A path in `tmp` that nothing has.
    pub(super) fn temporary(&self) -> PathBuf {
        self.path("tmp")
            .join(self.temporaries.fetch_add(1, Ordering::Relaxed).to_string())
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.path("blobs/sha256").join(digest.hex())
    }

    pub(super) fn layer(&self, chain_id: &Digest) -> PathBuf {
        self.path("layers").join(chain_id.hex())
    }

    /// Whether that stack of layers is unpacked. A layer's directory appears only when it is whole.
    pub(super) fn has_layer(&self, chain_id: &Digest) -> bool {
        self.layer(chain_id).exists()
    }

    /// The directories of a stack of layers, topmost first.
    pub(super) fn lower(&self, chain: &[Digest]) -> Vec<PathBuf> {
        match chain {
            [] => vec![self.path("empty")],
            _ => chain.iter().rev().map(|id| self.layer(id).join("fs")).collect(),
        }
    }

    /// Unpacks `blob` as the last layer of `chain`, whose other layers are here. Blocks.
    pub(super) fn add_layer(
        &self,
        blob: File,
        diff_id: &Digest,
        chain: &[Digest],
        cancel: Cancel,
    ) -> Result<(), LayerError> {
        let (id, below) = chain
            .split_last()
            .expect("a layer's chain has at least the layer itself");
        let below: Vec<_> = below.iter().rev().map(|id| self.layer(id).join("fs")).collect();
        let below = View::open(&below).map_err(LayerError::Read)?;
        let temporary = Temporary(self.temporary());
        let root = temporary.0.join("fs");
        let make = |path: &Path| DirBuilder::new().mode(0o700).create(path).map_err(LayerError::Store);
        make(&temporary.0)?;
        make(&root)?;
        layer::unpack(blob, diff_id, &root, &below, &self.limits, cancel)?;
        let commit = || -> io::Result<()> {
            rustix::fs::syncfs(File::open(&root)?)?;
            fs::rename(&temporary.0, self.layer(id))?;
            sync_directory(&self.path("layers"))
        };
        commit().map_err(LayerError::Store)
    }

    /// Records an image whose layers are all here. Blocks.
    pub(super) fn add_image(&self, record: Record, config: &[u8]) -> Result<Arc<Image>, StoreError> {
        let temporary = Temporary(self.temporary());
        write_durably(&self.blob(&record.config), config, &temporary.0)?;
        let image = self.image(&record)?;
        let json = serde_json::to_vec_pretty(&record).expect("a record is plain strings and numbers");
        let mut state = self.state();
        write_durably(
            &Record::path(&self.path("images"), &record.reference),
            &json,
            &temporary.0,
        )?;
        state.images.insert(record.reference.clone(), (record, image.clone()));
        Ok(image)
    }

    fn image(&self, record: &Record) -> Result<Arc<Image>, StoreError> {
        let path = self.blob(&record.config);
        let failed = |source| StoreError::Io {
            action: "read",
            path: path.clone(),
            source,
        };
        let bytes = fs::read(&path).map_err(failed)?;
        if Digest::of(&bytes) != record.config {
            return Err(failed(io::Error::other("its content does not match its digest")));
        }
        let config = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
        if let Some(missing) = record.layers.iter().find(|id| !self.has_layer(id)) {
            return Err(StoreError::Io {
                action: "find",
                path: self.layer(missing),
                source: io::ErrorKind::NotFound.into(),
            });
        }
        Ok(Arc::new(Image {
            reference: record.reference.clone(),
            digest: record.digest.clone(),
            id: record.config.clone(),
            config,
            layers: self.lower(&record.layers),
            chain_ids: record.layers.clone(),
            size: record.size,
        }))
    }

    /// Reads all records; one that is damaged or lacks its layers is dropped, and its image is pulled again when needed.
    fn read_records(&self) -> Result<(), StoreError> {
        for path in entries(&self.path("images"))? {
            let read = || -> Result<(Record, Arc<Image>), StoreError> {
                let failed = |source| StoreError::Io {
                    action: "read",
                    path: path.clone(),
                    source,
                };
                let bytes = fs::read(&path).map_err(failed)?;
                let record: Record = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
                let image = self.image(&record)?;
                Ok((record, image))
            };
            match read() {
                Ok((record, image)) => {
                    self.state().images.insert(record.reference.clone(), (record, image));
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(path = %path.display(), %error, cause, "drop a damaged image record");
                    remove(&path)?;
                }
            }
        }
        Ok(())
    }

    fn empty_tmp(&self) -> Result<(), StoreError> {
        entries(&self.path("tmp"))?.iter().try_for_each(|path| remove(path))
    }

    /// Deletes the layers and blobs that no image, snapshot, pull or load needs. Blocks.
    pub(super) fn sweep(&self) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        {
            // Taking things out of sight under the lock is quick; deleting them isn't.
            let state = self.state();
            let used = state.used();
            for directory in ["layers", "blobs/sha256"] {
                for path in entries(&self.path(directory))? {
                    let is_used = path
                        .file_name()
                        .and_then(|name| name.to_str())
                        .is_some_and(|name| used.contains(name));
                    if is_used {
                        continue;
                    }
                    let temporary = self.temporary();
                    fs::rename(&path, &temporary).map_err(|source| StoreError::Io {
                        action: "remove",
                        path,
                        source,
                    })?;
                    gone.push(temporary);
                }
            }
        }
        gone.iter().try_for_each(|path| remove(path))
    }

    /// [`Inner::sweep`], off the async threads.
    pub(super) async fn sweep_aside(self: &Arc<Self>) -> Result<(), StoreError> {
        let inner = self.clone();
        let swept = tokio::task::spawn_blocking(move || inner.sweep()).await;
        swept.unwrap_or_else(|error| Err(StoreError::Task(error)))
    }
}

impl State {
    /// The hex names of all that is needed.
    fn used(&self) -> BTreeSet<&str> {
        let records = self
            .images
            .values()
            .flat_map(|(record, _)| record.layers.iter().chain([&record.config]));
        records
            .chain(self.snapshots.layers())
            .chain(self.pins.keys())
            .map(Digest::hex)
            .collect()
    }
}

/// Keeps layers and blobs from being swept while a pull or load runs that hasn't recorded its image yet.
pub(super) struct Pin {
    inner: Arc<Inner>,
    digests: Vec<Digest>,
}

impl Pin {
    pub(super) fn new(inner: &Arc<Inner>, digests: Vec<Digest>) -> Self {
        let mut state = inner.state();
        for digest in &digests {
            *state.pins.entry(digest.clone()).or_default() += 1;
        }
        drop(state);
        Self {
            inner: inner.clone(),
            digests,
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        for digest in &self.digests {
            let count = state
                .pins
                .get_mut(digest)
                .expect("a pin is counted until it is dropped");
            *count -= 1;
            if *count == 0 {
                state.pins.remove(digest);
            }
        }
    }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let failed = |source| StoreError::Io {
        action: "lock",
        path: path.clone(),
        source,
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    let deadline = Instant::now() + LOCK_TIME;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(dir.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
}
