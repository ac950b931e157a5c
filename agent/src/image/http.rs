//! The HTTP client under the registry client: bounded in time and size, redirects under rules of our own.
//!
//! HTTP/1.1 only and no content encodings, so what is counted is what is stored. Certificates are checked against the
//! machine's own roots.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, LOCATION};
use hyper::{Request, Response, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::{Instant, timeout, timeout_at};

/// Enough for CDNs that hand a download from host to host.
const REDIRECTS: usize = 5;
const CONNECT_TIME: Duration = Duration::from_secs(10);
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// What a transfer must bring in one stall time.
const STALL_BYTES: usize = 4 << 10;
/// hyper's buffer for a response's head: a larger head is an error.
const HEAD_BYTES: usize = 64 << 10;

/// A client that knows HTTPS and, where allowed, HTTP.
#[derive(Clone)]
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    has_roots: bool,
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The text is no address that we can talk to.
    #[error("{0:?} is not an http or https address")]
    Address(String),
    /// No certificate authorities to check a server's certificate against.
    #[error("talk https to {0}: this machine has no CA certificates; install ca-certificates")]
    NoRoots(String),
    /// The certificates that were given to trust can't be read.
    #[error("read the CA certificates for the registry")]
    Certificates(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Name resolution, connection, TLS, or a malformed answer.
    #[error("ask {host}")]
    Exchange {
        /// Host and port.
        host: String,
        /// What failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{0} did not answer within {ANSWER_TIME:?}")]
    Silent(String),
    /// A redirect that leads nowhere, too far, or out of encryption.
    #[error("refuse the redirect from {from} to {to:?}: {why}")]
    Redirect {
        /// Host and port.
        from: String,
        /// Where to.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// The body breaks off.
    #[error("the transfer broke off after {0} bytes")]
    Broken(u64, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The body comes too slowly to be worth waiting for.
    #[error("the transfer stalled after {0} bytes: less than {STALL_BYTES} bytes in {1:?}")]
    Stalled(u64, Duration),
    /// The body is larger than it may be.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(u64),
    /// What the body was meant for can't take it.
    #[error("write what was fetched")]
    Sink(#[source] io::Error),
}

impl Http {
    /// Trusts the machine's CA certificates. Reads them, so make one and keep it.
    pub(super) fn new() -> Self {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        Self::trusting(roots)
    }

    /// Trusts these certificates (PEM) and no others.
    pub(super) fn with_roots(pem: &[u8]) -> Result<Self, HttpError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| HttpError::Certificates(error.into()))?;
            roots
                .add(certificate)
                .map_err(|error| HttpError::Certificates(error.into()))?;
        }
        Ok(Self::trusting(roots))
    }

    fn trusting(roots: RootCertStore) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIME));
        connector.enforce_http(false);
        let has_roots = !roots.is_empty();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of every default protocol version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .http1_max_buf_size(HEAD_BYTES)
            .build(connector);
        Self { client, has_roots }
    }

    /// GETs `url`, following redirects. `headers` go to the first host only if they are for it alone (`secret`),
    /// and `open` to everyone.
    pub(super) async fn get(
        &self,
        url: &str,
        open: &HeaderMap,
        secret: &HeaderMap,
    ) -> Result<Response<Incoming>, HttpError> {
        let first = address(url)?;
        let mut at = first.clone();
        for _ in 0..=REDIRECTS {
            let is_home = origin(&at) == origin(&first);
            let answer = self.get_once(&at, open, is_home.then_some(secret)).await?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            at = redirect(&at, answer.headers())?;
        }
        let (from, to) = (origin(&first), at.to_string());
        Err(HttpError::Redirect {
            from,
            to,
            why: "more than 5 in a row",
        })
    }

    async fn get_once(
        &self,
        url: &Uri,
        open: &HeaderMap,
        secret: Option<&HeaderMap>,
    ) -> Result<Response<Incoming>, HttpError> {
        let host = origin(url);
        if !self.has_roots && is_https(url) {
            return Err(HttpError::NoRoots(host));
        }
        let mut request = Request::get(url)
            .body(Empty::new())
            .map_err(|_| HttpError::Address(url.to_string()))?;
        request.headers_mut().extend(open.clone());
        request.headers_mut().extend(secret.cloned().unwrap_or_default());
        match timeout(ANSWER_TIME, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(HttpError::Exchange {
                host,
                source: source.into(),
            }),
            Err(_) => Err(HttpError::Silent(host)),
        }
    }
}

