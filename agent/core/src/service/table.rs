//! What the Services of the node mean: each address and port that clients connect to, and where each leads.
//!
//! Only fields that are honoured are read here; the manifest layer refuses a Service with others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Service, ServicePort as PortSpec, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::address::{Assignment, has_cluster_address};
use super::{Counters, PortStatus, Protocol, ReadyPod, ServiceName, ServicePort, ServiceStatus};

/// An address that clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontend {
    /// Address and port.
    pub address: SocketAddr,
    /// Protocol.
    pub protocol: Protocol,
}

/// Where a frontend leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub owner: ServicePort,
    /// Backends of the frontend's family, each once, in order. None: connections are refused.
    pub backends: Vec<SocketAddr>,
}

/// Every frontend of the node and what is said about its Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTable {
    /// Frontends.
    pub frontends: BTreeMap<Frontend, Entry>,
    /// Every Service, those without an address too.
    pub services: BTreeMap<ServiceName, ServiceStatus>,
}

/// Reads the table from the objects. The result does not depend on their order.
pub fn table(services: &[Service], assignment: &Assignment, pods: &[ReadyPod]) -> ServiceTable {
    let mut table = ServiceTable::default();
    for service in services {
        let name = ServiceName::of(service);
        let status = match &service.spec {
            Some(spec) => table.add(&name, spec, assignment, pods),
            None => ServiceStatus::default(),
        };
        table.services.insert(name, status);
    }
    table
}

impl ServiceTable {
    fn add(
        &mut self,
        name: &ServiceName,
        spec: &ServiceSpec,
        assignment: &Assignment,
        pods: &[ReadyPod],
    ) -> ServiceStatus {
        let addresses = assignment.addresses.get(name).cloned().unwrap_or_default();
        let mut problems = assignment.problems.get(name).cloned().unwrap_or_default();
        let selected = selected(name, spec, pods);
        let mut ports = Vec::new();
        for port in spec
            .ports
            .iter()
            .flatten()
            .filter(|_| spec.type_.as_deref() != Some("ExternalName"))
        {
            match status(port, &selected, &addresses, has_cluster_address(spec)) {
                Ok(status) => {
                    self.add_port(name, &addresses, &status);
                    ports.push(status);
                }
                Err(problem) => problems.push(problem),
            }
        }
        ServiceStatus {
            addresses,
            ports,
            problems,
        }
    }

    fn add_port(&mut self, name: &ServiceName, addresses: &[IpAddr], status: &PortStatus) {
        let PortStatus { protocol, port, .. } = *status;
        for address in addresses {
            let owner = ServicePort {
                service: name.clone(),
                protocol,
                port,
            };
            let backends = status
                .backends
                .iter()
                .filter(|backend| backend.is_ipv6() == address.is_ipv6());
            let frontend = Frontend {
                address: SocketAddr::new(*address, port),
                protocol,
            };
            self.frontends.insert(
                frontend,
                Entry {
                    owner,
                    backends: backends.copied().collect(),
                },
            );
        }
    }
}

/// Pods that the selector matches. A Service without a selector has no backends of this node's own.
fn selected<'a>(name: &ServiceName, spec: &ServiceSpec, pods: &'a [ReadyPod]) -> Vec<&'a ReadyPod> {
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        return Vec::new();
    };
    let not_ready_too = spec.publish_not_ready_addresses == Some(true);
    let takes = |pod: &&ReadyPod| {
        pod.namespace == name.namespace
            && (pod.ready || not_ready_too)
            && selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    };
    pods.iter().filter(takes).collect()
}

fn status(spec: &PortSpec, pods: &[&ReadyPod], addresses: &[IpAddr], has_address: bool) -> Result<PortStatus, String> {
    let number = |port: i32| u16::try_from(port).ok().filter(|port| *port > 0);
    let port = number(spec.port).ok_or_else(|| format!("spec.ports: {} is not a port", spec.port))?;
    let protocol = protocol(spec.protocol.as_deref())?;
    let mut backends = BTreeSet::new();
    for pod in pods {
        let target = match &spec.target_port {
            None => Some(port),
            Some(IntOrString::Int(target)) => number(*target),
            Some(IntOrString::String(name)) => named_port(pod, name, protocol),
        };
        let usable = pod
            .addresses
            .iter()
            .filter(|pod| !has_address || addresses.iter().any(|own| same_family(own, pod)));
        backends.extend(
            target
                .into_iter()
                .flat_map(|target| usable.clone().map(move |address| SocketAddr::new(*address, target))),
        );
    }
    Ok(PortStatus {
        name: spec.name.clone().unwrap_or_default(),
        protocol,
        port,
        backends: backends.into_iter().collect(),
        counters: Counters::default(),
    })
}

fn same_family(one: &IpAddr, other: &IpAddr) -> bool {
    one.is_ipv6() == other.is_ipv6()
}

/// The number behind a name, which every pod may choose for itself. A pod without it is not a backend.
fn named_port(pod: &ReadyPod, name: &str, protocol: Protocol) -> Option<u16> {
    let port = pod
        .ports
        .iter()
        .find(|port| port.name.as_deref() == Some(name) && port.protocol == protocol)?;
    Some(port.number)
}

