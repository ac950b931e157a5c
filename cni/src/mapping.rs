//! Ports of the node that lead to a pod, as CNI's `portMappings` says them. Nothing here acts.

use std::{fmt, net::IpAddr};

/// A protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// The name in any case; CNI's clients write both.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Tcp, Self::Udp, Self::Sctp];
        all.into_iter()
            .find(|protocol| protocol.to_string().eq_ignore_ascii_case(name))
    }

    /// The protocol of a number in an IP header.
    pub fn of_number(number: u8) -> Option<Self> {
        let all = [Self::Tcp, Self::Udp, Self::Sctp];
        all.into_iter().find(|protocol| protocol.number() == number)
    }

    /// The number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port of the node, for a port of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortMapping {
    /// Of both ports.
    pub protocol: Protocol,
    /// Address of the node; none for all of them, of both families.
    pub host_address: Option<IpAddr>,
    /// Port of the node, not 0.
    pub host_port: u16,
    /// Port of the pod, not 0.
    pub pod_port: u16,
}

impl PortMapping {
    /// Whether both are a port of one address.
    pub fn meets(&self, other: &Self) -> bool {
        let covers = |one: &Self, other: &Self| match one.host_address {
            None => true,
            Some(any) if any.is_unspecified() => other.is_for(any),
            single => single == other.host_address,
        };
        let is_same = self.protocol == other.protocol && self.host_port == other.host_port;
        is_same && (covers(self, other) || covers(other, self))
    }

    /// Whether it leads to an address of this family.
    pub fn is_for(&self, address: IpAddr) -> bool {
        self.host_address.is_none_or(|host| host.is_ipv4() == address.is_ipv4())
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.host_port)?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:{}", self.host_port)?,
            None => write!(f, "port {}", self.host_port)?,
        }
        write!(f, "/{}", self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_known_by_name_in_any_case() {
        assert_eq!(Protocol::parse("TCP"), Some(Protocol::Tcp));
        assert_eq!(Protocol::parse("sctp"), Some(Protocol::Sctp));
        assert_eq!(Protocol::parse("icmp"), None);
    }

    #[test]
    fn a_mapping_without_an_address_is_for_both_families() {
        let mapping = PortMapping {
            protocol: Protocol::Udp,
            host_address: None,
            host_port: 53,
            pod_port: 5353,
        };
        let [v4, v6]: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert!(mapping.is_for(v4) && mapping.is_for(v6));
        let only_v6 = PortMapping {
            host_address: Some(v6),
            ..mapping
        };
        assert!(!only_v6.is_for(v4) && only_v6.is_for(v6));
        assert_eq!(only_v6.to_string(), "[fd00::1]:53/udp");
        assert_eq!(mapping.to_string(), "port 53/udp");
    }

    #[test]
    fn ports_meet_where_they_have_an_address_in_common() {
        let port = |address: &str| PortMapping {
            protocol: Protocol::Tcp,
            host_address: address.parse().ok(),
            host_port: 80,
            pod_port: 8080,
        };
        for (one, other, meet) in [
            ("", "", true),
            ("", "127.0.0.1", true),
            ("", "::", true),
            ("0.0.0.0", "127.0.0.1", true),
            ("0.0.0.0", "::1", false),
            ("::", "::1", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
        ] {
            assert_eq!(port(one).meets(&port(other)), meet, "{one} and {other}");
            assert_eq!(port(other).meets(&port(one)), meet, "{other} and {one}");
        }
        let udp = PortMapping {
            protocol: Protocol::Udp,
            ..port("")
        };
        assert!(!udp.meets(&port("")));
    }
}
