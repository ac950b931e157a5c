//! Pulls an image: what the registry says it consists of, its blobs, its layers, its record, in this order.
//!
//! Blobs are fetched a few at a time, layers are unpacked from the lowest up, and both only if nobody else has done so.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::digest::Digest;
use super::disk::{self, Temporary};
use super::http::Http;
use super::layer::{Cancel, LayerError};
use super::manifest::{self, Descriptor, Document, Manifest, ManifestError, Platform};
use super::record::Record;
use super::registry::{self, Registry, RegistryError, Served};
use super::store::{Inner, Pin, Store, StoreError};
use super::{Image, Reference};

/// Downloads of one pull at the same time, as docker does.
const DOWNLOADS: usize = 3;

/// How to reach a registry.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Talk plain HTTP to the registry. One on a loopback address is talked to in plain HTTP by itself, unless
    /// `ca_certificates` are given for it.
    pub insecure_http: bool,
    /// Certificates (PEM) to check the registry's against, instead of the machine's own.
    pub ca_certificates: Option<Arc<[u8]>>,
    /// Sent to the registry's token server over HTTPS, or to the registry itself if it asks for basic authentication.
    pub credentials: Option<Credentials>,
    /// A transfer that brings less than 4 KiB in this time is given up.
    pub stall: Duration,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            insecure_http: false,
            ca_certificates: None,
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

/// Why a pull failed. Nothing of it stays in the store.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry didn't give the image.
    #[error("pull {reference}")]
    Registry {
        /// The image.
        reference: Box<Reference>,
        /// What failed.
        source: Box<RegistryError>,
    },
    /// What the registry says about the image isn't acceptable.
    #[error("pull {reference}")]
    Manifest {
        /// The image.
        reference: Box<Reference>,
        /// What is wrong.
        source: ManifestError,
    },
    /// A layer isn't acceptable, or can't be unpacked.
    #[error("unpack layer {digest} of {reference}")]
    Layer {
        /// The image.
        reference: Box<Reference>,
        /// The layer's blob.
        digest: Digest,
        /// What is wrong.
        source: LayerError,
    },
    /// The store failed, not the registry.
    #[error("store {reference}")]
    Store {
        /// The image.
        reference: Box<Reference>,
        /// What failed.
        source: StoreError,
    },
}

/// A failure before the image's name is put to it.
#[derive(Debug)]
enum Failure {
    Registry(RegistryError),
    Manifest(ManifestError),
    Layer(Digest, LayerError),
    Store(StoreError),
}

impl From<RegistryError> for Failure {
    fn from(source: RegistryError) -> Self {
        Self::Registry(source)
    }
}

impl From<ManifestError> for Failure {
    fn from(source: ManifestError) -> Self {
        Self::Manifest(source)
    }
}

impl From<StoreError> for Failure {
    fn from(source: StoreError) -> Self {
        Self::Store(source)
    }
}

impl Failure {
    fn of(self, reference: &Reference) -> PullError {
        let reference = Box::new(reference.clone());
        match self {
            Self::Registry(source) => PullError::Registry {
                reference,
                source: Box::new(source),
            },
            Self::Manifest(source) => PullError::Manifest { reference, source },
            Self::Layer(digest, source) => PullError::Layer {
                reference,
                digest,
                source,
            },
            Self::Store(source) => PullError::Store { reference, source },
        }
    }
}

impl Store {
    /// Fetches the image from its registry, whether or not it is here already; layers that are here are not fetched
    /// again. Pulls of the same content wait for each other. Dropping the future stops the pull.
    pub async fn pull(&self, reference: &Reference, options: &PullOptions) -> Result<Arc<Image>, PullError> {
        let registry = self.registry(reference, options)?;
        let pulled = pull(&self.0, &registry, reference).await;
        let swept = self.0.sweep_aside().await.map_err(Failure::Store);
        pulled
            .and_then(|image| swept.map(|()| image))
            .map_err(|failure| failure.of(reference))
    }
}

impl Store {
    fn registry(&self, reference: &Reference, options: &PullOptions) -> Result<Arc<Registry>, PullError> {
        let http = match &options.ca_certificates {
            None => self.0.http(),
            Some(pem) => Http::with_roots(pem).map_err(|source| {
                let source = registry::failed(&reference.to_string(), source);
                Failure::Registry(source).of(reference)
            })?,
        };
        Ok(Registry::new(http, reference, options))
    }
}

/// What an image consists of, checked as far as its documents go.
struct Plan {
    digest: Digest,
    manifest_digest: Digest,
    manifest: Manifest,
    config_bytes: Bytes,
    diff_ids: Vec<Digest>,
}

async fn pull(inner: &Arc<Inner>, registry: &Arc<Registry>, reference: &Reference) -> Result<Arc<Image>, Failure> {
    let plan = plan(registry, reference).await?;
    let chain = manifest::chain_ids(&plan.diff_ids);
    let blobs = plan.manifest.layers.iter().map(|layer| layer.digest.clone());
    let needed = blobs
        .chain(chain.iter().cloned())
        .chain([plan.manifest.config.digest.clone()])
        .collect();
    let pin = Arc::new(Pin::new(inner, needed));
    let downloads = Downloads::start(inner, registry, &plan.manifest.layers, &chain, &pin);
    for (index, download) in downloads.0.into_iter().enumerate() {
        let blob = download.finish().await?;
        let unpack = Unpack {
            chain: chain[..=index].to_vec(),
            diff_id: plan.diff_ids[index].clone(),
            pin: pin.clone(),
        };
        unpack.run(inner, registry, &plan.manifest.layers[index], blob).await?;
    }
    let record = Record {
        reference: reference.clone(),
        digest: plan.digest,
        manifest: plan.manifest_digest,
        config: plan.manifest.config.digest.clone(),
        layers: chain,
        size: plan
            .manifest
            .layers
            .iter()
            .fold(plan.manifest.config.size, |sum, layer| sum.saturating_add(layer.size)),
    };
    let (inner, config) = (inner.clone(), plan.config_bytes);
    Ok(blocking(move || inner.add_image(record, &config)).await??)
}

