//! What Services tell over HTTP, as kube-proxy does: `/healthz` and `/livez`, `/metrics`, and the health-check node ports.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_core::network;
use agent_core::service::ServicesStatus;
use agent_core::service::health::{self, Answer, Progress};
use agent_core::service::metrics;
use tokio::sync::{mpsc, oneshot, watch};

use super::{BindAddress, Query, ServiceFacts};
use crate::hands::network::figures;
use crate::node::{Node, timestamp};

mod checks;
mod listen;

/// Between tries to listen.
const RETRY: Duration = Duration::from_secs(5);
/// How long a scrape waits for an update that is being written.
const SCRAPE: Duration = Duration::from_secs(8);

/// Who answers.
pub struct Reporter {
    facts: watch::Receiver<Option<Arc<ServiceFacts>>>,
    status: watch::Receiver<ServicesStatus>,
    queries: mpsc::Sender<Query>,
    /// Whose pod network is told of, too.
    node: Option<Arc<Node>>,
    /// How often `healthz` and `livez` were answered with which status.
    answers: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

impl Reporter {
    /// Tells what comes through these channels; nothing is read before [`Reporter::run`].
    pub fn new(
        facts: watch::Receiver<Option<Arc<ServiceFacts>>>,
        status: watch::Receiver<ServicesStatus>,
        queries: mpsc::Sender<Query>,
    ) -> Self {
        Self {
            facts,
            status,
            queries,
            node: None,
            answers: Mutex::default(),
        }
    }

    /// The same, and of a node's pod network.
    pub fn of_node(self, node: Arc<Node>) -> Self {
        Self {
            node: Some(node),
            ..self
        }
    }

    /// Answers until it is dropped.
    pub async fn run(self: Arc<Self>, healthz: BindAddress, metrics: BindAddress) {
        let health = Arc::clone(&self);
        let scrapes = Arc::clone(&self);
        tokio::join!(
            listen_on(healthz, move |path| {
                let answer = health.health(&path);
                async move { answer }
            }),
            listen_on(metrics, move |path| Arc::clone(&scrapes).metrics(path)),
            checks::run(&self),
        );
    }

    fn health(&self, path: &str) -> Answer {
        let (progress, now) = (self.progress(), Instant::now());
        let (name, answer) = match path {
            "/healthz" => (
                "healthz",
                health::healthz(&progress, self.is_leaving(), now, timestamp()),
            ),
            "/livez" => ("livez", health::livez(&progress, now, timestamp())),
            _ => return listen::not_found(),
        };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry((name, answer.status)).or_default() += 1;
        answer
    }

    async fn metrics(self: Arc<Self>, path: String) -> Answer {
        match path.as_str() {
            "/metrics" => self.scrape().await,
            "/healthz" => listen::text("ok".into()),
            "/proxyMode" => listen::text("ebpf".into()),
            _ => listen::not_found(),
        }
    }

    async fn scrape(&self) -> Answer {
        let (query, answer) = oneshot::channel();
        let asked = async {
            self.queries.send(Query::Scrape(query)).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(SCRAPE, asked).await {
            Ok(Some(mut scrape)) => {
                scrape.answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
                listen::text(metrics::text(&scrape) + &self.network().await)
            }
            Ok(None) | Err(_) => listen::unavailable("the Service maps can't be read now\n"),
        }
    }

    /// What can't be looked at now is left out.
    async fn network(&self) -> String {
        let Some(node) = self.node.clone() else {
            return String::new();
        };
        let looked = tokio::task::spawn_blocking(move || figures(&node)).await;
        match looked {
            Ok(Ok(figures)) => network::text(&figures),
            Ok(Err(error)) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::warn!(error, "the pod network can't be told of");
                String::new()
            }
            Err(_) => String::new(),
        }
    }

    fn progress(&self) -> Progress {
        self.status.borrow().progress
    }

    fn is_leaving(&self) -> bool {
        self.facts.borrow().as_ref().is_some_and(|facts| facts.node.leaving)
    }
}

/// Answers on an address for as long as it lasts. Another one may have it for now.
async fn listen_on<F>(address: BindAddress, answer: impl Fn(String) -> F + Clone + Send + Sync + 'static)
where
    F: Future<Output = Answer> + Send + 'static,
{
    let BindAddress(Some(address)) = address else {
        return;
    };
    let listener = opened(address).await;
    listen::serve(listener, answer).await;
}

async fn opened(address: SocketAddr) -> tokio::net::TcpListener {
    let mut told = false;
    loop {
        match listen::bind(address) {
            Ok(listener) => return listener,
            Err(error) if !told => tracing::error!(%address, %error, "listen; trying again"),
            Err(_) => {}
        }
        told = true;
        tokio::time::sleep(RETRY).await;
    }
}
