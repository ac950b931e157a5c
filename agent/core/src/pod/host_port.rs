//! Ports of the node that pods ask for, and whether a pod may have them: a kubelet's predicate `NodePorts`.

use std::fmt;
use std::net::IpAddr;

use super::{DesiredPod, Protocol};

/// A port of the node that leads to a pod, or that a pod of the host's network has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Its protocol.
    pub protocol: Protocol,
    /// The node's address; all of them without one.
    pub address: Option<IpAddr>,
    /// Its number.
    pub number: u16,
}

/// A pod that is on the node already.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// `namespace/name`
    pub name: &'a str,
    /// What it asks for.
    pub ports: &'a [HostPort],
    /// Whether it is about to go.
    pub is_going: bool,
}

/// Whether the node takes a pod on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Its ports are free.
    Admitted,
    /// They will be: who has them is about to go.
    Waits,
    /// Another pod has one: which, and who.
    Refused(String),
}

/// What a pod asks for.
pub fn asked(pod: &DesiredPod) -> Vec<HostPort> {
    let ports = pod.containers.iter().flat_map(|container| &container.ports);
    let asked = ports.filter_map(|port| {
        Some(HostPort {
            protocol: port.protocol,
            address: port.host_address,
            number: port.host_port?,
        })
    });
    asked.collect()
}

/// Whether a pod may have its ports, beside those that are there. A kubelet refuses what waits here, too: on a node by
/// itself nobody would ask for the pod a second time.
pub fn admit<'a>(wanted: &[HostPort], holders: impl IntoIterator<Item = Holder<'a>>) -> Admission {
    let mut waits = false;
    for holder in holders {
        let taken = wanted
            .iter()
            .find(|port| holder.ports.iter().any(|held| port.meets(held)));
        match taken {
            Some(_) if holder.is_going => waits = true,
            Some(port) => return Admission::Refused(format!("{port} is pod {}'s", holder.name)),
            None => {}
        }
    }
    if waits { Admission::Waits } else { Admission::Admitted }
}

impl HostPort {
    /// Whether both are one port of an address. 0.0.0.0 stands for every address of either family, as in a kubelet; `::`
    /// for every one of IPv6.
    fn meets(&self, other: &Self) -> bool {
        self.protocol == other.protocol && self.number == other.number && (self.covers(other) || other.covers(self))
    }

    fn covers(&self, other: &Self) -> bool {
        match self.address {
            None => true,
            Some(any) if any.is_unspecified() => any.is_ipv4() || other.address.is_none_or(|other| other.is_ipv6()),
            single => single == other.address,
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(out, "port [{address}]:{}", self.number)?,
            Some(IpAddr::V4(address)) => write!(out, "port {address}:{}", self.number)?,
            None => write!(out, "port {}", self.number)?,
        }
        let protocol = match self.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        };
        write!(out, "/{protocol}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(text: &str) -> HostPort {
        let (protocol, rest) = match text.strip_prefix("udp ") {
            Some(rest) => (Protocol::Udp, rest),
            None => (Protocol::Tcp, text),
        };
        let (address, number) = rest.rsplit_once(' ').map_or((None, rest), |(a, n)| (Some(a), n));
        HostPort {
            protocol,
            address: address.map(|text| text.parse().unwrap()),
            number: number.parse().unwrap(),
        }
    }

    #[test]
    fn ports_meet_as_a_kubelet_has_it() {
        for (one, other, meet) in [
            ("80", "80", true),
            ("80", "81", false),
            ("80", "udp 80", false),
            ("80", "127.0.0.1 80", true),
            ("80", "::1 80", true),
            ("0.0.0.0 80", "127.0.0.1 80", true),
            ("0.0.0.0 80", "::1 80", true),
            ("0.0.0.0 80", ":: 80", true),
            (":: 80", "::1 80", true),
            (":: 80", "127.0.0.1 80", false),
            (":: 80", "80", true),
            ("127.0.0.1 80", "127.0.0.1 80", true),
            ("127.0.0.1 80", "192.0.2.1 80", false),
            ("127.0.0.1 80", "::1 80", false),
        ] {
            assert_eq!(port(one).meets(&port(other)), meet, "{one} and {other}");
            assert_eq!(port(other).meets(&port(one)), meet, "{other} and {one}");
        }
    }

    #[test]
    fn a_pod_waits_for_one_that_goes_and_is_refused_by_one_that_stays() {
        let ports = [port("192.0.2.1 80"), port("udp 53")];
        let holder = |name, ports, is_going| Holder { name, ports, is_going };
        let (goes, stays, other) = (
            holder("default/goes", &ports[..1], true),
            holder("default/stays", &ports[1..], false),
            holder("default/other", &[], false),
        );
        let wanted = [port("80"), port("udp 53")];
        assert_eq!(admit(&wanted, [other]), Admission::Admitted);
        assert_eq!(admit(&wanted, [other, goes]), Admission::Waits);
        let refused = Admission::Refused("port 53/UDP is pod default/stays's".into());
        assert_eq!(admit(&wanted, [goes, stays]), refused);
        assert_eq!(admit(&[], [goes, stays]), Admission::Admitted);
    }
}
