//! An endpoint of a Service port: one that a slice names, or a pod of this node that the Service's selector matches.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{ServicePort as PortSpec, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::topology::Place;
use super::{Protocol, ReadyPod};

/// Something that may serve a Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it would answer, though it may be about to go.
    pub serving: bool,
    /// Whether it is about to go.
    pub terminating: bool,
    /// Whether it is on this node.
    pub is_local: bool,
    /// Zones that it is meant for; empty without a hint.
    pub zones: Vec<String>,
    /// Nodes that it is meant for; empty without a hint.
    pub nodes: Vec<String>,
}

/// A Service without a selector selects nothing; its endpoints are in slices that somebody else writes.
pub(super) fn selects(spec: &ServiceSpec, pod: &ReadyPod) -> bool {
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty());
    selector.is_some_and(|selector| selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)))
}

/// What the control plane's controller would write of a pod of this node.
pub(super) fn of_pod(
    pod: &ReadyPod,
    spec: &ServiceSpec,
    port: &PortSpec,
    protocol: Protocol,
    place: &Place,
) -> impl Iterator<Item = Endpoint> {
    let target = match &port.target_port {
        None => positive(port.port),
        Some(IntOrString::Int(target)) => positive(*target),
        Some(IntOrString::String(name)) => named_port(pod, name, protocol),
    };
    let not_ready_too = spec.publish_not_ready_addresses == Some(true);
    let (near_zone, near_node) = match spec.traffic_distribution.as_deref() {
        Some("PreferClose" | "PreferSameZone") => (true, false),
        Some("PreferSameNode") => (true, true),
        _ => (false, false),
    };
    let hint = |wanted: bool, place: &String| Some(place.clone()).filter(|place| wanted && !place.is_empty());
    let endpoint = move |address: SocketAddr| Endpoint {
        address,
        ready: not_ready_too || pod.ready && !pod.terminating,
        serving: pod.ready,
        terminating: pod.terminating,
        is_local: true,
        zones: hint(near_zone, &place.zone).into_iter().collect(),
        nodes: hint(near_node, &place.node).into_iter().collect(),
    };
    let addresses = target.into_iter().flat_map(|target| {
        pod.addresses
            .iter()
            .map(move |address| SocketAddr::new(*address, target))
    });
    addresses.map(endpoint)
}

/// The number behind a name, which every pod may choose for itself. A pod without it is not an endpoint.
fn named_port(pod: &ReadyPod, name: &str, protocol: Protocol) -> Option<u16> {
    let port = pod
        .ports
        .iter()
        .find(|port| port.name.as_deref() == Some(name) && port.protocol == protocol)?;
    Some(port.number)
}

/// A port's number, if it is one.
pub(super) fn positive(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number > 0)
}