async fn plan(registry: &Registry, reference: &Reference) -> Result<Plan, Failure> {
    let platform = Platform::host();
    let served = registry.manifest(reference).await?;
    let digest = served.digest.clone();
    let (manifest, manifest_digest) = match parse(&served)? {
        Document::Manifest(manifest) => (manifest, digest.clone()),
        Document::Index(index) => {
            let chosen = index.choose(&platform, &digest)?;
            match parse(&registry.manifest_of(chosen).await?)? {
                Document::Manifest(manifest) => (manifest, chosen.digest.clone()),
                Document::Index(_) => return Err(manifest::nested(&chosen.digest).into()),
            }
        }
    };
    let config_bytes = registry.config(&manifest.config).await?;
    let diff_ids = manifest::diff_ids(&config_bytes, manifest.layers.len(), &platform)?;
    Ok(Plan {
        digest,
        manifest_digest,
        manifest,
        config_bytes,
        diff_ids,
    })
}

fn parse(served: &Served) -> Result<Document, ManifestError> {
    manifest::parse(&served.bytes, served.media_type.as_deref())
}

/// Blobs on their way, in the order of the layers. Those that nobody waits for any more are stopped.
struct Downloads(Vec<Download>);

struct Download(JoinHandle<Result<Option<File>, Failure>>);

impl Drop for Download {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Download {
    async fn finish(mut self) -> Result<Option<File>, Failure> {
        (&mut self.0)
            .await
            .unwrap_or_else(|error| Err(StoreError::Task(error).into()))
    }
}

impl Downloads {
    fn start(
        inner: &Arc<Inner>,
        registry: &Arc<Registry>,
        layers: &[Descriptor],
        chain: &[Digest],
        pin: &Arc<Pin>,
    ) -> Self {
        let room = Arc::new(Semaphore::new(DOWNLOADS));
        let start = |(layer, chain_id): (&Descriptor, &Digest)| {
            let (inner, registry, layer) = (inner.clone(), registry.clone(), layer.clone());
            let (chain_id, pin, room) = (chain_id.clone(), pin.clone(), room.clone());
            Download(tokio::spawn(async move {
                let _pin = pin;
                let _permit = room.acquire().await.expect("the semaphore is never closed");
                download(&inner, &registry, &layer, &chain_id).await
            }))
        };
        Self(layers.iter().zip(chain).map(start).collect())
    }
}

/// The layer's blob, open and verified; `None` if the layer is unpacked already.
async fn download(
    inner: &Inner,
    registry: &Registry,
    layer: &Descriptor,
    chain_id: &Digest,
) -> Result<Option<File>, Failure> {
    let _turn = inner.downloads.turn(&layer.digest).await;
    let path = inner.blob(&layer.digest);
    if let Ok(file) = File::open(&path) {
        return Ok(Some(file));
    }
    // Looked for after the blob: whoever unpacks it removes it once the layer is there.
    if inner.has_layer(chain_id) {
        return Ok(None);
    }
    let temporary = Temporary(inner.temporary());
    let failed = |source| StoreError::Io {
        action: "write",
        path: temporary.0.clone(),
        source,
    };
    let mut file = tokio::fs::File::create(&temporary.0).await.map_err(failed)?;
    registry.blob(layer, &mut file).await?;
    // Opened by the name that nobody else knows: the other one may be removed by whoever unpacks the same blob.
    let file = File::open(&temporary.0).map_err(failed)?;
    tokio::fs::rename(&temporary.0, &path).await.map_err(failed)?;
    Ok(Some(file))
}

/// One layer to unpack.
struct Unpack {
    /// The stack's chain ids up to this layer.
    chain: Vec<Digest>,
    diff_id: Digest,
    /// The unpack may outlive the pull by a moment; the layers below must stay as long.
    pin: Arc<Pin>,
}

impl Unpack {
    async fn run(
        self,
        inner: &Arc<Inner>,
        registry: &Registry,
        layer: &Descriptor,
        blob: Option<File>,
    ) -> Result<(), Failure> {
        let id = self
            .chain
            .last()
            .expect("a layer's chain has at least the layer itself");
        let turn = inner.unpacks.turn(id).await;
        if inner.has_layer(id) {
            return Ok(());
        }
        let blob = match blob {
            Some(blob) => blob,
            // The layer was here when its download was due, and has been removed since.
            None => match download(inner, registry, layer, id).await? {
                Some(blob) => blob,
                None => return Ok(()),
            },
        };
        let cancel = CancelOnDrop(Cancel::default());
        let (inner, flag, path, digest) = (
            inner.clone(),
            cancel.0.clone(),
            inner.blob(&layer.digest),
            layer.digest.clone(),
        );
        blocking(move || {
            let _held = (turn, self.pin);
            inner
                .add_layer(blob, &self.diff_id, &self.chain, flag)
                .map_err(|source| Failure::Layer(digest, source))?;
            Ok(disk::remove(&path)?)
        })
        .await?
    }
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(StoreError::Task)?)
}