fn protocol(name: Option<&str>) -> Result<Protocol, String> {
    match name.unwrap_or("TCP") {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        other => Err(format!("spec.ports: protocol {other} is not balanced")),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::super::ContainerPort;
    use super::*;

    fn pod(name: &str, address: &str, ready: bool) -> ReadyPod {
        let http = |number| ContainerPort {
            name: Some("http".into()),
            number,
            protocol: Protocol::Tcp,
        };
        ReadyPod {
            namespace: "default".into(),
            name: name.into(),
            labels: [("app".into(), "web".into()), ("pod".into(), name.into())].into(),
            addresses: vec![address.parse().unwrap(), "fd00:244::1".parse().unwrap()],
            ports: vec![http(if name == "a" { 8080 } else { 9090 })],
            ready,
        }
    }

    fn service(edit: impl FnOnce(&mut ServiceSpec)) -> Service {
        let mut spec = ServiceSpec {
            selector: Some([("app".into(), "web".into())].into()),
            ports: Some(vec![PortSpec {
                port: 80,
                ..Default::default()
            }]),
            ..Default::default()
        };
        edit(&mut spec);
        let metadata = ObjectMeta {
            name: Some("web".into()),
            namespace: Some("default".into()),
            ..Default::default()
        };
        Service {
            metadata,
            spec: Some(spec),
            status: None,
        }
    }

    /// The backends of the Service's one port, by its IPv4 address.
    fn backends(edit: impl FnOnce(&mut ServiceSpec)) -> Vec<String> {
        let name = ServiceName {
            namespace: "default".into(),
            name: "web".into(),
        };
        let addresses = [(name, vec!["10.96.0.1".parse().unwrap()])].into();
        let pods = [
            pod("a", "10.244.0.1", true),
            pod("b", "10.244.0.2", true),
            pod("c", "10.244.0.3", false),
        ];
        let assignment = Assignment {
            addresses,
            problems: BTreeMap::new(),
        };
        let table = table(&[service(edit)], &assignment, &pods);
        let entry = table.frontends.values().next();
        entry.map_or_else(Vec::new, |entry| {
            entry.backends.iter().map(ToString::to_string).collect()
        })
    }

    fn target(spec: &mut ServiceSpec, target: &IntOrString) {
        for port in spec.ports.iter_mut().flatten() {
            port.target_port = Some(target.clone());
        }
    }

    #[test]
    fn ready_pods_that_the_selector_matches_are_backends() {
        assert_eq!(backends(|_| ()), ["10.244.0.1:80", "10.244.0.2:80"]);
        let one = |spec: &mut ServiceSpec| {
            spec.selector.as_mut().unwrap().insert("pod".into(), "b".into());
        };
        assert_eq!(backends(one), ["10.244.0.2:80"]);
        assert_eq!(backends(|spec| spec.selector = None), [""; 0]);
    }

    #[test]
    fn a_target_port_is_a_number_or_each_pods_own_name_for_it() {
        assert_eq!(
            backends(|spec| target(spec, &IntOrString::Int(8000))),
            ["10.244.0.1:8000", "10.244.0.2:8000"]
        );
        let http = IntOrString::String("http".into());
        assert_eq!(
            backends(|spec| target(spec, &http)),
            ["10.244.0.1:8080", "10.244.0.2:9090"]
        );
        assert_eq!(
            backends(|spec| target(spec, &IntOrString::String("other".into()))),
            [""; 0]
        );
    }

    #[test]
    fn pods_that_are_not_ready_count_where_the_service_says_so() {
        let all = ["10.244.0.1:80", "10.244.0.2:80", "10.244.0.3:80"];
        assert_eq!(backends(|spec| spec.publish_not_ready_addresses = Some(true)), all);
    }

    #[test]
    fn a_protocol_that_is_not_balanced_is_said() {
        let sctp = service(|spec| spec.ports.as_mut().unwrap()[0].protocol = Some("SCTP".into()));
        let table = table(&[sctp], &Assignment::default(), &[]);
        let status = table.services.values().next().unwrap();
        assert_eq!(status.problems, ["spec.ports: protocol SCTP is not balanced"]);
    }

    #[test]
    fn each_family_has_its_own_backends() {
        let name = ServiceName {
            namespace: "default".into(),
            name: "web".into(),
        };
        let both = vec!["10.96.0.1".parse().unwrap(), "fd00:96::1".parse().unwrap()];
        let assignment = Assignment {
            addresses: [(name, both)].into(),
            problems: BTreeMap::new(),
        };
        let table = table(&[service(|_| ())], &assignment, &[pod("a", "10.244.0.1", true)]);
        let backends: Vec<_> = table
            .frontends
            .values()
            .flat_map(|entry| &entry.backends)
            .map(ToString::to_string)
            .collect();
        assert_eq!(backends, ["10.244.0.1:80", "[fd00:244::1]:80"]);
    }
}
