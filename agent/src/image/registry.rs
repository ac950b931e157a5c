//! Fetches manifests and blobs of one repository from its registry (distribution-spec, "Pull").
//!
//! What arrives is checked against its digest and size before anybody sees it; where it is put is not decided here.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

use super::PullOptions;
use super::auth::{self, Challenge};
use super::digest::{Digest, Hasher};
use super::http::{self, Body, Http, HttpError};
use super::manifest::{DOCKER_LIST, DOCKER_MANIFEST, DOCUMENT_BYTES, Descriptor, OCI_INDEX, OCI_MANIFEST};
use super::reference::Reference;

/// Tries of one request that fails in a way that may pass.
const TRIES: u32 = 3;
/// The longest wait between them, whatever the registry asks for.
const WAIT: Duration = Duration::from_secs(10);
const TOKEN_BYTES: u64 = 1 << 20;

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
pub(super) struct Registry {
    http: Http,
    /// `https://registry-1.docker.io/v2/library/busybox`
    base: String,
    repository: String,
    options: PullOptions,
    authorization: Mutex<HeaderMap>,
}

impl Registry {
    pub(super) fn new(http: Http, reference: &Reference, options: &PullOptions) -> Arc<Self> {
        let host = match reference.registry() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let scheme = if options.insecure_http || is_loopback(host) {
            "http"
        } else {
            "https"
        };
        Arc::new(Self {
            http,
            base: format!("{scheme}://{host}/v2/{}", reference.repository()),
            repository: reference.repository().to_owned(),
            options: options.clone(),
            authorization: Mutex::new(HeaderMap::new()),
        })
    }

    /// The manifest or index that a reference names; checked against its digest if it has one.
    pub(super) async fn manifest(&self, reference: &Reference) -> Result<Served, RegistryError> {
        let served = self
            .document(
                "manifests",
                reference.selector(),
                &reference.to_string(),
                DOCUMENT_BYTES,
            )
            .await?;
        if let Some(expected) = reference.digest() {
            check_digest(&reference.to_string(), expected, &served.digest)?;
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
        for left in (0..TRIES).rev() {
            match self.blob_once(descriptor, &what, file).await {
                Err(RegistryError::Http {
                    source: HttpError::Broken(..),
                    ..
                }) if left > 0 => {
                    rewind(file)
                        .await
                        .map_err(|error| failed(&what, HttpError::Sink(error)))?;
                }
                result => return result,
            }
        }
        unreachable!("the last try returns")
    }

    async fn blob_once(
        &self,
        descriptor: &Descriptor,
        what: &str,
        file: &mut tokio::fs::File,
    ) -> Result<(), RegistryError> {
        let url = format!("{}/blobs/{}", self.base, descriptor.digest);
        let answer = self.ask(&url, what, &HeaderMap::new()).await?;
        let mut body = Body::new(answer, descriptor.size, self.options.stall);
        let mut hasher = Hasher::default();
        while let Some(piece) = body.next().await.map_err(|source| failed(what, source))? {
            hasher.update(&piece);
            file.write_all(&piece)
                .await
                .map_err(|error| failed(what, HttpError::Sink(error)))?;
        }
        file.flush()
            .await
            .map_err(|error| failed(what, HttpError::Sink(error)))?;
        check_size(what, descriptor.size, body.count())?;
        check_digest(what, &descriptor.digest, &hasher.finish())
    }

    async fn described(&self, kind: &str, descriptor: &Descriptor, what: &str) -> Result<Served, RegistryError> {
        let what = format!("{what} {}", descriptor.digest);
        if descriptor.size > DOCUMENT_BYTES {
            return Err(RegistryError::TooLarge {
                what,
                size: descriptor.size,
            });
        }
        let served = self
            .document(kind, descriptor.digest.as_str(), &what, descriptor.size)
            .await?;
        check_size(&what, descriptor.size, served.bytes.len() as u64)?;
        check_digest(&what, &descriptor.digest, &served.digest)?;
        Ok(served)
    }

    async fn document(&self, kind: &str, name: &str, what: &str, limit: u64) -> Result<Served, RegistryError> {
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, "*/*;q=0.1"].join(", ");
        let accept = HeaderValue::try_from(accept).expect("media types are visible ASCII");
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        let answer = self
            .ask(&format!("{}/{kind}/{name}", self.base), what, &headers)
            .await?;
        let media_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.map(|value| value.split(';').next().unwrap_or_default().trim().to_owned());
        let bytes = self.read(answer, limit).await.map_err(|source| failed(what, source))?;
        let digest = Digest::of(&bytes);
        Ok(Served {
            bytes,
            media_type,
            digest,
        })
    }

