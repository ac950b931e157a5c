//! The ports of the node that the agent's pods have: as facts for the Services' task, and what became of them as events.

use std::collections::BTreeSet;
use std::sync::Arc;

use agent_core::service::host_port::{HostPort, Published};
use agent_core::service::{ServiceName, ServicesStatus};
use tokio::sync::watch;

use crate::events::Subject;
use crate::node::Node;
use crate::status::{PodView, Pods, balanced, live_addresses};

/// The pods that ports of the node lead to.
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

fn owner(view: &PodView) -> ServiceName {
    ServiceName::of_pod(&view.desired.namespace, &view.desired.name)
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
