//! An EndpointSlice as far as Services follow from it. There may be a million endpoints, and the object that came is ten
//! times as large.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ServicePort as PortSpec;
use k8s_openapi::api::discovery::v1::{Endpoint as Given, EndpointPort, EndpointSlice};
use k8s_openapi::jiff::Timestamp;

use super::endpoint::{Endpoint, positive};
use super::shelf::Named;
use super::topology::Place;
use super::{Protocol, ServiceName};

/// The label that says whose a slice is.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Written by whoever writes EndpointSlices: the time of the change that they follow from.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// A slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    namespace: Arc<str>,
    name: Arc<str>,
    /// The Service that it belongs to, in the same namespace.
    service: Option<Arc<str>>,
    ports: Box<[Port]>,
    members: Box<[Member]>,
    trigger: Option<Timestamp>,
}

/// A port of all its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: Box<str>,
    protocol: Protocol,
    number: u16,
}

/// An endpoint of all its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    address: IpAddr,
    ready: bool,
    serving: bool,
    terminating: bool,
    node: Option<Arc<str>>,
    hints: Option<Box<Hints>>,
}

/// Whom an endpoint is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hints {
    zones: Vec<String>,
    nodes: Vec<String>,
}

impl Slice {
    /// What an object says.
    pub fn of(slice: &EndpointSlice) -> Self {
        let metadata = &slice.metadata;
        let name: Arc<str> = metadata.name.as_deref().unwrap_or_default().into();
        let service = metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL));
        let trigger = metadata.annotations.as_ref().and_then(|all| all.get(TRIGGER));
        Self {
            namespace: metadata.namespace.as_deref().unwrap_or("default").into(),
            service: service.map(|service| shared(service, &name)),
            name,
            ports: slice.ports.iter().flatten().filter_map(Port::of).collect(),
            members: members(slice),
            trigger: trigger.and_then(|time| time.parse().ok()),
        }
    }

    /// The Service that it belongs to.
    pub fn owner(&self) -> Option<ServiceName> {
        Some(ServiceName {
            namespace: Arc::clone(&self.namespace),
            name: Arc::clone(self.service.as_ref()?),
        })
    }

    /// How many endpoints it has.
    pub(super) fn size(&self) -> usize {
        self.members.len()
    }

    /// When somebody changed what it follows from, if the object tells.
    pub fn trigger(&self) -> Option<Timestamp> {
        self.trigger
    }

    /// Its endpoints for one port.
    pub(super) fn endpoints(
        &self,
        port: &PortSpec,
        protocol: Protocol,
        place: &Place,
    ) -> impl Iterator<Item = Endpoint> {
        let wanted = port.name.as_deref().unwrap_or_default();
        let is_meant = |port: &&Port| *port.name == *wanted && port.protocol == protocol;
        let port = self.ports.iter().find(is_meant).filter(|port| port.number > 0);
        let members = port
            .into_iter()
            .flat_map(|port| self.members.iter().map(|member| (port.number, member)));
        members.map(|(port, member)| member.endpoint(port, place))
    }
}

impl Named for Slice {
    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Port {
    /// A port without a number is nobody's, but stands before others of its name; one of a protocol that is not balanced
    /// is not asked for.
    fn of(port: &EndpointPort) -> Option<Self> {
        Some(Self {
            name: port.name.as_deref().unwrap_or_default().into(),
            protocol: Protocol::parse(port.protocol.as_deref()).ok()?,
            number: port.port.and_then(positive).unwrap_or(0),
        })
    }
}

fn members(slice: &EndpointSlice) -> Box<[Member]> {
    let is_v6 = slice.address_type == "IPv6";
    let mut members: Vec<Member> = Vec::new();
    for given in slice.endpoints.iter().flatten() {
        let before = members.last().and_then(|member| member.node.as_ref());
        members.extend(Member::of(given, is_v6, before));
    }
    members.into()
}

impl Member {
    /// Only the first address of an endpoint counts, as for kube-proxy. `node` is the one of the endpoint before.
    fn of(given: &Given, is_v6: bool, node: Option<&Arc<str>>) -> Option<Self> {
        let address: IpAddr = given.addresses.first()?.parse().ok()?;
        let conditions = given.conditions.as_ref();
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let own_node = given.node_name.as_deref();
        (address.is_ipv6() == is_v6).then(|| Self {
            address,
            ready,
            serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(ready),
            terminating: conditions.is_some_and(|conditions| conditions.terminating == Some(true)),
            node: own_node.map(|own| node.map_or_else(|| own.into(), |node| shared(own, node))),
            hints: Hints::of(given),
        })
    }

    fn endpoint(&self, port: u16, place: &Place) -> Endpoint {
        let hints = |of: fn(&Hints) -> &Vec<String>| self.hints.as_deref().map(of).cloned().unwrap_or_default();
        Endpoint {
            address: SocketAddr::new(self.address, port),
            ready: self.ready,
            serving: self.serving,
            terminating: self.terminating,
            is_local: self.node.as_deref() == Some(&*place.node),
            zones: hints(|hints| &hints.zones),
            nodes: hints(|hints| &hints.nodes),
        }
    }
}

impl Hints {
    fn of(given: &Given) -> Option<Box<Self>> {
        let hints = given.hints.as_ref()?;
        let zones: Vec<String> = hints.for_zones.iter().flatten().map(|zone| zone.name.clone()).collect();
        let nodes: Vec<String> = hints.for_nodes.iter().flatten().map(|node| node.name.clone()).collect();
        (!zones.is_empty() || !nodes.is_empty()).then(|| Box::new(Self { zones, nodes }))
    }
}

/// The same text, as the same allocation where it is the known one.
fn shared(text: &str, known: &Arc<str>) -> Arc<str> {
    if **known == *text {
        Arc::clone(known)
    } else {
        text.into()
    }
}
