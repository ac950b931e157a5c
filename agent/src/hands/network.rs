//! Attaches pods to the pod network and detaches them, by the library of `cni`.

use std::collections::BTreeMap;

use agent_core::network::Figures;
use agent_core::pod::DesiredPod;
use cni::bandwidth::{Bandwidth, Rate};
use cni::cidr::Cidr;
use cni::ipam;
use cni::pod_network::{self, AttachRequest, NetworkError, NodeNetwork};

use super::inspector::Inspector;
use super::namespaces::{Shared, pin_path};
use crate::node::Node;
use crate::paths::PodPaths;

/// The name of a pod's link inside its namespace.
pub const INTERFACE: &str = "eth0";

/// The pod network as metrics tell it.
pub fn figures(node: &Node) -> Result<Figures, NetworkError> {
    let attachments = pod_network::list_all(&node.network)?;
    let mut attached: BTreeMap<String, usize> = BTreeMap::new();
    for (attachment, _) in &attachments {
        *attached.entry(attachment.network.clone()).or_default() += 1;
    }
    let held = |cidr: &Cidr| {
        let addresses = attachments.iter().flat_map(|(attachment, _)| &attachment.addresses);
        addresses.filter(|address| cidr.contains(**address)).count()
    };
    let counts = node.inspector.as_ref().map(Inspector::counts).unwrap_or_default();
    let ranges = node.network.pod_cidrs.iter();
    Ok(Figures {
        packets: counts
            .into_iter()
            .map(|(count, number)| (count.as_str(), number))
            .collect(),
        attached,
        addresses: ranges
            .map(|cidr| (cidr.to_string(), held(cidr), ipam::capacity(cidr)))
            .collect(),
    })
}

/// Attaches the pod's pinned namespace, or completes what is missing.
pub fn attach(network: &NodeNetwork, pod: &DesiredPod, paths: &PodPaths) -> Result<(), NetworkError> {
    let netns = pin_path(&paths.namespaces(), Shared::Net);
    let request = AttachRequest {
        bandwidth: Bandwidth {
            ingress: pod.bandwidth.ingress.map(rate),
            egress: pod.bandwidth.egress.map(rate),
        },
        ..AttachRequest::new(&netns, pod.uid.as_str(), INTERFACE)
    };
    pod_network::attach(network, &request).map(drop)
}

/// What goes at once after a rest is a tenth of a second's: a short answer does not wait, and a minute has its limit.
fn rate(bits_per_second: u64) -> Rate {
    Rate {
        bits_per_second,
        burst_bits: bits_per_second / 10,
    }
}

/// Removes the pod's link and gives its addresses back. Repeatable.
pub fn detach(network: &NodeNetwork, pod: &DesiredPod) -> Result<(), NetworkError> {
    if pod.host_network {
        return Ok(());
    }
    pod_network::detach(network, pod.uid.as_str(), INTERFACE)
}
