//! What the node is for its Services: its addresses that take part in NodePorts, and whose connections come from where.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use agent_core::pod::PodUid;
use agent_core::service::AddressRange;
use agent_core::service::table::NodeFacts;
use agent_core::service::topology::Place;
use clap::Args;
use cni::netns::Netns;

use crate::node::Node;

/// Flags of `orlop agent` that are about Services.
#[derive(Args, Clone, Debug)]
pub struct ServiceFlags {
    /// Addresses of the node that answer NodePorts: primary, localhost, all, or a range such as 192.0.2.0/24
    #[arg(
        long = "nodeport-addresses",
        value_name = "WHICH",
        value_delimiter = ',',
        default_value = "primary,localhost"
    )]
    pub node_port_addresses: Vec<NodePortAddresses>,
    /// Honour spec.externalIPs of Services, which lets whoever writes them take any address
    #[arg(long)]
    pub service_external_ips: bool,
    /// Answer clients outside on cluster addresses that are routed to this node, too
    #[arg(long)]
    pub service_cluster_ips_outside: bool,
    /// Link that leads to clients outside of the node; by default those of the default routes
    #[arg(long = "uplink", value_name = "NAME")]
    pub uplinks: Vec<String>,
    /// Address with the port of /healthz and /livez; empty for none
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: BindAddress,
    /// Address with the port of /metrics about Services; empty for none
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: BindAddress,
    /// The node's topology zone, for traffic that keeps to its zone
    #[arg(long, value_name = "NAME", default_value = "")]
    pub zone: String,
}

/// Where to listen; nowhere if it is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindAddress(pub Option<SocketAddr>);

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = |text: &str| {
            text.parse()
                .map_err(|_| format!("{text:?} is not an address with a port, for instance 127.0.0.1:10249"))
        };
        Some(text)
            .filter(|text| !text.is_empty())
            .map(address)
            .transpose()
            .map(Self)
    }
}

/// Some of the node's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The one of each family that the node is known by.
    Primary,
    /// 127.0.0.1 and ::1, for the node's own clients.
    Localhost,
    /// Every address of every interface.
    All,
    /// Those in a range.
    In(AddressRange),
}

impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "primary" => Ok(Self::Primary),
            "localhost" => Ok(Self::Localhost),
            "all" => Ok(Self::All),
            range => range
                .parse()
                .map(Self::In)
                .map_err(|wrong: String| format!("{wrong}; or primary, localhost or all")),
        }
    }
}

/// What Services need to know of the node, as it is now.
pub(crate) fn facts(node: &Node) -> NodeFacts {
    let flags = &node.config.services;
    let primary = &node.facts.addresses;
    let cookie = ebpf_kernel::network_cookie().map_err(|error| {
        let message = error.to_string();
        tracing::error!(
            error = message,
            "NodePorts on localhost are off: the node's network is not known by its cookie"
        );
    });
    let present = present();
    NodeFacts {
        place: Place {
            node: node.facts.name.clone(),
            zone: flags.zone.clone(),
        },
        node_port_addresses: chosen(&flags.node_port_addresses, primary, &present),
        addresses: sorted(present),
        external_ips: flags.service_external_ips,
        cluster_ips_outside: flags.service_cluster_ips_outside,
        // Nobody takes a node away from itself.
        leaving: false,
        own: cookie.ok().map(|cookie| (cookie, primary.clone())),
    }
}

fn chosen(which: &[NodePortAddresses], primary: &[IpAddr], present: &[IpAddr]) -> Vec<IpAddr> {
    let is_chosen = |address: &IpAddr| {
        which.iter().any(|which| match which {
            NodePortAddresses::Primary => primary.contains(address),
            NodePortAddresses::Localhost => is_localhost(address),
            NodePortAddresses::All => !address.is_loopback() || is_localhost(address),
            NodePortAddresses::In(range) => range.contains(*address),
        })
    };
    sorted(present.iter().chain(primary).copied().filter(is_chosen).collect())
}

fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn is_localhost(address: &IpAddr) -> bool {
    *address == Ipv4Addr::LOCALHOST || *address == Ipv6Addr::LOCALHOST
}

