//! What one Service says: its frontends and its status.
//!
//! Only fields that are honoured are read here; the manifest layer refuses a Service with others.

use std::collections::btree_map as map;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use k8s_openapi::api::core::v1::{Service, ServicePort as PortSpec, ServiceSpec};

use super::super::address::{Given, has_cluster_address};
use super::super::catalog::Candidates;
use super::super::endpoint::positive;
use super::super::health::HealthCheck;
use super::super::topology::{Backends, Categories, Policies, categorize};
use super::super::{AddressRange, Counters, PortStatus, Protocol, ServiceName, ServicePort, ServiceStatus};
use super::NodeFacts;
use super::found::Found;
use super::frontend::{Entry, Frontend, Kind, Rules, Scope};

const DEFAULT_AFFINITY: u32 = 10_800;
/// The node's own packets to itself are as large as `lo` takes, which no link to a backend does.
pub(in crate::service) const SCTP_AT_NODE: &str =
    "processes of the node itself are served at its own addresses as long as each message fits into one packet";
/// A Service with this label is served by somebody else.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Endpoints of a Service with this label are nobody's to balance.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Has the traffic from outside fall on the same backend on every node: `maglev`.
const BALANCE_ANNOTATION: &str = "orlop.dev/balance";
/// Has backends on other nodes answer clients outside themselves: `direct`.
const FORWARD_ANNOTATION: &str = "orlop.dev/forward";

/// What is read of one Service.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) status: ServiceStatus,
    /// Its frontends.
    pub(super) owned: Vec<Frontend>,
    /// Services that have an address which it claims.
    pub(super) rivals: BTreeSet<ServiceName>,
}

