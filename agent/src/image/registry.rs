//! Fetches manifests and blobs of one repository from its registry (distribution-spec, "Pull").
//!
//! What arrives is checked against its digest and size before anybody sees it; where it is put is not decided here.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::io::AsyncWriteExt;

use super::digest::{Digest, Hasher};
use super::http::{Http, HttpError};
use super::manifest::{DOCKER_LIST, DOCKER_MANIFEST, DOCUMENT_BYTES, Descriptor, OCI_INDEX, OCI_MANIFEST};
use super::pull::PullOptions;
use super::reference::Reference;
use super::session::{Session, TRIES};

/// Why a registry didn't give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It isn't there.
    #[error("{0} is not in the registry")]
    NotFound(String),
    /// The registry wants credentials, or better ones; registries often say this of what isn't there.
    #[error("the registry refuses access to {what}: it may not exist or may need credentials{detail}")]
    Denied {
        /// What was asked for.
        what: String,
        /// What the registry says, if anything.
        detail: String,
    },
    /// Any other status.
    #[error("the registry answers {what} with {status}{detail}")]
    Status {
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: StatusCode,
        /// What the registry says, if anything.
        detail: String,
    },
    /// The exchange failed.
    #[error("fetch {what}")]
    Http {
        /// What was asked for.
        what: String,
        /// What failed.
        source: HttpError,
    },
    /// The registry sends us for a token somewhere we don't go.
    #[error("refuse to fetch a token from {0:?}: not https, nor the registry's own host")]
    Realm(String),
    /// The token server's answer holds no token.
    #[error("{0:?} gives no usable token")]
    Token(String),
    /// The bytes aren't those that were asked for.
    #[error("{what} has the digest {actual}, not {expected}")]
    Digest {
        /// What was asked for.
        what: String,
        /// Asked for.
        expected: Digest,
        /// Got.
        actual: Digest,
    },
    /// More or fewer bytes than its descriptor says.
    #[error("{what} has {actual} bytes, its descriptor says {expected}")]
    Size {
        /// What was asked for.
        what: String,
        /// In the descriptor.
        expected: u64,
        /// Got.
        actual: u64,
    },
    /// A descriptor that asks for a larger document than we read.
    #[error("{what} has {size} bytes, more than the limit of {DOCUMENT_BYTES}")]
    TooLarge {
        /// What was asked for.
        what: String,
        /// In the descriptor.
        size: u64,
    },
}

/// A manifest or an index as the registry served it.
pub(super) struct Served {
    pub(super) bytes: Bytes,
    pub(super) media_type: Option<String>,
    pub(super) digest: Digest,
}

/// One repository of one registry.
pub(super) struct Registry(Session);

impl Registry {
    pub(super) fn new(http: Http, reference: &Reference, options: &PullOptions) -> Arc<Self> {
        Arc::new(Self(Session::new(http, reference, options)))
    }

    /// The manifest or index that a reference names; checked against its digest if it has one.
    pub(super) async fn manifest(&self, reference: &Reference) -> Result<Served, RegistryError> {
        let (what, path) = (reference.to_string(), format!("manifests/{}", reference.selector()));
        let served = self.document(&path, &what, DOCUMENT_BYTES).await?;
        if let Some(expected) = reference.digest() {
            check_digest(&what, expected, &served.digest)?;
        }
        Ok(served)
    }

    /// The manifest that an index points to.
    pub(super) async fn manifest_of(&self, descriptor: &Descriptor) -> Result<Served, RegistryError> {
        self.described("manifests", descriptor, "manifest").await
    }

    /// The image configuration that a manifest points to.
    pub(super) async fn config(&self, descriptor: &Descriptor) -> Result<Bytes, RegistryError> {
        Ok(self.described("blobs", descriptor, "configuration").await?.bytes)
    }

    /// Writes a layer's blob to `file`. A transfer that breaks off is tried again from the start.
    pub(super) async fn blob(&self, descriptor: &Descriptor, file: &mut tokio::fs::File) -> Result<(), RegistryError> {
        let what = format!("layer {}", descriptor.digest);
        let is_broken = |error: &RegistryError| {
            matches!(
                error,
                RegistryError::Http {
                    source: HttpError::Broken(..),
                    ..
                }
            )
        };
        let mut result = self.blob_once(descriptor, &what, file).await;
        for _ in 1..TRIES {
            if result.as_ref().is_err_and(is_broken) {
                rewind(file)
                    .await
                    .map_err(|error| failed(&what, HttpError::Sink(error)))?;
                result = self.blob_once(descriptor, &what, file).await;
            }
        }
        result
    }

    async fn blob_once(
        &self,
        descriptor: &Descriptor,
        what: &str,
        file: &mut tokio::fs::File,
    ) -> Result<(), RegistryError> {
        let path = format!("blobs/{}", descriptor.digest);
        let sink = |error| failed(what, HttpError::Sink(error));
        let (_, mut body) = self.0.get(&path, what, &HeaderMap::new(), descriptor.size).await?;
        let mut hasher = Hasher::default();
        while let Some(piece) = body.next().await.map_err(|source| failed(what, source))? {
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(sink)?;
        }
        file.flush().await.map_err(sink)?;
        check_size(what, descriptor.size, hasher.count())?;
        check_digest(what, &descriptor.digest, &hasher.finish())
    }

    async fn described(&self, kind: &str, descriptor: &Descriptor, what: &str) -> Result<Served, RegistryError> {
        let what = format!("{what} {}", descriptor.digest);
        if descriptor.size > DOCUMENT_BYTES {
            let size = descriptor.size;
            return Err(RegistryError::TooLarge { what, size });
        }
        let served = self
            .document(&format!("{kind}/{}", descriptor.digest), &what, descriptor.size)
            .await?;
        check_size(&what, descriptor.size, served.bytes.len() as u64)?;
        check_digest(&what, &descriptor.digest, &served.digest)?;
        Ok(served)
    }

    async fn document(&self, path: &str, what: &str, limit: u64) -> Result<Served, RegistryError> {
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, "*/*;q=0.1"].join(", ");
        let accept = HeaderValue::try_from(accept).expect("media types are visible ASCII");
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        let (headers, body) = self.0.get(path, what, &headers, limit).await?;
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.map(|value| value.split(';').next().unwrap_or_default().trim().to_owned());
        let bytes = body.collect().await.map_err(|source| failed(what, source))?;
        let digest = Digest::of(&bytes);
        Ok(Served {
            bytes,
            media_type,
            digest,
        })
    }
}

async fn rewind(file: &mut tokio::fs::File) -> std::io::Result<()> {
    use tokio::io::AsyncSeekExt;
    file.rewind().await?;
    file.set_len(0).await
}

/// Says what was being fetched.
pub(super) fn failed(what: &str, source: HttpError) -> RegistryError {
    RegistryError::Http {
        what: what.to_owned(),
        source,
    }
}

fn check_size(what: &str, expected: u64, actual: u64) -> Result<(), RegistryError> {
    if actual == expected {
        Ok(())
    } else {
        Err(RegistryError::Size {
            what: what.to_owned(),
            expected,
            actual,
        })
    }
}

fn check_digest(what: &str, expected: &Digest, actual: &Digest) -> Result<(), RegistryError> {
    let (expected, actual) = (expected.clone(), actual.clone());
    if actual == expected {
        Ok(())
    } else {
        Err(RegistryError::Digest {
            what: what.to_owned(),
            expected,
            actual,
        })
    }
}
