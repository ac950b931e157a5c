//! Ports of the node that lead to one pod each: `hostPort` of the agent's own pods, and `portMappings` of those that
//! somebody else has attached. They are frontends as NodePorts are, with the pod as their one backend.
//!
//! A Service has the first right to an address and a port, as with kube-proxy, whose rules stand before those of the
//! `portmap` plugin; then it is who comes first by name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::table::{Entry, Frontend, Kind, NodeFacts, Rules, SCTP_AT_NODE, Scope};
use super::{Protocol, ServiceName, ServicePort};

/// A port of the node, for a port of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Of both ports.
    pub protocol: Protocol,
    /// The node's address; none or an unspecified one for all of them.
    pub address: Option<IpAddr>,
    /// Port of the node.
    pub port: u16,
    /// Port of the pod.
    pub target: u16,
}

/// A pod that ports of the node lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Whose they are, see [`ServiceName::of_pod`].
    pub owner: ServiceName,
    /// The pod's addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The ports.
    pub ports: Vec<HostPort>,
}

/// What became of a pod's ports of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishedStatus {
    /// The pod's addresses and the ports that were asked for.
    pub asked: (Vec<IpAddr>, Vec<HostPort>),
    /// Why some do not lead to it, one sentence each.
    pub problems: Vec<String>,
}

/// The frontends of all pods with ports of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPorts {
    /// Frontends.
    pub frontends: BTreeMap<Frontend, Entry>,
    /// What became of each pod's ports.
    pub pods: BTreeMap<ServiceName, PublishedStatus>,
    /// What pods ask for, those that a Service has too.
    claimed: BTreeSet<Frontend>,
}

/// The frontends of some pods, as they were and as they are.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PortChange<'a> {
    /// As they were.
    pub before: BTreeMap<Frontend, Entry>,
    /// As they are.
    pub after: BTreeMap<Frontend, &'a Entry>,
}

impl ServiceName {
    /// The owner of a pod's ports of the node. No Service has a slash in its name.
    pub fn of_pod(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: format!("pod/{name}").into(),
        }
    }
}

impl HostPorts {
    /// Reads the frontends that pods have beside those of Services.
    pub fn read(published: &[Published], node: &NodeFacts, services: &BTreeMap<Frontend, Entry>) -> Self {
        let mut in_order: Vec<&Published> = published.iter().collect();
        in_order.sort_by_key(|pod| &pod.owner);
        let mut all = Self::default();
        for pod in in_order {
            let mut problems: Vec<String> = limited(&pod.ports).collect();
            // Of two ports that are one for an address, the pod gets the one that names it.
            let mut ports: Vec<&HostPort> = pod.ports.iter().collect();
            ports.sort_by_key(|port| port.single().is_none());
            for port in ports {
                all.add(pod, port, node, services, &mut problems);
            }
            let asked = (pod.addresses.clone(), pod.ports.clone());
            all.pods.insert(pod.owner.clone(), PublishedStatus { asked, problems });
        }
        all
    }

    /// Whether there is a frontend of SCTP.
    pub fn has_associations(&self) -> bool {
        self.frontends.keys().any(Frontend::is_association)
    }

