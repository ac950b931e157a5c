//! Services: which address leads to which backends, and how the kernel's maps come to say so.
//!
//! The chain is `table` (what the objects mean) → `image` (what every map should hold) → `diff` (steps from what the maps
//! hold to that). Everything is a pure function; `agent::hands::maps` performs the steps. What happens to a connection is
//! decided in the kernel by `ebpf_common::lookup`, not here.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use shelf::Named as _;
use walk::Walk;

pub mod address;
mod bulk;
pub mod catalog;
pub mod detours;
pub mod diff;
pub mod endpoint;
pub mod flows;
pub mod health;
pub mod host_port;
pub mod ids;
pub mod image;
pub mod maglev;
pub mod metrics;
pub mod pod_links;
pub mod shelf;
pub mod slice;
pub mod table;
pub mod topology;
pub mod walk;

/// Namespace and name of a Service, or of a pod with ports of the node. A copy is cheap: every map of Services has one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name within the namespace.
    pub name: Arc<str>,
}

impl ServiceName {
    /// The name of a Service; the namespace is `default` where the object has none.
    pub fn of(service: &Service) -> Self {
        Self {
            namespace: service.namespace().into(),
            name: service.name().into(),
        }
    }
}

impl Ord for ServiceName {
    fn cmp(&self, other: &Self) -> Ordering {
        let namespaces = if Arc::ptr_eq(&self.namespace, &other.namespace) {
            Ordering::Equal
        } else {
            self.namespace.cmp(&other.namespace)
        };
        namespaces.then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for ServiceName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocols that Services balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol of a manifest, TCP where it says nothing.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn parse(name: Option<&str>) -> Result<Self, String> {
        match name.unwrap_or("TCP") {
            "TCP" => Ok(Protocol::Tcp),
            "UDP" => Ok(Protocol::Udp),
            "SCTP" => Ok(Protocol::Sctp),
            other => Err(format!("spec.ports: protocol {other} is not balanced")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// One port of a Service: what has counters of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// The Service.
    pub service: ServiceName,
    /// Protocol.
    pub protocol: Protocol,
    /// The port that clients connect to.
    pub port: u16,
}

/// A pod that may be a backend, as the agent observes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyPod {
    /// Namespace; a Service selects in its own only.
    pub namespace: String,
    /// The pod's name, for messages.
    pub name: String,
    /// Labels, matched by a Service's selector.
    pub labels: BTreeMap<String, String>,
    /// The pod's addresses, at most one of each family is used.
    pub addresses: Vec<IpAddr>,
    /// Declared ports of all containers, which named target ports refer to.
    pub ports: Vec<ContainerPort>,
    /// Whether its Ready condition holds; a pod whose does not counts only for `publishNotReadyAddresses`.
    pub ready: bool,
    /// Whether it is about to end. It is used for as long as it is ready and there is no other.
    pub terminating: bool,
    /// Cookie of its network namespace, by which its connections are known to come from its addresses.
    pub namespace_cookie: Option<u64>,
    /// File that stands for its network namespace; none for a pod in the host's network.
    pub netns: Option<PathBuf>,
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Port number in the pod's network.
    pub number: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// A range of addresses, for instance 10.96.0.0/16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    /// The first address; bits beyond the prefix are zero.
    pub address: IpAddr,
    /// Length of the prefix in bits: up to 32 or 128.
    pub prefix: u8,
}

/// What is said about every Service: `orlop get services`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicesStatus {
    /// Whether the maps hold the latest facts. False before the first list and after a failure, which is then in `problem`.
    pub in_kernel: bool,
    /// What keeps the maps from being right, if anything does. It is tried again.
    pub problem: Option<String>,
    /// When changes came in, and when the maps had them.
    pub progress: health::Progress,
    /// How long that took, and how often it failed.
    pub measures: metrics::Measures,
    /// Another number whenever a Service comes, goes, or has another address or port than before. What follows from those
    /// alone need not be looked at when endpoints change.
    pub faces: u64,
    /// Services by name.
    pub services: BTreeMap<ServiceName, Arc<ServiceStatus>>,
    /// Those of them whose endpoints load balancers ask for: few, where there may be tens of thousands.
    pub checked: BTreeSet<ServiceName>,
    /// What became of pods' ports of the node, by their owners.
    pub host_ports: Arc<BTreeMap<ServiceName, host_port::PublishedStatus>>,
}

/// What is said about one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Its cluster addresses, given or allocated; empty for a headless Service.
    pub addresses: Vec<IpAddr>,
    /// Addresses for clients outside: the load balancer's and external ones.
    pub external: Vec<IpAddr>,
    /// Its ports, in the order of the manifest.
    pub ports: Vec<PortStatus>,
    /// Where load balancers ask for its endpoints on this node.
    pub health_check: Option<health::HealthCheck>,
    /// Why it does not work as written, one sentence each: an address in use, a range or a map that is full.
    pub problems: Vec<String>,
}

impl ServicesStatus {
    /// Forgets all Services, before each is told anew.
    pub fn clear(&mut self) {
        self.services.clear();
        self.checked.clear();
        self.faces += 1;
    }