/// The addresses of all interfaces. Link-local ones mean nothing without their link.
fn present() -> Vec<IpAddr> {
    let all = match nix::ifaddrs::getifaddrs() {
        Ok(all) => all,
        Err(error) => {
            tracing::warn!(%error, "the node's addresses can't be listed");
            return Vec::new();
        }
    };
    let addresses = all.filter_map(|interface| {
        let address = interface.address?;
        let four = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
        four.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip())))
    });
    let is_everywhere = |address: &IpAddr| match address {
        IpAddr::V4(four) => !four.is_link_local(),
        IpAddr::V6(six) => !six.is_unicast_link_local(),
    };
    addresses.filter(is_everywhere).collect()
}

/// The links that were asked for, or those of the default routes.
pub(crate) fn uplinks(flags: &ServiceFlags) -> Vec<String> {
    if !flags.uplinks.is_empty() {
        return flags.uplinks.clone();
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    default_links(
        &read("/proc/thread-self/net/route"),
        &read("/proc/thread-self/net/ipv6_route"),
    )
}

/// Columns stand in proc(5): of IPv4 the link, the destination and, as the eighth, the mask; of IPv6 the destination, the
/// length of its prefix and, at last, the link.
fn default_links(four: &str, six: &str) -> Vec<String> {
    const ANY6: &str = "00000000000000000000000000000000";
    let of_four = four.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_default = columns.get(1) == Some(&"00000000") && columns.get(7) == Some(&"00000000");
        is_default.then(|| columns.first().copied()).flatten()
    });
    let of_six = six.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_default = columns.first() == Some(&ANY6) && columns.get(1) == Some(&"00");
        is_default.then(|| columns.last().copied()).flatten()
    });
    // An unreachable default route is lo's.
    let mut links: Vec<String> = of_four
        .chain(of_six)
        .filter(|link| *link != "lo")
        .map(str::to_owned)
        .collect();
    links.sort_unstable();
    links.dedup();
    links
}

/// The clock of the programs.
pub(super) fn seconds_since_boot() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.ok().and_then(|now| u32::try_from(now.tv_sec()).ok()).unwrap_or(0)
}

/// Cookies of the pods' network namespaces, each asked for once: a namespace keeps its cookie.
#[derive(Debug, Default)]
pub(crate) struct Cookies(BTreeMap<PodUid, u64>);

impl Cookies {
    /// The cookie of a pod's namespace, pinned at `netns`; `None` as long as there is no such namespace.
    pub(crate) fn of(&mut self, pod: &PodUid, netns: &Path) -> Option<u64> {
        if let Some(cookie) = self.0.get(pod) {
            return Some(*cookie);
        }
        let asked = Netns::open(netns).and_then(|netns| netns.run(ebpf_kernel::network_cookie)?);
        let cookie = asked.ok()?;
        self.0.insert(pod.clone(), cookie);
        Some(cookie)
    }

    /// Forgets the pods that are gone.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&PodUid) -> bool) {
        self.0.retain(|pod, _| is_there(pod));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_name_the_uplinks() {
        let four = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    eth1\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let zero = "0".repeat(32);
        let six = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth2\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n\
             fe800000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n"
        );
        assert_eq!(default_links(four, &six), ["eth1", "eth2"]);
        assert!(default_links("", "").is_empty());
    }

    #[test]
    fn node_ports_are_on_the_addresses_that_were_asked_for() {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let primary = ips(&["192.0.2.1", "2001:db8::1"]);
        let present = ips(&[
            "127.0.0.1",
            "::1",
            "127.0.0.53",
            "192.0.2.1",
            "198.51.100.7",
            "2001:db8::1",
        ]);
        for (which, expected) in [
            ("primary", vec!["192.0.2.1", "2001:db8::1"]),
            ("localhost", vec!["127.0.0.1", "::1"]),
            ("198.51.100.0/24", vec!["198.51.100.7"]),
            (
                "primary,localhost",
                vec!["127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"],
            ),
            (
                "all",
                vec!["127.0.0.1", "192.0.2.1", "198.51.100.7", "::1", "2001:db8::1"],
            ),
        ] {
            let which: Vec<NodePortAddresses> = which.split(',').map(|word| word.parse().unwrap()).collect();
            assert_eq!(chosen(&which, &primary, &present), ips(&expected), "{which:?}");
        }
        assert!("10.0.0.0/33".parse::<NodePortAddresses>().is_err());
    }
}