    /// Whether it makes a difference to pods who has one of these frontends.
    pub fn care_for<'a>(&self, mut frontends: impl Iterator<Item = &'a Frontend>) -> bool {
        !self.claimed.is_empty() && frontends.any(|frontend| self.claimed.contains(frontend))
    }

    /// The pods whose frontends are others than `before`, with all that they had and have.
    pub fn change(&self, before: &Self) -> PortChange<'_> {
        let missing = |of: &Self, from: &Self| -> BTreeSet<ServiceName> {
            let differs = |(frontend, entry): &(&Frontend, &Entry)| from.frontends.get(frontend) != Some(*entry);
            let entries = of.frontends.iter().filter(differs);
            entries.map(|(_, entry)| entry.owner.service.clone()).collect()
        };
        let mut owners = missing(before, self);
        owners.extend(missing(self, before));
        let is_theirs = |(_, entry): &(&Frontend, &Entry)| owners.contains(&entry.owner.service);
        PortChange {
            before: before
                .frontends
                .iter()
                .filter(is_theirs)
                .map(|(frontend, entry)| (*frontend, entry.clone()))
                .collect(),
            after: self
                .frontends
                .iter()
                .filter(is_theirs)
                .map(|(frontend, entry)| (*frontend, entry))
                .collect(),
        }
    }

    fn add(
        &mut self,
        pod: &Published,
        port: &HostPort,
        node: &NodeFacts,
        services: &BTreeMap<Frontend, Entry>,
        problems: &mut Vec<String>,
    ) {
        if let Some(address) = port.address.filter(|address| !is_of_node(address, node)) {
            problems.push(format!(
                "{address} is not an address of this node: port {} of it leads nowhere",
                port.port
            ));
            return;
        }
        for own in &pod.addresses {
            for (address, scope) in port.places(own, node) {
                let frontend = Frontend {
                    address: SocketAddr::new(address, port.port),
                    protocol: port.protocol,
                    scope,
                };
                self.claimed.insert(frontend);
                let Some(taken) = services.get(&frontend).or_else(|| self.frontends.get(&frontend)) else {
                    self.frontends
                        .insert(frontend, port.entry(&pod.owner, *own, address, scope));
                    continue;
                };
                let owner = &taken.owner.service;
                let problem = format!("{}/{} belongs to {owner}", frontend.address, port.protocol);
                // The unspecified address stands for the others, which tell themselves.
                if *owner != pod.owner && !address.is_unspecified() && !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
    }
}

impl HostPort {
    /// The one address of the node that it is on; none if it is on all.
    fn single(&self) -> Option<IpAddr> {
        self.address.filter(|address| !address.is_unspecified())
    }

    /// The addresses of the node by which it leads to an address of the pod, and for whom. As with a NodePort, the
    /// unspecified address keeps daemons of the node from binding the port.
    fn places(&self, pod: &IpAddr, node: &NodeFacts) -> Vec<(IpAddr, Scope)> {
        let any: IpAddr = match pod {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let asked: Vec<IpAddr> = match (self.single(), self.address) {
            (Some(single), _) => vec![single],
            (None, Some(of_family)) if of_family.is_ipv6() != pod.is_ipv6() => Vec::new(),
            (None, _) => node.addresses.iter().copied().chain([any]).collect(),
        };
        let of_family = asked.into_iter().filter(|address| address.is_ipv6() == pod.is_ipv6());
        let with_scopes = of_family.flat_map(|address| {
            let outside = (!is_for_node_only(&address)).then_some((address, Scope::Outside));
            [(address, Scope::Inside)].into_iter().chain(outside)
        });
        with_scopes.collect()
    }

    fn entry(&self, owner: &ServiceName, pod: IpAddr, address: IpAddr, scope: Scope) -> Entry {
        Entry {
            owner: ServicePort {
                service: owner.clone(),
                protocol: self.protocol,
                port: self.port,
            },
            kind: Kind::HostPort,
            backends: [SocketAddr::new(pod, self.target)].into(),
            rules: Rules {
                // The pod sees the client itself.
                local: scope == Scope::Outside,
                node_only: is_for_node_only(&address),
                ..Rules::default()
            },
        }
    }
}

fn limited(ports: &[HostPort]) -> impl Iterator<Item = String> {
    let associations = ports.iter().filter(|port| port.protocol == Protocol::Sctp);
    associations.map(|port| format!("port {}/SCTP: {SCTP_AT_NODE}", port.port))
}

fn is_for_node_only(address: &IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// A port of somebody else's address would take what is meant for him.
fn is_of_node(address: &IpAddr, node: &NodeFacts) -> bool {
    is_for_node_only(address) || node.addresses.contains(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn node() -> NodeFacts {
        NodeFacts {
            addresses: ["127.0.0.1", "::1", "192.0.2.1", "2001:db8::1"].map(ip).to_vec(),
            ..NodeFacts::default()
        }
    }

    fn port(address: &str, port: u16) -> HostPort {
        HostPort {
            protocol: Protocol::Tcp,
            address: (!address.is_empty()).then(|| ip(address)),
            port,
            target: 80,
        }
    }

    fn pod(name: &str, addresses: &[&str], ports: &[HostPort]) -> Published {
        Published {
            owner: ServiceName::of_pod("default", name),
            addresses: addresses.iter().map(|text| ip(text)).collect(),
            ports: ports.to_vec(),
        }
    }

    /// Addresses, who may use each (`n`ode alone, `i`nside, `o`utside) and where it leads.
    fn shown(ports: &HostPorts) -> Vec<String> {
        let one = |(frontend, entry): (&Frontend, &Entry)| {
            let whom = match frontend.scope {
                Scope::Inside if entry.rules.node_only => 'n',
                Scope::Inside => 'i',
                Scope::Outside => 'o',
            };
            format!("{} {whom} {}", frontend.address, entry.backends[0])
        };
        ports.frontends.iter().map(one).collect()
    }

    #[test]
    fn a_port_is_on_the_addresses_that_are_asked_for() {
        let both = ["10.244.0.5", "fd00:244::5"];
        let all4 = ["0.0.0.0:8080 n 10.244.0.5:80", "127.0.0.1:8080 n 10.244.0.5:80"];
        let main4 = ["192.0.2.1:8080 i 10.244.0.5:80", "192.0.2.1:8080 o 10.244.0.5:80"];
        let all6 = ["[::]:8080 n [fd00:244::5]:80", "[::1]:8080 n [fd00:244::5]:80"];
        let main6 = [
            "[2001:db8::1]:8080 i [fd00:244::5]:80",
            "[2001:db8::1]:8080 o [fd00:244::5]:80",
        ];
        for (address, addresses, expected) in [
            ("", &both[..], [all4, main4, all6, main6].concat()),
            ("", &both[..1], [all4, main4].concat()),
            ("", &both[1..], [all6, main6].concat()),
            ("0.0.0.0", &both[..], [all4, main4].concat()),
            ("::", &both[..], [all6, main6].concat()),
            ("192.0.2.1", &both[..], main4.to_vec()),
            ("127.0.0.1", &both[..], vec![all4[1]]),
            ("127.0.0.9", &both[..], vec!["127.0.0.9:8080 n 10.244.0.5:80"]),
            ("2001:db8::1", &both[..], main6.to_vec()),
            ("2001:db8::1", &both[..1], Vec::new()),
            ("198.51.100.9", &both[..], Vec::new()),
        ] {
            let ports = HostPorts::read(
                &[pod("web", addresses, &[port(address, 8080)])],
                &node(),
                &BTreeMap::new(),
            );
            assert_eq!(shown(&ports), expected, "{address:?} {addresses:?}");
            let problems = &ports.pods[&ServiceName::of_pod("default", "web")].problems;
            let expected = match address {
                "198.51.100.9" => vec!["198.51.100.9 is not an address of this node: port 8080 of it leads nowhere"],
                _ => Vec::new(),
            };
            assert_eq!(*problems, expected);
        }
    }

    #[test]
    fn a_service_comes_first_and_then_the_first_pod_by_name() {
        let services = HostPorts::read(
            &[pod("x", &["10.244.0.9"], &[port("192.0.2.1", 8080)])],
            &node(),
            &BTreeMap::new(),
        );
        let mut services = services.frontends;
        for entry in services.values_mut() {
            entry.owner.service.name = "a-service".into();
        }
        let published = [
            pod(
                "b",
                &["10.244.0.6"],
                &[
                    port("127.0.0.1", 8080),
                    port("", 8081),
                    HostPort {
                        target: 99,
                        ..port("127.0.0.1", 8081)
                    },
                ],
            ),
            pod("a", &["10.244.0.5"], &[port("", 8080)]),
        ];
        let ports = HostPorts::read(&published, &node(), &services);
        let expected = [
            "0.0.0.0:8080 n 10.244.0.5:80",
            "0.0.0.0:8081 n 10.244.0.6:80",
            "127.0.0.1:8080 n 10.244.0.5:80",
            "127.0.0.1:8081 n 10.244.0.6:99",
            "192.0.2.1:8081 i 10.244.0.6:80",
            "192.0.2.1:8081 o 10.244.0.6:80",
        ];
        assert_eq!(shown(&ports), expected);
        let problems = |name| ports.pods[&ServiceName::of_pod("default", name)].problems.clone();
        assert_eq!(problems("a"), ["192.0.2.1:8080/TCP belongs to default/a-service"]);
        assert_eq!(problems("b"), ["127.0.0.1:8080/TCP belongs to default/pod/a"]);
        assert!(ports.care_for(services.keys()));
        assert!(!HostPorts::default().care_for(services.keys()));
    }

    #[test]
    fn a_change_has_everything_of_the_pods_that_it_is_about() {
        let stays = pod("stays", &["10.244.0.5"], &[port("", 1)]);
        let two = [port("192.0.2.1", 2), port("192.0.2.1", 3)];
        let moves = pod("moves", &["10.244.0.6"], &two);
        let before = HostPorts::read(&[stays.clone(), moves.clone()], &node(), &BTreeMap::new());
        assert_eq!(before.change(&before), PortChange::default());
        let moved = pod("moves", &["10.244.0.6"], &two[..1]);
        let after = HostPorts::read(&[stays, moved], &node(), &BTreeMap::new());
        let change = after.change(&before);
        assert_eq!((change.before.len(), change.after.len()), (4, 2));
    }
}