    /// Takes over what is said of Services by now; nothing of those that are gone.
    pub fn tell(&mut self, news: BTreeMap<ServiceName, Option<Arc<ServiceStatus>>>) {
        let mut known = Walk::new(&self.services);
        let is_other = |(name, service): (&ServiceName, &Option<Arc<ServiceStatus>>)| match (known.get(name), service) {
            (Some(known), Some(service)) => known.face() != service.face(),
            (None, None) => false,
            (Some(_), None) | (None, Some(_)) => true,
        };
        if news.iter().any(is_other) {
            self.faces += 1;
        }
        let mut present = Vec::with_capacity(news.len());
        for (name, service) in news {
            if service.as_ref().is_some_and(|service| service.health_check.is_some()) {
                self.checked.insert(name.clone());
            } else {
                self.checked.remove(&name);
            }
            match service {
                Some(service) => present.push((name, service)),
                None => drop(self.services.remove(&name)),
            }
        }
        bulk::insert(&mut self.services, present);
    }
}

impl ServiceStatus {
    /// Its addresses and ports: what clients know of it.
    fn face(&self) -> Face<'_> {
        let ports = self.ports.iter();
        Face {
            addresses: [&self.addresses, &self.external],
            ports: ports
                .map(|port| (port.name.as_str(), port.protocol, port.port, port.node_port))
                .collect(),
            health_check: self.health_check.map(|check| check.port),
        }
    }
}

#[derive(PartialEq)]
struct Face<'a> {
    addresses: [&'a [IpAddr]; 2],
    ports: Vec<(&'a str, Protocol, u16, Option<u16>)>,
    health_check: Option<u16>,
}

/// What is said about one port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStatus {
    /// The port's name, empty if it has none.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// The port that clients connect to.
    pub port: u16,
    /// The port that they connect to on a node's own address.
    pub node_port: Option<u16>,
    /// Where they get to.
    pub backends: topology::Backends,
    /// Counted in the kernel since the port appeared.
    pub counters: Counters,
}

/// Totals over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections (and first datagrams of a destination) sent to a backend.
    pub forwarded: u64,
    /// Refused, because there was no backend.
    pub refused: u64,
    /// Dropped, because the policy is `Local` and no backend was on this node.
    pub no_local: u64,
    /// Dropped, because the client is in none of the source ranges.
    pub not_allowed: u64,
    /// Dropped, because the table of flows from outside was full, or all source ports for the backend were in use.
    pub no_room: u64,
    /// Packets that could not be read; counted for no Service.
    pub unreadable: u64,
}

impl Counters {
    /// Each by its name for people.
    pub fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("forwarded", self.forwarded),
            ("refused", self.refused),
            ("dropped for lack of a local backend", self.no_local),
            ("dropped by source range", self.not_allowed),
            ("dropped for lack of room", self.no_room),
        ]
    }
}

impl AddressRange {
    /// Whether it has this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let whole = Self {
            address,
            prefix: self.prefix,
        };
        address.is_ipv6() == self.address.is_ipv6() && whole.trimmed().address == self.trimmed().address
    }

    /// The same with zero bits beyond the prefix.
    fn trimmed(self) -> Self {
        let width: u8 = if self.address.is_ipv4() { 32 } else { 128 };
        let beyond = u32::from(width.saturating_sub(self.prefix));
        let address = match self.address {
            IpAddr::V4(four) => {
                let mask = u32::MAX.checked_shl(beyond).unwrap_or(0);
                Ipv4Addr::from_bits(four.to_bits() & mask).into()
            }
            IpAddr::V6(six) => {
                let mask = u128::MAX.checked_shl(beyond).unwrap_or(0);
                Ipv6Addr::from_bits(six.to_bits() & mask).into()
            }
        };
        Self { address, ..self }
    }
}

impl FromStr for AddressRange {
    type Err = String;

    /// Bits beyond the prefix become zero, as for kube-proxy.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a range of addresses, for instance 10.9.8.0/24 or 2001:db8::/64");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        if prefix > width {
            return Err(wrong());
        }
        Ok(Self { address, prefix }.trimmed())
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_are_checked_are_known_by_name() {
        let name = |name: &str| ServiceName {
            namespace: "default".into(),
            name: name.into(),
        };
        let checked = ServiceStatus {
            health_check: Some(health::HealthCheck {
                port: 30_000,
                local_endpoints: [1, 0],
            }),
            ..ServiceStatus::default()
        };
        let mut status = ServicesStatus::default();
        status.tell([(name("a"), Some(Arc::default()))].into());
        status.tell([(name("b"), Some(Arc::new(checked.clone())))].into());
        assert_eq!(status.checked, [name("b")].into());
        status.tell([(name("a"), Some(Arc::new(checked)))].into());
        status.tell([(name("b"), Some(Arc::default()))].into());
        assert_eq!(status.checked, [name("a")].into());
        status.tell([(name("a"), None)].into());
        assert_eq!(status.checked, BTreeSet::new());
    }
}