/// Reads one Service.
pub(super) struct Reader<'a> {
    name: &'a ServiceName,
    spec: &'a ServiceSpec,
    candidates: Candidates<'a>,
    node: &'a NodeFacts,
    cluster_ips: Vec<IpAddr>,
    cluster_ranges: &'a [AddressRange],
    load_balancer_ips: Vec<IpAddr>,
    external_ips: Vec<IpAddr>,
    ranges: Vec<AddressRange>,
    is_ours: bool,
    maglev: bool,
    direct: bool,
    /// Addresses of ready endpoints on this node.
    here: BTreeSet<IpAddr>,
    problems: Vec<String>,
    owned: Vec<Frontend>,
    rivals: BTreeSet<ServiceName>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        name: &'a ServiceName,
        service: &'a Service,
        spec: &'a ServiceSpec,
        given: Given<'a>,
        candidates: Candidates<'a>,
        node: &'a NodeFacts,
    ) -> Self {
        let label = |key| {
            service
                .metadata
                .labels
                .as_ref()
                .is_some_and(|labels| labels.contains_key(key))
        };
        let annotations = service.metadata.annotations.as_ref();
        let annotation = |key, word| annotations.is_some_and(|all| all.get(key).is_some_and(|given| given == word));
        let mut reader = Self {
            name,
            spec,
            candidates,
            node,
            cluster_ips: given.addresses.to_vec(),
            cluster_ranges: given.ranges,
            load_balancer_ips: Vec::new(),
            external_ips: Vec::new(),
            ranges: source_ranges(spec),
            is_ours: has_cluster_address(spec) && !label(PROXY_NAME) && !label(HEADLESS),
            maglev: annotation(BALANCE_ANNOTATION, "maglev"),
            direct: annotation(FORWARD_ANNOTATION, "direct"),
            here: BTreeSet::new(),
            problems: given.problems.to_vec(),
            // Most have no others.
            owned: Vec::with_capacity(given.addresses.len() * spec.ports.as_ref().map_or(0, Vec::len)),
            rivals: BTreeSet::new(),
        };
        reader.load_balancer_ips = reader.usable("status.loadBalancer.ingress", ingress(service));
        reader.external_ips = reader.wanted_external_ips();
        reader
    }

    fn wanted_external_ips(&mut self) -> Vec<IpAddr> {
        let wanted = self.spec.external_ips.iter().flatten();
        let wanted: Vec<IpAddr> = wanted.filter_map(|text| text.parse().ok()).collect();
        if !wanted.is_empty() && !self.node.external_ips {
            let problem = "spec.externalIPs are deprecated and off; --service-external-ips turns them on";
            self.problems.push(problem.into());
            return Vec::new();
        }
        self.usable("spec.externalIPs", wanted)
    }

    /// Addresses without those that nobody may take from the machine, or from all Services.
    fn usable(&mut self, field: &str, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let (good, bad): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(may_be_taken);
        let complaints = bad
            .iter()
            .map(|address| format!("{field}: {address} is a loopback, link-local, multicast or unspecified address"));
        self.problems.extend(complaints);
        let of_cluster = |address: &IpAddr| self.cluster_ranges.iter().any(|range| range.contains(*address));
        let (bad, good): (Vec<IpAddr>, Vec<IpAddr>) = good.into_iter().partition(of_cluster);
        let complaints = bad
            .iter()
            .map(|address| format!("{field}: {address} is in the range of cluster addresses"));
        self.problems.extend(complaints);
        good
    }

    pub(super) fn read(mut self, frontends: &mut BTreeMap<Frontend, Entry>) -> Reading {
        let mut ports = Vec::with_capacity(self.spec.ports.as_ref().map_or(0, Vec::len));
        let is_name_only = self.spec.type_.as_deref() == Some("ExternalName");
        for port in self.spec.ports.iter().flatten().filter(|_| !is_name_only) {
            match self.port(port, frontends) {
                Ok(status) => ports.push(status),
                Err(problem) => self.problems.push(problem),
            }
        }
        let health_check = self.health_check();
        let mut external = self.load_balancer_ips;
        external.extend(self.external_ips);
        Reading {
            status: ServiceStatus {
                addresses: self.cluster_ips,
                external,
                ports,
                health_check,
                problems: self.problems,
            },
            owned: self.owned,
            rivals: self.rivals,
        }
    }

    fn health_check(&self) -> Option<HealthCheck> {
        let is_local = self.spec.external_traffic_policy.as_deref() == Some("Local");
        let is_balanced = self.spec.type_.as_deref() == Some("LoadBalancer");
        let port = self.spec.health_check_node_port.and_then(positive);
        let here = |is_v6| self.here.iter().filter(|address| address.is_ipv6() == is_v6).count();
        port.filter(|_| self.is_ours && is_balanced && is_local)
            .map(|port| HealthCheck {
                port,
                local_endpoints: [false, true].map(here),
            })
    }

    fn port(&mut self, spec: &PortSpec, frontends: &mut BTreeMap<Frontend, Entry>) -> Result<PortStatus, String> {
        let port = positive(spec.port).ok_or_else(|| format!("spec.ports: {} is not a port", spec.port))?;
        let protocol = Protocol::parse(spec.protocol.as_deref())?;
        let node_port = spec.node_port.and_then(positive).filter(|_| self.is_node_port_type());
        let endpoints = self.candidates.endpoints(self.spec, spec, protocol, &self.node.place);
        let mut families = [Vec::with_capacity(self.candidates.in_slices()), Vec::new()];
        for endpoint in endpoints {
            families[usize::from(endpoint.address.is_ipv6())].push(endpoint);
        }
        let here = families
            .iter()
            .flatten()
            .filter(|endpoint| endpoint.ready && endpoint.is_local);
        self.here.extend(here.map(|endpoint| endpoint.address.ip()));
        let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        let policies = Policies {
            internal_local: is_local(&self.spec.internal_traffic_policy),
            external_local: is_local(&self.spec.external_traffic_policy),
            is_external: node_port.is_some() || !self.load_balancer_ips.is_empty() || !self.external_ips.is_empty(),
        };
        let found = Found {
            owner: ServicePort {
                service: self.name.clone(),
                protocol,
                port,
            },
            policies,
            categories: families.map(|endpoints| categorize(&endpoints, policies, &self.node.place)),
        };
        if self.is_ours {
            self.add(&found, node_port, frontends);
            if protocol == Protocol::Sctp && node_port.is_some() {
                self.problems.push(format!("port {port}/SCTP: {SCTP_AT_NODE}"));
            }
        }
        Ok(PortStatus {
            name: spec.name.clone().unwrap_or_default(),
            protocol,
            port,
            node_port,
            backends: self.seen(&found.categories),
            counters: Counters::default(),
        })
    }

    fn is_node_port_type(&self) -> bool {
        matches!(self.spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"))
    }

    /// The backends that are told: those of the Service's families.
    fn seen(&self, categories: &[Categories; 2]) -> Backends {
        let is_headless = !has_cluster_address(self.spec);
        let has = |is_v6| is_headless || self.cluster_ips.iter().any(|own| own.is_ipv6() == is_v6);
        let [of_v4, of_v6] = categories;
        match (has(false), has(true)) {
            (true, true) => of_v4.reachable().iter().chain(&*of_v6.reachable()).copied().collect(),
            (true, false) => of_v4.reachable(),
            (false, true) => of_v6.reachable(),
            (false, false) => Backends::default(),
        }
    }

    fn add(&mut self, found: &Found, node_port: Option<u16>, frontends: &mut BTreeMap<Frontend, Entry>) {
        let port = found.owner.port;
        for address in self.cluster_ips.clone() {
            let entry = self.entry(found, Kind::ClusterIp, found.inside(address), address);
            let frontend = SocketAddr::new(address, port);
            if self.node.cluster_ips_outside {
                self.insert(frontends, frontend, Scope::Outside, entry.clone());
            }
            self.insert(frontends, frontend, Scope::Inside, entry);
        }
        if let Some(node_port) = node_port {
            for (address, node_only) in self.node_port_addresses() {
                self.add_external(
                    found,
                    Kind::NodePort,
                    SocketAddr::new(address, node_port),
                    node_only,
                    frontends,
                );
            }
        }
        for (kind, addresses) in [
            (Kind::LoadBalancer, self.load_balancer_ips.clone()),
            (Kind::ExternalIp, self.external_ips.clone()),
        ] {
            for address in addresses {
                self.add_external(found, kind, SocketAddr::new(address, port), false, frontends);
            }
        }
    }

    /// The node's addresses of the Service's families; the unspecified one stands for all of them where the node itself
    /// asks, and keeps daemons from binding the port.
    fn node_port_addresses(&self) -> Vec<(IpAddr, bool)> {
        let mut all: BTreeMap<IpAddr, bool> = BTreeMap::new();
        for address in &self.node.node_port_addresses {
            if self.cluster_ips.iter().any(|own| own.is_ipv6() == address.is_ipv6()) {
                let any: IpAddr = match address {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                all.insert(*address, address.is_loopback());
                all.insert(any, true);
            }
        }
        all.into_iter().collect()
    }

    /// An address for clients outside. Clients on this node reach the whole cluster's backends through it, whatever the
    /// external policy says, as with kube-proxy.
    fn add_external(
        &mut self,
        found: &Found,
        kind: Kind,
        address: SocketAddr,
        node_only: bool,
        frontends: &mut BTreeMap<Frontend, Entry>,
    ) {
        let mut inside = self.entry(found, kind, found.cluster(address.ip()), address.ip());
        inside.rules.node_only = node_only;
        // Read by the backend's node, which knows the node port but not the address that was asked.
        inside.rules.direct = self.direct;
        self.insert(frontends, address, Scope::Inside, inside);
        if !node_only {
            let mut outside = self.entry(found, kind, found.outside(address.ip()), address.ip());
            outside.rules.maglev = self.maglev;
            outside.rules.direct = self.direct;
            self.insert(frontends, address, Scope::Outside, outside);
        }
    }

    fn entry(&self, found: &Found, kind: Kind, (backends, local): (Backends, bool), address: IpAddr) -> Entry {
        let guarded = kind == Kind::LoadBalancer && !self.ranges.is_empty();
        Entry {
            owner: found.owner.clone(),
            kind,
            rules: Rules {
                drops: found.of(address).any && backends.is_empty(),
                local,
                affinity: affinity(self.spec),
                ranges: guarded.then(|| self.ranges.clone()),
                ..Rules::default()
            },
            backends,
        }
    }

    /// Of two Services that claim one address and port, the first by name has it.
    fn insert(&mut self, frontends: &mut BTreeMap<Frontend, Entry>, address: SocketAddr, scope: Scope, entry: Entry) {
        let frontend = Frontend {
            address,
            protocol: entry.owner.protocol,
            scope,
        };
        let mut taken = match frontends.entry(frontend) {
            map::Entry::Vacant(free) => {
                free.insert(entry);
                self.owned.push(frontend);
                return;
            }
            map::Entry::Occupied(taken) => taken,
        };
        let holder = &taken.get().owner;
        if *holder != entry.owner {
            let problem = format!(
                "{address}/{} belongs to Service {}",
                entry.owner.protocol, holder.service
            );
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
            if holder.service != *self.name {
                self.rivals.insert(holder.service.clone());
            }
        } else if taken.get().rules.ranges.is_none() {
            // An address that is given twice, as an external one and as the load balancer's: the guarded one stands.
            taken.insert(entry);
        }
    }
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        seconds
            .and_then(|seconds| u32::try_from(seconds).ok())
            .unwrap_or(DEFAULT_AFFINITY)
    })
}

/// Ranges that are not ranges have been refused with the manifest.
fn source_ranges(spec: &ServiceSpec) -> Vec<AddressRange> {
    let texts = spec.load_balancer_source_ranges.iter().flatten();
    let ranges: BTreeSet<AddressRange> = texts.filter_map(|text| text.trim().parse().ok()).collect();
    ranges.into_iter().collect()
}

/// Addresses of the load balancer whose traffic arrives here with them (`ipMode: VIP`, the default).
fn ingress(service: &Service) -> Vec<IpAddr> {
    let is_balanced = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    let addresses = ingress
        .filter(|ingress| is_balanced && ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok());
    addresses.collect()
}

/// What a Service may bring from outside: an address that a client elsewhere could mean.
pub fn may_be_taken(address: &IpAddr) -> bool {
    let is_special = match address {
        IpAddr::V4(four) => four.is_link_local() || four.is_broadcast(),
        IpAddr::V6(six) => six.is_unicast_link_local() || six.to_ipv4_mapped().is_some(),
    };
    !(address.is_loopback() || address.is_multicast() || address.is_unspecified() || is_special)
}
