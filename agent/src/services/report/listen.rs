//! A server of short answers: HTTP/1.1, one request a connection, everything within limits.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use agent_core::service::health::Answer;
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind as bind_socket, listen, setsockopt, socket,
    sockopt,
};
use tokio::net::TcpListener;

use crate::accept::accept;

/// Connections at once to one port; more wait to be accepted.
const CONNECTIONS: usize = 64;
/// How long a client may take for its request.
const REQUEST: Duration = Duration::from_secs(5);
/// How long everything about a connection may take.
const CONNECTION: Duration = Duration::from_secs(20);
/// The most bytes of a request's head, the least that hyper takes.
const HEAD: usize = 8192;
const HEADERS: usize = 32;

/// Listens. The unspecified address of either family is all addresses of both, as for kube-proxy.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let everywhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
    let opened = if address.ip().is_unspecified() {
        // Without IPv6 there is the other.
        open(everywhere).or_else(|_| open(address))?
    } else {
        open(address)?
    };
    TcpListener::from_std(opened)
}

fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &!address.ip().is_unspecified())?;
    }
    bind_socket(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::MAXCONN)?;
    Ok(fd.into())
}

/// Answers by the path that is asked for, until it is dropped.
pub(super) async fn serve<F>(listener: TcpListener, answer: impl Fn(String) -> F + Clone + Send + Sync + 'static)
where
    F: Future<Output = Answer> + Send + 'static,
{
    accept(listener, CONNECTIONS, |stream| {
        let answer = answer.clone();
        let service = service_fn(move |request: hyper::Request<_>| {
            let answered = answer(request.uri().path().to_owned());
            async move { Ok::<_, Infallible>(response(answered.await)) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST)
            .max_headers(HEADERS)
            .max_buf_size(HEAD)
            .serve_connection(TokioIo::new(stream), service);
        async move {
            match tokio::time::timeout(CONNECTION, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "connection ended early"),
                Err(_) => tracing::debug!("a client took too long"),
            }
        }
    })
    .await;
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    // Every part of an answer is ours and well formed.
    response.body(Full::from(answer.body)).unwrap_or_default()
}

pub(super) fn text(body: String) -> Answer {
    plain(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
}

pub(super) fn not_found() -> Answer {
    let body = "404 page not found\n".to_owned();
    plain(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", body)
}

pub(super) fn unavailable(why: &str) -> Answer {
    plain(
        StatusCode::SERVICE_UNAVAILABLE,
        "text/plain; charset=utf-8",
        why.to_owned(),
    )
}

fn plain(status: StatusCode, kind: &str, body: String) -> Answer {
    Answer {
        status: status.as_u16(),
        headers: vec![
            ("Content-Type", kind.to_owned()),
            ("X-Content-Type-Options", "nosniff".to_owned()),
        ],
        body,
    }
}
