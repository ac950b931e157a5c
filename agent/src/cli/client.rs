//! The command line's side of the agent's socket: one HTTP/1.1 connection a request. It knows no resource.

use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::server::message::Failure;

/// The largest answer that is read whole; lists of a full node are far below it.
const ANSWER_LIMIT: usize = 64 << 20;

/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Where the agent listens.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the agent at `socket`; connects with each request.
    pub fn new(socket: PathBuf) -> Client {
        Client { socket }
    }

    /// Gets and parses JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.json(Method::GET, path, empty()).await
    }

    /// Sends a body and parses the JSON that comes back.
    pub async fn json<T: DeserializeOwned>(&self, method: Method, path: &str, body: Body) -> anyhow::Result<T> {
        let answer = self.send(method, path, body).await?;
        let bytes = collect(answer).await?;
        serde_json::from_slice(&bytes).with_context(|| format!("read the agent's answer to {path}"))
    }

    /// Sends a request; the answer's body is still to be read. An answer that is not a success is an error.
    pub async fn send(&self, method: Method, path: &str, body: Body) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "orlop")
            .body(body)?;
        let answer = self.exchange(request).await?;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(failure(answer).await)
        }
    }

    /// Sends a JSON body and turns the connection into a stream of `protocol`.
    pub async fn upgrade(
        &self,
        path: &str,
        protocol: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<TokioIo<Upgraded>> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, "orlop")
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, protocol)
            .body(json_body(body)?)?;
        let answer = self.exchange(request).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(failure(answer).await);
        }
        let upgraded = hyper::upgrade::on(answer)
            .await
            .context("switch the connection's protocol")?;
        Ok(TokioIo::new(upgraded))
    }

    async fn exchange(&self, request: Request<Body>) -> anyhow::Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| self.unreachable(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.context("talk to the agent")
    }
}

impl Client {
    fn unreachable(&self, error: std::io::Error) -> anyhow::Error {
        let socket = self.socket.display();
        if matches!(
            error.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
        ) {
            anyhow!("no agent answers at {socket}; is `orlop agent` running?")
        } else {
            anyhow!(error).context(format!("connect to {socket}"))
        }
    }
}

/// No body.
pub fn empty() -> Body {
    Full::default().map_err(|never| match never {}).boxed_unsync()
}

/// Bytes as a body.
pub fn bytes_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A value as a JSON body.
pub fn json_body(value: &impl Serialize) -> anyhow::Result<Body> {
    Ok(bytes_body(serde_json::to_vec(value)?))
}

async fn collect(answer: Response<Incoming>) -> anyhow::Result<Bytes> {
    let body = Limited::new(answer.into_body(), ANSWER_LIMIT);
    let collected = body
        .collect()
        .await
        .map_err(|error| anyhow!("read the agent's answer: {error}"))?;
    Ok(collected.to_bytes())
}

async fn failure(answer: Response<Incoming>) -> anyhow::Error {
    let status = answer.status();
    let said = async {
        let bytes = collect(answer).await?;
        match serde_json::from_slice::<Failure>(&bytes) {
            Ok(failure) => Ok(failure.error),
            Err(_) => bail!("the agent answered {status}"),
        }
    };
    match said.await {
        Ok(message) => anyhow!(message),
        Err(error) => error,
    }
}
