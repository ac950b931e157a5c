//! The pod network of one node: attach a network namespace, detach it, list what is attached.
//!
//! Every call is blocking, works in the network namespace of the calling thread (the node's) and may be made by many
//! threads and processes at once. Nothing is remembered between calls but hints below [`NodeNetwork::run_dir`]; losing
//! them loses the cool-down of addresses and nothing else.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::cidr::Cidr;

/// What a node's pod network is made of; the caller keeps one and passes it to every call.
#[derive(Debug, Clone)]
pub struct NodeNetwork {
    /// Name of the network, `[A-Za-z0-9][A-Za-z0-9_.-]*`: part of every link's identity; several may share a node.
    pub name: String,
    /// Ranges that pods get addresses from, one of each family at most; a pod gets one address from each.
    pub pod_cidrs: Vec<Cidr>,
    /// Ranges of Service addresses: unreachable for every packet that no Service program has turned.
    pub service_cidrs: Vec<Cidr>,
    /// Bytes of the largest packet on a pod link.
    pub mtu: u32,
    /// Directory for hints; made when missing, on a file system that a reboot empties.
    pub run_dir: PathBuf,
}

/// Who wants to be attached.
#[derive(Debug, Clone)]
pub struct AttachRequest<'a> {
    /// Path of the pod's network namespace: a bind mount or `/proc/<pid>/ns/net`.
    pub netns: &'a Path,
    /// Id of the container or pod, unique on the node: `[A-Za-z0-9][A-Za-z0-9_.-]*`.
    pub container_id: &'a str,
    /// Name of the link inside the namespace, up to 15 bytes: `eth0`.
    pub ifname: &'a str,
    /// Addresses to have instead of the next free ones, one of each family at most; each lies in a pod range.
    pub addresses: &'a [IpAddr],
}

/// One pod's link, as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the network.
    pub network: String,
    /// Id of the container or pod.
    pub container_id: String,
    /// Name of the link inside the pod's namespace.
    pub ifname: String,
    /// Addresses of the pod, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Next hop of the pod's default routes, in the order of `addresses`.
    pub gateways: Vec<IpAddr>,
    /// Hardware address of the pod's end.
    pub mac: [u8; 6],
    /// Name of the host's end.
    pub host_link: String,
    /// Interface index of the host's end.
    pub host_index: u32,
    /// Whether every step of the attaching was done; a half-made one is repaired by [`attach`] and removed by [`detach`].
    pub complete: bool,
}

/// Why the pod network could not be changed or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The request or the configuration is wrong; trying again does not help.
    #[error("{0}")]
    Invalid(String),
}

/// Makes the node ready for pods: routes that keep unassigned pod and Service addresses on the node. Idempotent.
///
/// # Errors
/// When the kernel refuses, or the configuration is wrong.
pub fn prepare(network: &NodeNetwork) -> Result<(), NetworkError> {
    let _ = network;
    Err(NetworkError::Invalid("prepare is not built".to_owned()))
}

/// Removes what [`prepare`] made and every link of this network, so that nothing of it is left. Idempotent.
///
/// # Errors
/// When the kernel refuses.
pub fn teardown(network: &NodeNetwork) -> Result<(), NetworkError> {
    let _ = network;
    Err(NetworkError::Invalid("teardown is not built".to_owned()))
}

/// Gives a pod its link, addresses and routes. For a container that is attached already, or half so, completes what is
/// missing and answers the same addresses.
///
/// # Errors
/// When no address is free, the namespace is missing, or the kernel refuses; nothing is left behind then.
pub fn attach(network: &NodeNetwork, request: &AttachRequest<'_>) -> Result<Attachment, NetworkError> {
    let _ = (network, request);
    Err(NetworkError::Invalid("attach is not built".to_owned()))
}

/// Removes the link of a container, both ends, and frees its addresses afterwards. Does nothing when there is none.
///
/// # Errors
/// When the kernel refuses.
pub fn detach(network: &NodeNetwork, container_id: &str, ifname: &str) -> Result<(), NetworkError> {
    let _ = (network, container_id, ifname);
    Err(NetworkError::Invalid("detach is not built".to_owned()))
}

/// Everything of this network that is attached, by container id; half-made links too.
///
/// # Errors
/// When the kernel's tables can't be read.
pub fn list(network: &NodeNetwork) -> Result<Vec<Attachment>, NetworkError> {
    let _ = network;
    Err(NetworkError::Invalid("list is not built".to_owned()))
}
