//! The local API: HTTP/1.1 on a unix socket that only root can reach. This file accepts and routes; each verb has its own.

mod answer;
mod apply;
pub mod cni;
mod exec;
pub mod frame;
mod images;
mod logs;
pub mod message;
mod network;
mod objects;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use agent_core::service::ServicesStatus;
use anyhow::Context;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};

use crate::accept::accept;
use crate::node::Node;
use crate::services::Query;
use crate::sources::{Rescan, WantedReceiver};
use answer::{Answer, Problem};

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 256;

/// What the API speaks for.
pub struct Api {
    /// The node.
    pub node: Arc<Node>,
    /// What is wanted.
    pub wanted: WantedReceiver,
    /// Has the manifests read at once.
    pub rescan: Rescan,
    /// What is said about Services.
    pub services: watch::Receiver<ServicesStatus>,
    /// Asks for the same with fresh counters.
    pub queries: mpsc::Sender<Query>,
}

/// Binds the socket, mode 0600. The caller holds the lock of the run directory, so a socket that is there is dead.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
    // Bound under another name, so that nobody connects before the mode is set.
    let fresh = path.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).with_context(|| format!("bind {}", fresh.display()))?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&fresh, path))
        .with_context(|| format!("set up {}", path.display()))?;
    Ok(listener)
}

/// Serves until the agent ends.
pub async fn serve(listener: UnixListener, api: Arc<Api>) {
    accept(listener, CONNECTIONS, |stream| {
        let api = Arc::clone(&api);
        async move {
            let service = service_fn(move |request| {
                let api = Arc::clone(&api);
                async move { Ok::<_, std::convert::Infallible>(answer::finish(route(&api, request).await)) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "connection ended early");
            }
        }
    })
    .await;
}

async fn route(api: &Arc<Api>, request: Request<Incoming>) -> Result<Answer, Problem> {
    let path = request.uri().path().to_string();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let method = request.method().clone();
    match (&method, parts.as_slice()) {
        (&Method::GET, ["healthz"]) => Ok(answer::text("ok")),
        (&Method::GET, ["version"]) => objects::version(api),
        (&Method::GET, ["v1", "network"]) => network::show(api).await,
        (&Method::POST, ["v1", "network", "check"]) => network::check(api).await,
        (&Method::GET, ["v1", resource]) => objects::list(api, resource).await,
        (&Method::GET, ["v1", "services", "details"]) => objects::service_details(api).await,
        (&Method::GET, ["v1", "services", "trace", protocol, source, address, port]) => {
            objects::trace(api, [protocol, source, address, port]).await
        }
        (&Method::GET, ["v1", "describe", resource, namespace, name]) => {
            objects::describe(api, resource, namespace, name).await
        }
        (&Method::GET, ["v1", resource, namespace, name]) => objects::get(api, resource, namespace, name).await,
        (&Method::DELETE, ["v1", resource, namespace, name]) => apply::delete(api, resource, namespace, name).await,
        (&Method::POST, ["v1", "apply"]) => apply::apply(api, request).await,
        (&Method::POST, ["v1", "delete"]) => apply::delete_file(api, request).await,
        (&Method::POST, ["v1", "logs"]) => logs::logs(api, request).await,
        (&Method::POST, ["v1", "exec"]) => exec::exec(api, request).await,
        (&Method::POST, ["v1", "images", "load"]) => images::load(api, request).await,
        (&Method::POST, ["v1", "images", "pull"]) => images::pull(api, request).await,
        _ => Err(Problem::not_found(format!("no such thing: {method} {path}"))),
    }
}
