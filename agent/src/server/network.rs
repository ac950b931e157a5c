//! What the pod network is, and whether it is as it should be: `orlop network`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use cni::pod_network::{self, NetworkError};

use super::Api;
use super::answer::{Answer, Problem, json};
use super::message::{NetworkCheck, NetworkPod, NetworkView, PeerView};
use crate::hands::network::INTERFACE;
use crate::host_ports;
use crate::status::PodView;

/// Everything that is attached, by whom, and where it leads.
pub(super) async fn show(api: &Arc<Api>) -> Result<Answer, Problem> {
    let node = Arc::clone(&api.node);
    let looked = tokio::task::spawn_blocking(move || pod_network::list_all(&node.network)).await;
    let attachments = looked.map_err(Problem::failed)?.map_err(Problem::failed)?;
    let names = names(api);
    let shown = api.node.board.now();
    let own = host_ports::published(&shown);
    let published = |uid: &str| {
        let view = shown.iter().find(|(known, _)| known.as_str() == uid);
        let owner = view.map(|(_, view)| host_ports::owner(view));
        let pod = own.iter().find(|pod| Some(&pod.owner) == owner.as_ref());
        pod.map_or(0, |pod| pod.ports.len())
    };
    let network = &api.node.network;
    let pods = attachments.into_iter().map(|(attachment, ports)| NetworkPod {
        aliases: pod_network::aliases(network, &attachment),
        name: names.get(&attachment.container_id).cloned(),
        network: attachment.network,
        addresses: attachment.addresses,
        mac: attachment.mac.map(|byte| format!("{byte:02x}")).join(":"),
        link: attachment.host_link,
        mtu: attachment.mtu,
        ports: ports.len() + published(&attachment.container_id),
        ingress: attachment.bandwidth.ingress.map(|rate| rate.bits_per_second),
        egress: attachment.bandwidth.egress.map(|rate| rate.bits_per_second),
        complete: attachment.complete,
        container_id: attachment.container_id,
    });
    let counts = api.node.inspector.as_ref().map(|inspector| inspector.counts());
    json(&NetworkView {
        pods: pods.collect(),
        pod_cidrs: network.pod_cidrs.iter().map(ToString::to_string).collect(),
        peers: network
            .peers
            .iter()
            .map(|peer| PeerView {
                pod_cidrs: peer.pod_cidrs.iter().map(ToString::to_string).collect(),
                addresses: peer.addresses.clone(),
            })
            .collect(),
        counts: counts
            .into_iter()
            .flatten()
            .map(|(count, number)| (count.as_str().to_owned(), number))
            .collect(),
    })
}

/// Removes what no pod has a use for, and makes what is missing.
pub(super) async fn check(api: &Arc<Api>) -> Result<Answer, Problem> {
    let mut known: BTreeSet<String> = names(api).into_keys().collect();
    // A pod that is being started or adopted may not be shown yet, but has its directory.
    known.extend(directories(&api.node.config.places.pod_runs()));
    let node = Arc::clone(&api.node);
    let repaired = tokio::task::spawn_blocking(move || {
        let network = &node.network;
        let valid: Vec<(String, String)> = known.into_iter().map(|uid| (uid, INTERFACE.to_owned())).collect();
        pod_network::prepare(network)?;
        pod_network::forget_stale_aliases(network)?;
        pod_network::forget_stale_limits(network)?;
        Ok::<_, NetworkError>(NetworkCheck {
            links: pod_network::retain(network, &valid)?,
            ports: pod_network::close_stale_ports(network)?,
        })
    })
    .await;
    json(&repaired.map_err(Problem::failed)?.map_err(Problem::failed)?)
}

fn directories(dir: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// `namespace/name` of the pods that are there, by uid.
fn names(api: &Api) -> BTreeMap<String, String> {
    let name = |view: &PodView| {
        let metadata = &view.pod.metadata;
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        format!("{}/{}", part(&metadata.namespace), part(&metadata.name))
    };
    let pods = api.node.board.now();
    pods.iter()
        .map(|(uid, view)| (uid.as_str().to_owned(), name(view)))
        .collect()
}