    async fn read(&self, answer: Response<Incoming>, limit: u64) -> Result<Bytes, HttpError> {
        let mut body = Body::new(answer, limit, self.options.stall);
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.into())
    }

    /// A successful answer to GET `url`, after authentication and after waiting out a busy registry.
    async fn ask(&self, url: &str, what: &str, headers: &HeaderMap) -> Result<Response<Incoming>, RegistryError> {
        let mut is_authenticated = false;
        let mut tries = 0;
        loop {
            let secret = self.authorization.lock().await.clone();
            let answer = self
                .http
                .get(url, headers, &secret)
                .await
                .map_err(|source| failed(what, source))?;
            tries += 1;
            match answer.status() {
                StatusCode::OK => return Ok(answer),
                StatusCode::UNAUTHORIZED if !is_authenticated => {
                    is_authenticated = true;
                    self.authenticate(&answer, &secret, what).await?;
                }
                StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE
                    if tries < TRIES =>
                {
                    tokio::time::sleep(wait(&answer, tries)).await;
                }
                _ => return Err(self.refusal(answer, what).await),
            }
        }
    }

    /// Answers a challenge, unless another request has done so since `used` was sent.
    async fn authenticate(
        &self,
        answer: &Response<Incoming>,
        used: &HeaderMap,
        what: &str,
    ) -> Result<(), RegistryError> {
        let mut authorization = self.authorization.lock().await;
        if *authorization != *used {
            return Ok(());
        }
        let headers = answer.headers().get_all(WWW_AUTHENTICATE).iter();
        let asked: Vec<&str> = headers.filter_map(|header| header.to_str().ok()).collect();
        let denied = || RegistryError::Denied {
            what: what.to_owned(),
            detail: String::new(),
        };
        let value = match auth::parse(&asked.join(", ")).ok_or_else(denied)? {
            Challenge::Basic => self.basic().ok_or_else(denied)?,
            Challenge::Bearer { realm, service, scope } => {
                let url = auth::token_url(&realm, service.as_deref(), scope.as_deref(), &self.repository);
                self.token(&url, what).await?
            }
        };
        *authorization = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        Ok(())
    }

    fn basic(&self) -> Option<HeaderValue> {
        let credentials = self.options.credentials.as_ref()?;
        let pair = format!("{}:{}", credentials.username, credentials.password);
        secret(format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(pair)
        ))
    }

    /// Fetches a bearer token. The registry names the server, so it is only trusted with credentials over HTTPS, or in
    /// the clear on the registry's own host when the registry itself is talked to in the clear.
    async fn token(&self, url: &str, what: &str) -> Result<HeaderValue, RegistryError> {
        #[derive(serde::Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let address = http::address(url).map_err(|_| RegistryError::Realm(url.to_owned()))?;
        let base = http::address(&self.base).map_err(|source| failed(what, source))?;
        let is_trusted = http::is_https(&address) || !http::is_https(&base) && address.host() == base.host();
        if !is_trusted {
            return Err(RegistryError::Realm(url.to_owned()));
        }
        let secret_headers: HeaderMap = self.basic().map(|value| (AUTHORIZATION, value)).into_iter().collect();
        let from = format!("a token from {}", address.host().unwrap_or_default());
        let answer = self
            .http
            .get(url, &HeaderMap::new(), &secret_headers)
            .await
            .map_err(|source| failed(&from, source))?;
        if answer.status() != StatusCode::OK {
            return Err(self.refusal(answer, what).await);
        }
        let bytes = self
            .read(answer, TOKEN_BYTES)
            .await
            .map_err(|source| failed(&from, source))?;
        let unusable = || RegistryError::Token(url.to_owned());
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| unusable())?;
        let token = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty())
            .ok_or_else(unusable)?;
        secret(format!("Bearer {token}")).ok_or_else(unusable)
    }

    async fn refusal(&self, answer: Response<Incoming>, what: &str) -> RegistryError {
        let (status, what) = (answer.status(), what.to_owned());
        let detail = self
            .read(answer, 64 << 10)
            .await
            .map(|body| message(&body))
            .unwrap_or_default();
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound(what),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied { what, detail },
            _ => RegistryError::Status { what, status, detail },
        }
    }
}

/// The first error message in a registry's answer, made fit for a log line.
fn message(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let message = body["errors"][0]["message"]
        .as_str()
        .or(body["details"].as_str())
        .unwrap_or_default();
    let message: String = message.chars().filter(|c| !c.is_control()).take(200).collect();
    if message.is_empty() {
        message
    } else {
        format!(": {message}")
    }
}

/// The registry's own wish if it is short, else a little longer each time.
fn wait(answer: &Response<Incoming>, tries: u32) -> Duration {
    let asked = answer
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    asked
        .map_or(Duration::from_millis(500) * tries, Duration::from_secs)
        .min(WAIT)
}

fn secret(value: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn is_loopback(host: &str) -> bool {
    let host = host
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        .map_or(host, |(host, _)| host);
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

async fn rewind(file: &mut tokio::fs::File) -> std::io::Result<()> {
    use tokio::io::AsyncSeekExt;
    file.rewind().await?;
    file.set_len(0).await
}

fn failed(what: &str, source: HttpError) -> RegistryError {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_plain_by_itself() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.1.2.3",
            "[::1]:5000",
            "[::1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "docker.io",
            "localhost.evil.io",
            "10.0.0.1:5000",
            "[2001:db8::1]:80",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn messages_are_short_and_clean() {
        assert_eq!(
            message(br#"{"errors":[{"message":"no\nsuch thing"}]}"#),
            ": nosuch thing"
        );
        assert_eq!(message(b"<html>"), "");
    }
}