/// Checks that a text is an absolute http or https address.
pub(super) fn address(url: &str) -> Result<Uri, HttpError> {
    let uri: Uri = url.parse().map_err(|_| HttpError::Address(url.to_owned()))?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty());
    if is_http {
        Ok(uri)
    } else {
        Err(HttpError::Address(url.to_owned()))
    }
}

pub(super) fn is_https(url: &Uri) -> bool {
    url.scheme_str() == Some("https")
}

/// Scheme, host and port: what credentials belong to.
fn origin(url: &Uri) -> String {
    format!(
        "{}://{}",
        url.scheme_str().unwrap_or_default(),
        url.authority().map_or("", |authority| authority.as_str())
    )
}

/// Where a redirect leads. Encrypted stays encrypted; plain HTTP may change its port, but not its host.
fn redirect(from: &Uri, headers: &HeaderMap) -> Result<Uri, HttpError> {
    let location = headers
        .get(LOCATION)
        .and_then(|location| location.to_str().ok())
        .unwrap_or_default();
    let refuse = |why| HttpError::Redirect {
        from: origin(from),
        to: location.to_owned(),
        why,
    };
    let to = if location.starts_with('/') && !location.starts_with("//") {
        address(&format!("{}{location}", origin(from)))
    } else {
        address(location)
    };
    let to = to.map_err(|_| refuse("it is no address"))?;
    match (is_https(from), is_https(&to)) {
        (_, true) => Ok(to),
        (true, false) => Err(refuse("it leads out of encryption")),
        (false, false) if from.host() == to.host() => Ok(to),
        (false, false) => Err(refuse("it leads to another host in plain HTTP")),
    }
}

/// An answer's body, piece by piece: at most `limit` bytes, at least 4 KiB per `stall`.
pub(super) struct Body {
    body: Incoming,
    limit: u64,
    stall: Duration,
    count: u64,
    /// Bytes that must still come before `deadline`.
    due: usize,
    deadline: Instant,
}

impl Body {
    pub(super) fn new(answer: Response<Incoming>, limit: u64, stall: Duration) -> Self {
        let deadline = Instant::now() + stall;
        Self {
            body: answer.into_body(),
            limit,
            stall,
            count: 0,
            due: STALL_BYTES,
            deadline,
        }
    }

    /// All of it.
    pub(super) async fn collect(mut self) -> Result<Bytes, HttpError> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.into())
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = timeout_at(self.deadline, self.body.frame()).await;
            let Some(frame) = frame.map_err(|_| HttpError::Stalled(self.count, self.stall))? else {
                return Ok(None);
            };
            let frame = frame.map_err(|source| HttpError::Broken(self.count, source.into()))?;
            let Ok(data) = frame.into_data() else { continue };
            self.count += data.len() as u64;
            if self.count > self.limit {
                return Err(HttpError::TooLarge(self.limit));
            }
            self.due = self.due.saturating_sub(data.len());
            if self.due == 0 {
                (self.due, self.deadline) = (STALL_BYTES, Instant::now() + self.stall);
            }
            return Ok(Some(data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_never_leave_encryption_nor_a_plain_host() {
        for (from, location, expected) in [
            ("https://a/x", "https://b/y", Some("https://b/y")),
            ("https://a/x", "/y?z", Some("https://a/y?z")),
            ("https://a/x", "http://a/y", None),
            ("https://a/x", "http://169.254.169.254/latest", None),
            ("http://a:1/x", "http://a:2/y", Some("http://a:2/y")),
            ("http://a:1/x", "http://169.254.169.254/latest", None),
            ("http://a/x", "https://b/y", Some("https://b/y")),
            ("https://a/x", "file:///etc/passwd", None),
            ("https://a/x", "//b/y", None),
            ("https://a/x", "", None),
        ] {
            let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
            let to = redirect(&from.parse().unwrap(), &headers);
            assert_eq!(
                to.ok().map(|uri| uri.to_string()).as_deref(),
                expected,
                "{from} -> {location}"
            );
        }
    }
}
