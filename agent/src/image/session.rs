//! Requests to one registry: authenticated when it asks for that, repeated when it is busy, and refusals put into words.

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use tokio::sync::Mutex;

use super::auth::{self, Challenge};
use super::http::{self, Body, Http};
use super::pull::PullOptions;
use super::reference::Reference;
use super::registry::{RegistryError, failed};

/// Tries of one request that fails in a way that may pass.
pub(super) const TRIES: u32 = 3;
/// The longest wait between them, whatever the registry asks for.
const WAIT: Duration = Duration::from_secs(10);
const TOKEN_BYTES: u64 = 1 << 20;
const REFUSAL_BYTES: u64 = 64 << 10;

/// One repository of one registry, as one pull sees it.
pub(super) struct Session {
    http: Http,
    /// `https://registry-1.docker.io/v2/library/busybox`
    base: String,
    repository: String,
    options: PullOptions,
    authorization: Mutex<HeaderMap>,
}

impl Session {
    pub(super) fn new(http: Http, reference: &Reference, options: &PullOptions) -> Self {
        let host = match reference.registry() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let is_plain = options.insecure_http || options.ca_certificates.is_none() && is_loopback(host);
        let scheme = if is_plain { "http" } else { "https" };
        Self {
            http,
            base: format!("{scheme}://{host}/v2/{}", reference.repository()),
            repository: reference.repository().to_owned(),
            options: options.clone(),
            authorization: Mutex::new(HeaderMap::new()),
        }
    }

    /// A successful answer's body of at most `limit` bytes, and its headers. `path` is below the repository's address.
    pub(super) async fn get(
        &self,
        path: &str,
        what: &str,
        headers: &HeaderMap,
        limit: u64,
    ) -> Result<(HeaderMap, Body), RegistryError> {
        let mut answer = self.ask(&format!("{}/{path}", self.base), what, headers).await?;
        let headers = std::mem::take(answer.headers_mut());
        Ok((headers, Body::new(answer, limit, self.options.stall)))
    }

    async fn read(&self, answer: Response<Incoming>, limit: u64) -> Result<Bytes, http::HttpError> {
        Body::new(answer, limit, self.options.stall).collect().await
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
            .read(answer, REFUSAL_BYTES)
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
