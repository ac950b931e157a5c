//! Ports of the node that lead to pods: those of the agent's own, and those that the CNI plugin was asked for, as facts for
//! the Services' task; and what became of them as events.
//!
//! What the plugin was asked for stands in the network's nftables table, which leads there by itself where no agent is. An
//! agent reads it from there, after every call of the plugin, when it starts, and now and then: a plugin that does not reach
//! the agent removes a pod by itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agent_core::pod::host_port::HostPort as AskedPort;
use agent_core::pod::{self, host_port};
use agent_core::service::host_port::{HostPort, Published};
use agent_core::service::{Protocol, ServiceName, ServicesStatus};
use cni::mapping::{self, PortMapping};
use cni::pod_network::{self, Attachment};
use tokio::sync::watch;

use crate::events::Subject;
use crate::node::{NETWORK, Node};
use crate::status::{PodView, Pods, balanced, live_addresses};

/// Calls of the plugin within this time are looked at together.
const TOGETHER: Duration = Duration::from_millis(20);

/// How long nobody looks when no plugin calls.
const NOW_AND_THEN: Duration = Duration::from_secs(60);

/// The agent's own pods that ports of the node lead to.
pub(crate) fn published(pods: &Pods) -> Vec<Published> {
    pods.values().filter_map(|view| of_pod(view)).collect()
}

/// A port leads to its pod from the moment the pod has an address until it has none, ready or not.
fn of_pod(view: &PodView) -> Option<Published> {
    let pod = &view.desired;
    let addresses = live_addresses(view)?;
    let ports = pod.containers.iter().flat_map(|container| &container.ports);
    let ports = ports.filter_map(|port| {
        Some(HostPort {
            protocol: balanced(port.protocol),
            address: port.host_address,
            port: port.host_port?,
            target: port.number,
        })
    });
    let ports: Vec<HostPort> = ports.collect();
    (!pod.host_network && !ports.is_empty()).then(|| Published {
        owner: owner(view),
        addresses,
        ports,
    })
}

/// Whose the ports of a pod are.
pub(crate) fn owner(view: &PodView) -> ServiceName {
    ServiceName::of_pod(&view.desired.namespace, &view.desired.name)
}

/// The same as the plugin knows ports.
pub(crate) fn mappings(pods: &Pods) -> Vec<PortMapping> {
    let asked = pods.values().filter(|view| view.desired.refusal.is_none());
    let ports = asked.filter(|view| live_addresses(view).is_some());
    let ports = ports.flat_map(|view| host_port::asked(&view.desired));
    let mapping = |port: AskedPort| PortMapping {
        protocol: match port.protocol {
            pod::Protocol::Tcp => mapping::Protocol::Tcp,
            pod::Protocol::Udp => mapping::Protocol::Udp,
            pod::Protocol::Sctp => mapping::Protocol::Sctp,
        },
        host_address: port.address,
        host_port: port.number,
        pod_port: port.number,
    };
    ports.map(mapping).collect()
}

/// Keeps the node told of what plugins have attached and ports of the node lead to, and the limits of pods to those that are
/// there.
pub(crate) async fn follow_plugins(node: Arc<Node>) {
    let mut calls = node.plugin_calls.subscribe();
    loop {
        calls.mark_unchanged();
        let network = node.network.clone();
        let looked = tokio::task::spawn_blocking(move || {
            if let Err(error) = pod_network::forget_stale_limits(&network) {
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::warn!(error, "limits of pods that are gone are still there");
            }
            pod_network::list_all(&network)
        })
        .await;
        let looked = looked.map_err(anyhow::Error::from).and_then(|all| Ok(all?));
        let now = looked.map(|all| attached(&all).into()).unwrap_or_else(|error| {
            let error = format!("{error:#}");
            tracing::warn!(error, "ports that plugins were asked for can't be looked at");
            // Services wait for the first answer: none is one, too.
            node.attached.borrow().clone().unwrap_or_default()
        });
        show(&node, Some(now));
        // The node has the sender.
        if tokio::time::timeout(NOW_AND_THEN, calls.changed()).await.is_ok() {
            tokio::time::sleep(TOGETHER).await;
        }
    }
}

fn show(node: &Node, now: Option<Arc<[Published]>>) {
    node.attached.send_if_modified(|told| {
        let is_news = *told != now;
        *told = now;
        is_news
    });
}

fn attached(all: &[(Attachment, Vec<PortMapping>)]) -> Vec<Published> {
    let foreign = all
        .iter()
        .filter(|(attachment, ports)| attachment.network != NETWORK && !ports.is_empty());
    let published = foreign.map(|(attachment, ports)| Published {
        owner: ServiceName {
            namespace: attachment.network.as_str().into(),
            name: format!("container/{}", attachment.container_id).into(),
        },
        addresses: attachment.addresses.clone(),
        ports: ports.iter().map(of_mapping).collect(),
    });
    published.collect()
}

fn of_mapping(port: &PortMapping) -> HostPort {
    HostPort {
        protocol: match port.protocol {
            mapping::Protocol::Tcp => Protocol::Tcp,
            mapping::Protocol::Udp => Protocol::Udp,
            mapping::Protocol::Sctp => Protocol::Sctp,
        },
        address: port.host_address,
        port: port.host_port,
        target: port.pod_port,
    }
}

/// What somebody else's pod has, as a kubelet would see it.
pub(crate) fn held(other: &Published) -> (String, Vec<AskedPort>) {
    let port = |port: &HostPort| AskedPort {
        protocol: match port.protocol {
            Protocol::Tcp => pod::Protocol::Tcp,
            Protocol::Udp => pod::Protocol::Udp,
            Protocol::Sctp => pod::Protocol::Sctp,
        },
        address: port.address,
        number: port.port,
    };
    (other.owner.to_string(), other.ports.iter().map(port).collect())
}

/// Tells pods what keeps ports of the node from leading to them, each thing once.
pub(crate) async fn tell(node: Arc<Node>, mut status: watch::Receiver<ServicesStatus>) {
    let mut told: BTreeSet<(ServiceName, String)> = BTreeSet::new();
    loop {
        let ports = Arc::clone(&status.borrow_and_update().host_ports);
        let problems = ports.iter().flat_map(|(owner, pod)| {
            let problems = pod.problems.iter();
            problems.map(|problem| (owner.clone(), problem.clone()))
        });
        let now: BTreeSet<(ServiceName, String)> = problems.collect();
        for (owner, problem) in now.difference(&told) {
            let pods = node.board.now();
            if let Some((uid, _)) = pods.iter().find(|(_, view)| self::owner(view) == *owner) {
                let subject = Subject::Pod(uid.as_str().into());
                node.events.warning(subject, "HostPortConflict", problem.clone());
            }
        }
        told = now;
        let is_news = |status: &ServicesStatus| !Arc::ptr_eq(&status.host_ports, &ports);
        if status.wait_for(is_news).await.is_err() {
            return;
        }
    }
}
