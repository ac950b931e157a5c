//! Attaches pods to the pod network and detaches them, by the library of `cni`.

use agent_core::pod::DesiredPod;
use cni::pod_network::{self, AttachRequest, NetworkError, NodeNetwork};

use super::namespaces::{Shared, pin_path};
use crate::paths::PodPaths;

/// The name of a pod's link inside its namespace.
pub const INTERFACE: &str = "eth0";

/// Attaches the pod's pinned namespace, or completes what is missing.
pub fn attach(network: &NodeNetwork, pod: &DesiredPod, paths: &PodPaths) -> Result<(), NetworkError> {
    let netns = pin_path(&paths.namespaces(), Shared::Net);
    let request = AttachRequest::new(&netns, pod.uid.as_str(), INTERFACE);
    pod_network::attach(network, &request).map(drop)
}

/// Removes the pod's link and gives its addresses back. Repeatable.
pub fn detach(network: &NodeNetwork, pod: &DesiredPod) -> Result<(), NetworkError> {
    if pod.host_network {
        return Ok(());
    }
    pod_network::detach(network, pod.uid.as_str(), INTERFACE)
}
