//! The pods as they are: one board that every pod's task writes and that the server and the Services read. It keeps
//! nothing that an agent needs after a restart.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use agent_core::pod::{DesiredPod, PodUid, Protocol};
use agent_core::service::{ContainerPort, Protocol as ServiceProtocol, ReadyPod};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::watch;

/// One pod on the board.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// What was asked for.
    pub desired: DesiredPod,
    /// The object with its present status.
    pub pod: Pod,
    /// The file that defines it; none once that is gone.
    pub origin: Option<PathBuf>,
}

/// Every pod of the node.
pub type Pods = BTreeMap<PodUid, Arc<PodView>>;

/// The board.
#[derive(Clone, Debug)]
pub struct Board {
    pods: Arc<watch::Sender<Pods>>,
}

impl Default for Board {
    fn default() -> Board {
        Board {
            pods: Arc::new(watch::channel(Pods::new()).0),
        }
    }
}

impl Board {
    /// Shows a pod; readers wake only when it looks different.
    pub fn show(&self, view: PodView) {
        self.pods.send_if_modified(|pods| {
            let uid = view.desired.uid.clone();
            let is_news = pods.get(&uid).is_none_or(|shown| **shown != view);
            if is_news {
                pods.insert(uid, Arc::new(view));
            }
            is_news
        });
    }

    /// Takes a pod off that is gone from the node.
    pub fn remove(&self, uid: &PodUid) {
        self.pods.send_if_modified(|pods| pods.remove(uid).is_some());
    }

    /// The pods now.
    pub fn now(&self) -> Pods {
        self.pods.borrow().clone()
    }

    /// The pods now and whenever they change.
    pub fn watch(&self) -> watch::Receiver<Pods> {
        self.pods.subscribe()
    }
}

/// The pods that may be backends of Services; `network` tells the cookie and the file of a pod's network
/// namespace.
pub fn ready_pods(pods: &Pods, mut network: impl FnMut(&DesiredPod) -> Option<(u64, PathBuf)>) -> Vec<ReadyPod> {
    pods.values()
        .filter_map(|view| ready_pod(view, network(&view.desired)))
        .collect()
}

/// The addresses of a pod that has not ended: an ended one keeps them in its status, but nobody listens there.
pub(crate) fn live_addresses(view: &PodView) -> Option<Vec<IpAddr>> {
    let status = view.pod.status.as_ref()?;
    let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    Some(addresses(status)).filter(|addresses| !addresses.is_empty() && !has_ended)
}

/// The protocol of a manifest as Services know it.
pub(crate) fn balanced(protocol: Protocol) -> ServiceProtocol {
    match protocol {
        Protocol::Tcp => ServiceProtocol::Tcp,
        Protocol::Udp => ServiceProtocol::Udp,
        Protocol::Sctp => ServiceProtocol::Sctp,
    }
}

fn ready_pod(view: &PodView, network: Option<(u64, PathBuf)>) -> Option<ReadyPod> {
    let status = view.pod.status.as_ref()?;
    let addresses = live_addresses(view)?;
    let (namespace_cookie, netns) = network.unzip();
    let is_leaving = view.pod.metadata.deletion_timestamp.is_some();
    Some(ReadyPod {
        namespace: view.desired.namespace.clone(),
        name: view.desired.name.clone(),
        labels: view.desired.labels.clone(),
        addresses,
        ports: ports(&view.desired),
        ready: is_ready(status),
        terminating: is_leaving,
        namespace_cookie,
        netns,
    })
}

fn addresses(status: &PodStatus) -> Vec<IpAddr> {
    status
        .pod_ips
        .iter()
        .flatten()
        .filter_map(|ip| ip.ip.parse().ok())
        .collect()
}

/// Whether the pod's Ready condition holds.
pub fn is_ready(status: &PodStatus) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn ports(pod: &DesiredPod) -> Vec<ContainerPort> {
    let all = pod.containers.iter().flat_map(|container| &container.ports);
    all.map(|port| ContainerPort {
        name: port.name.clone(),
        number: port.number,
        protocol: balanced(port.protocol),
    })
    .collect()
}
