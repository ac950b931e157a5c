//! The node's one nftables table of a network, as a plain list of steps: which packets leave under the node's address,
//! which ports of the node lead to a pod, which packets a pod may not send. Pure; `netfilter` does the steps.
//!
//! ```text
//! prerouting -300  guard      IPv6 sources that are not the pod's, loopback addresses from pods: dropped
//! prerouting -100  incoming   for an address of the node: ports4/6, addrports4/6 lead to pods
//! output     -100  outgoing   the same for the node's own processes
//! postrouting 100  leaving    pods and the node on their way by a port of the node: as the node; pods off the node: as it, too
//! ```
//!
//! There are no rules for single pods. A port of the node is one element of a map, which bears the name of its pod's link.

use std::{
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    cidr::Cidr,
    identity::{Fnv1a, GROUP},
    ipam,
    mapping::{PortMapping, Protocol},
    nft::{ANSWER, Element, Expression, Hook, KEY, NftStep, SetShape},
    node_network::Peer,
};

/// Counts in which form the table is; the table is made anew when its contents are others.
pub const STATE: &str = "state";
/// The maps of ports: for all addresses of the node, and for single ones.
pub const PORT_MAPS: [&str; 4] = ["ports4", "ports6", "addrports4", "addrports6"];

/// Which rules the table has, beside what they follow from: another number has every node's table made anew. A test fails
/// when the rules are others and the number is not.
const FORM: u32 = 1;

/// nft's numbers for the types of keys.
const INTEGER: u32 = 4;
const IPV4: u32 = 7;
const IPV6: u32 = 8;
const PROTOCOL: u32 = 12;
const PORT: u32 = 13;
/// `NFT_META_*`.
const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;
const IIFGROUP: u32 = 21;
const OIFGROUP: u32 = 22;
/// `NFT_FIB_RESULT_OIF`, `NFT_FIB_RESULT_ADDRTYPE`; `NFTA_FIB_F_SADDR`, `_DADDR`, `_IIF`.
const FIB_LINK: u32 = 1;
const FIB_KIND: u32 = 3;
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
const FIB_INCOMING_LINK: u32 = 8;
/// `RTN_LOCAL`
const LOCAL: u32 = 2;
/// `IPS_DST_NAT`
const DESTINATION_CHANGED: u32 = 0x20;

/// What the table follows from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Firewall<'a> {
    /// Ranges of the node's pods.
    pub pod_cidrs: &'a [Cidr],
    /// Ranges that pods reach under their own addresses; none at all when nothing leaves under the node's.
    pub reached_as_pod: Option<Vec<Cidr>>,
    /// The other nodes: no rule is about them, but the routes to former ones are removed whenever the table is made anew.
    pub peers: &'a [Peer],
}

/// A family's numbers.
struct Family {
    is_ipv4: bool,
    nfproto: u8,
    source: u32,
    destination: u32,
    bytes: u32,
    pods: &'static str,
    local: &'static str,
    ports: &'static str,
    address_ports: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        is_ipv4: true,
        nfproto: 2,
        source: 12,
        destination: 16,
        bytes: 4,
        pods: "pods4",
        local: "local4",
        ports: "ports4",
        address_ports: "addrports4",
    },
    Family {
        is_ipv4: false,
        nfproto: 10,
        source: 8,
        destination: 24,
        bytes: 16,
        pods: "pods6",
        local: "local6",
        ports: "ports6",
        address_ports: "addrports6",
    },
];

/// Name of a network's table, in nft's family `inet`.
pub fn table_name(network: &str) -> String {
    format!("orlop_{network}")
}

impl Firewall<'_> {
    /// Makes the table what it should be, whatever it was; the ports of pods stay.
    pub fn steps(&self) -> Vec<NftStep> {
        let mut steps = self.contents();
        let state = Element {
            key: self.state().to_vec(),
            ..Element::default()
        };
        steps.extend([NftStep::FlushSet(STATE), NftStep::Add(STATE, vec![state])]);
        steps
    }

    /// What [`STATE`] holds when the table is as it should be. Every attach asks, so it follows from what the rules follow
    /// from, not from all of them. Another compiler may come to another, and the table is made anew then.
    pub fn state(&self) -> [u8; 8] {
        let mut hasher = Fnv1a::default();
        (FORM, self).hash(&mut hasher);
        hasher.finish().to_be_bytes()
    }

    fn contents(&self) -> Vec<NftStep> {
        let mut steps = vec![NftStep::Table];
        steps.extend(chains());
        steps.extend(shapes().into_iter().map(NftStep::Set));
        for family in FAMILIES {
            steps.extend(fill(family.pods, self.pod_cidrs, family.is_ipv4));
            let local = self.reached_as_pod.as_deref().unwrap_or_default();
            steps.extend(fill(family.local, local, family.is_ipv4));
        }
        let rules = guard()
            .into_iter()
            .chain(entries())
            .chain(ports())
            .chain(self.leaving());
        steps.extend(rules.map(|(chain, rule)| NftStep::Rule(chain, rule)));
        steps
    }

    fn leaving(&self) -> Vec<(&'static str, Vec<Expression>)> {
        let mut rules = Vec::new();
        for family in &FAMILIES {
            let mut cidrs = self.pod_cidrs.iter().filter(|cidr| cidr.is_ipv4() == family.is_ipv4);
            if let Some(node) = cidrs.next().and_then(ipam::node_address) {
                rules.extend(by_port(family, node).map(|rule| ("leaving", rule)));
            }
        }
        if self.reached_as_pod.is_some() {
            rules.extend(FAMILIES.iter().map(|family| ("leaving", off_node(family))));
        }
        rules
    }
}

fn chains() -> Vec<NftStep> {
    let hook = |kind, number, priority| Some(Hook { kind, number, priority });
    let chains = [
        ("guard", hook("filter", 0, -300)),
        ("ports", None),
        ("incoming", hook("nat", 0, -100)),
        ("outgoing", hook("nat", 3, -100)),
        ("leaving", hook("nat", 4, 100)),
    ];
    let make = chains.map(|(name, hook)| NftStep::Chain(name, hook));
    let flush = chains.map(|(name, _)| NftStep::FlushChain(name));
    make.into_iter().chain(flush).collect()
}

fn shapes() -> Vec<SetShape> {
    let set = |name, key, data, is_interval| SetShape {
        name,
        key,
        data,
        is_interval,
    };
    let port = (PROTOCOL << 6 | PORT, 8);
    let mut shapes = vec![set(STATE, (INTEGER, 8), None, false)];
    for family in FAMILIES {
        let (address, bytes) = (if family.is_ipv4 { IPV4 } else { IPV6 }, family.bytes);
        let answer = Some((address << 6 | PORT, bytes + 4));
        shapes.extend([
            set(family.pods, (address, bytes), None, true),
            set(family.local, (address, bytes), None, true),
            set(family.ports, port, answer, false),
            set(
                family.address_ports,
                (address << 12 | PROTOCOL << 6 | PORT, bytes + 8),
                answer,
                false,
            ),
        ]);
    }
    shapes
}

/// Empties a set of ranges and fills it again.
fn fill(set: &'static str, cidrs: &[Cidr], is_ipv4: bool) -> Vec<NftStep> {
    let ends = joined(cidrs.iter().filter(|cidr| cidr.is_ipv4() == is_ipv4));
    let elements: Vec<Element> = ends
        .into_iter()
        .map(|(address, is_end)| Element {
            key: octets(address),
            is_end,
            ..Element::default()
        })
        .collect();
    let add = (!elements.is_empty()).then_some(NftStep::Add(set, elements));
    [NftStep::FlushSet(set)].into_iter().chain(add).collect()
}

/// Ranges as their first address and the first one behind, ranges that touch or overlap as one; the end of all addresses
/// has nothing behind it.
fn joined<'a>(cidrs: impl Iterator<Item = &'a Cidr>) -> Vec<(IpAddr, bool)> {
    let mut sorted: Vec<&Cidr> = cidrs.collect();
    sorted.sort_unstable_by_key(|cidr| (cidr.network(), cidr.prefix()));
    let mut ends: Vec<(IpAddr, Option<IpAddr>)> = Vec::new();
    for cidr in sorted {
        let behind = cidr.address(cidr.last_offset()).and_then(next);
        match ends.last_mut() {
            Some((_, None)) => {}
            Some((_, last @ Some(_))) if Some(cidr.network()) <= *last => {
                *last = behind.and_then(|end| (*last).max(Some(end)))
            }
            Some(_) | None => ends.push((cidr.network(), behind)),
        }
    }
    let pair = |(start, end): (IpAddr, Option<IpAddr>)| [Some((start, false)), end.map(|end| (end, true))];
    ends.into_iter().flat_map(pair).flatten().collect()
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

type Rule = (&'static str, Vec<Expression>);

/// What a pod may not send. IPv4 sources are the kernel's `rp_filter` to check.
fn guard() -> [Rule; 2] {
    let from_pod = || vec![Expression::Meta(IIFGROUP, KEY), equals(KEY, GROUP)];
    let mut loopback = from_pod();
    loopback.extend(is_loopback(FAMILIES[0].destination));
    let mut foreign = from_pod();
    foreign.extend(is_of(&FAMILIES[1]));
    foreign.extend([
        Expression::Fib(FIB_LINK, FIB_SOURCE | FIB_INCOMING_LINK, KEY),
        equals(KEY, 0),
    ]);
    [loopback, foreign].map(|mut rule| {
        rule.extend([Expression::Counter, Expression::Drop]);
        ("guard", rule)
    })
}

fn entries() -> [Rule; 2] {
    ["incoming", "outgoing"].map(|chain| {
        let rule = vec![
            Expression::Fib(FIB_KIND, FIB_DESTINATION, KEY),
            equals(KEY, LOCAL),
            Expression::Jump("ports"),
        ];
        (chain, rule)
    })
}

/// Single addresses come before all addresses.
fn ports() -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in &FAMILIES {
        let words = family.bytes / 4;
        for (map, is_single) in [(family.address_ports, true), (family.ports, false)] {
            let mut rule = is_of(family);
            let mut key = KEY;
            if is_single {
                rule.push(Expression::Payload(1, family.destination, family.bytes, key));
                key += words;
            }
            rule.extend([
                Expression::Meta(L4PROTO, key),
                Expression::Payload(2, 2, 2, key + 1),
                Expression::Map(map, KEY, ANSWER),
                Expression::DestinationNat(family.nfproto.into(), ANSWER, ANSWER + words),
            ]);
            rules.push(("ports", rule));
        }
    }
    rules
}

/// Who came by a port of the node from a pod of this node, or from the node by its loopback address, goes on as the node:
/// otherwise the answer would go straight back, from an address that was never asked.
fn by_port(family: &Family, node: IpAddr) -> impl Iterator<Item = Vec<Expression>> {
    let start = || {
        let mut rule = vec![Expression::Meta(OIFGROUP, KEY), equals(KEY, GROUP)];
        rule.extend(is_of(family));
        rule.extend([
            Expression::ConnectionStatus(KEY),
            Expression::Mask(KEY, DESTINATION_CHANGED.to_ne_bytes()),
            Expression::Differs(KEY, vec![0; 4]),
        ]);
        rule
    };
    let end = [
        Expression::Load(KEY, octets(node)),
        Expression::SourceNat(family.nfproto.into(), KEY),
    ];
    let mut pod = start();
    pod.extend([
        Expression::Payload(1, family.source, family.bytes, KEY),
        Expression::In(family.pods, KEY),
    ]);
    pod.extend(end.clone());
    let loopback = family.is_ipv4.then(|| {
        let mut rule = start();
        rule.extend(is_loopback(family.source));
        rule.extend(end);
        rule
    });
    [pod].into_iter().chain(loopback)
}

/// What leaves the node for somewhere that does not know pods goes as the node.
fn off_node(family: &Family) -> Vec<Expression> {
    let mut rule = vec![
        Expression::Meta(OIFGROUP, KEY),
        Expression::Differs(KEY, GROUP.to_ne_bytes().to_vec()),
    ];
    rule.extend(is_of(family));
    rule.extend([
        Expression::Payload(1, family.source, family.bytes, KEY),
        Expression::In(family.pods, KEY),
        Expression::Payload(1, family.destination, family.bytes, KEY),
        Expression::NotIn(family.local, KEY),
        Expression::Counter,
        Expression::Masquerade,
    ]);
    rule
}

fn is_of(family: &Family) -> Vec<Expression> {
    vec![
        Expression::Meta(NFPROTO, KEY),
        Expression::Equals(KEY, vec![family.nfproto]),
    ]
}

fn is_loopback(offset: u32) -> Vec<Expression> {
    let mut parts = is_of(&FAMILIES[0]);
    parts.extend([
        Expression::Payload(1, offset, 4, KEY),
        Expression::Mask(KEY, [255, 0, 0, 0]),
        Expression::Equals(KEY, vec![127, 0, 0, 0]),
    ]);
    parts
}

fn equals(register: u32, number: u32) -> Expression {
    Expression::Equals(register, number.to_ne_bytes().to_vec())
}

/// The elements that lead ports of the node to a pod, with the map that each belongs to.
pub fn port_elements(ports: &[PortMapping], addresses: &[IpAddr], owner: &str) -> Vec<(&'static str, Element)> {
    let pairs = ports
        .iter()
        .flat_map(|port| addresses.iter().map(move |address| (port, *address)));
    pairs
        .filter(|(port, address)| port.is_for(*address))
        .map(|(port, address)| port_element(port, address, owner))
        .collect()
}

fn port_element(port: &PortMapping, address: IpAddr, owner: &str) -> (&'static str, Element) {
    let family = &FAMILIES[usize::from(address.is_ipv6())];
    let single = port.host_address.filter(|host| !host.is_unspecified());
    let padded = |port: u16| [port.to_be_bytes(), [0; 2]].concat();
    let key = [
        single.map(octets).unwrap_or_default(),
        vec![port.protocol.number(), 0, 0, 0],
        padded(port.host_port),
    ];
    let element = Element {
        key: key.concat(),
        data: Some([octets(address), padded(port.pod_port)].concat()),
        is_end: false,
        owner: Some(owner.to_owned()),
    };
    let map = if single.is_some() {
        family.address_ports
    } else {
        family.ports
    };
    (map, element)
}

/// The port that an element of one of [`PORT_MAPS`] is about. One for all addresses says of which family.
pub fn mapping_of(map: &str, element: &Element) -> Option<PortMapping> {
    let family = FAMILIES.iter().find(|family| map.ends_with(family.ports))?;
    let single = if map == family.address_ports {
        family.bytes as usize
    } else {
        0
    };
    let (address, rest) = element.key.split_at_checked(single)?;
    let host_address = match single {
        0 if family.is_ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        0 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => address_of(address)?,
    };
    let port = |bytes: &[u8]| Some(u16::from_be_bytes(*bytes.first_chunk()?));
    let (_, pod_port) = element.data.as_deref()?.split_at_checked(family.bytes as usize)?;
    Some(PortMapping {
        protocol: Protocol::of_number(*rest.first()?)?,
        host_address: Some(host_address),
        host_port: port(rest.get(4..)?)?,
        pod_port: port(pod_port)?,
    })
}

fn address_of(octets: &[u8]) -> Option<IpAddr> {
    let four = || <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
    let six = || <[u8; 16]>::try_from(octets).ok().map(IpAddr::from);
    four().or_else(six)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{identity::fnv1a, nft::encode};

    fn cidrs(texts: &[&str]) -> Vec<Cidr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn ranges_that_touch_or_overlap_are_one() {
        let show = |texts: &[&str]| {
            let ends: Vec<String> = joined(cidrs(texts).iter())
                .into_iter()
                .map(|(address, is_end)| format!("{}{address}", if is_end { "<" } else { "" }))
                .collect();
            ends.join(" ")
        };
        assert_eq!(show(&["10.1.0.0/16", "10.0.0.0/16"]), "10.0.0.0 <10.2.0.0");
        assert_eq!(show(&["10.0.0.0/8", "10.3.0.0/16"]), "10.0.0.0 <11.0.0.0");
        assert_eq!(
            show(&["10.0.0.0/24", "10.0.2.0/24"]),
            "10.0.0.0 <10.0.1.0 10.0.2.0 <10.0.3.0"
        );
        assert_eq!(show(&["0.0.0.0/0", "10.0.0.0/8"]), "0.0.0.0");
        assert_eq!(show(&["ff00::/8"]), "ff00::");
    }

    #[test]
    fn a_table_is_another_when_what_it_follows_from_is() {
        let pod_cidrs = cidrs(&["10.0.0.0/24"]);
        let plain = Firewall {
            pod_cidrs: &pod_cidrs,
            reached_as_pod: None,
            peers: &[],
        };
        let masquerading = Firewall {
            reached_as_pod: Some(pod_cidrs.clone()),
            peers: &[],
            ..plain.clone()
        };
        let peers = [Peer {
            pod_cidrs: cidrs(&["10.0.1.0/24"]),
            addresses: Vec::new(),
        }];
        let peering = Firewall {
            peers: &peers,
            ..plain.clone()
        };
        assert_eq!(plain.state(), plain.clone().state());
        assert_ne!(plain.state(), masquerading.state());
        assert_ne!(plain.state(), peering.state());
    }

    #[test]
    fn rules_of_another_form_have_another_number() {
        let pod_cidrs = cidrs(&["10.0.0.0/24", "fd00::/64"]);
        let firewall = Firewall {
            pod_cidrs: &pod_cidrs,
            reached_as_pod: Some(pod_cidrs.clone()),
            peers: &[],
        };
        let bytes: Vec<u8> = firewall.contents().iter().flat_map(|step| encode("", step).2).collect();
        assert_eq!(
            (FORM, fnv1a(&bytes)),
            (1, 17_016_525_718_252_993_362),
            "count FORM up and write both numbers here"
        );
    }

    #[test]
    fn a_port_leads_to_each_family_that_it_is_for() {
        let addresses: [IpAddr; 2] = ["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        let port = |host_address: Option<&str>| PortMapping {
            protocol: Protocol::Tcp,
            host_address: host_address.map(|address| address.parse().unwrap()),
            host_port: 8080,
            pod_port: 80,
        };
        let maps = |host_address| -> Vec<&str> {
            let elements = port_elements(&[port(host_address)], &addresses, "orlx");
            elements.into_iter().map(|(map, _)| map).collect()
        };
        assert_eq!(maps(None), ["ports4", "ports6"]);
        assert_eq!(maps(Some("0.0.0.0")), ["ports4"]);
        assert_eq!(maps(Some("192.0.2.1")), ["addrports4"]);
        assert_eq!(maps(Some("::")), ["ports6"]);
        assert_eq!(maps(Some("2001:db8::1")), ["addrports6"]);
        let (_, element) = &port_elements(&[port(None)], &addresses, "orlx")[0];
        assert_eq!(element.key, [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(element.data.as_deref(), Some(&[10, 0, 0, 5, 0, 80, 0, 0][..]));
    }

    proptest! {
        #[test]
        fn joined_ranges_hold_what_the_ranges_held(
            ranges in prop::collection::vec((any::<u32>(), 1u8..=32), 1..6),
            probe: u32,
        ) {
            let cidrs: Vec<Cidr> = ranges
                .iter()
                .map(|(bits, prefix)| Cidr::containing(Ipv4Addr::from_bits(*bits).into(), *prefix).unwrap())
                .collect();
            let probe = IpAddr::from(Ipv4Addr::from_bits(probe));
            let ends = joined(cidrs.iter());
            prop_assert!(ends.is_sorted_by(|a, b| a.0 < b.0));
            let last = ends.iter().rev().find(|(address, _)| *address <= probe);
            let is_inside = last.is_some_and(|(_, is_end)| !is_end);
            prop_assert_eq!(is_inside, cidrs.iter().any(|cidr| cidr.contains(probe)));
        }
    }

    #[test]
    fn ports_are_read_back_from_their_elements() {
        let addresses: [IpAddr; 2] = ["10.244.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        for (asked, expected) in [
            (None, vec!["0.0.0.0", "::"]),
            (Some("0.0.0.0"), vec!["0.0.0.0"]),
            (Some("::"), vec!["::"]),
            (Some("192.0.2.1"), vec!["192.0.2.1"]),
            (Some("2001:db8::1"), vec!["2001:db8::1"]),
        ] {
            let port = PortMapping {
                protocol: Protocol::Sctp,
                host_address: asked.map(|text| text.parse().unwrap()),
                host_port: 8080,
                pod_port: 80,
            };
            let read: Vec<PortMapping> = port_elements(&[port], &addresses, "a")
                .iter()
                .map(|(map, element)| mapping_of(map, element).unwrap())
                .collect();
            let expected: Vec<PortMapping> = expected
                .iter()
                .map(|text| PortMapping {
                    host_address: Some(text.parse().unwrap()),
                    ..port
                })
                .collect();
            assert_eq!(read, expected, "{asked:?}");
        }
        assert_eq!(mapping_of("ports4", &Element::default()), None);
        assert_eq!(mapping_of("pods4", &Element::default()), None);
    }
}
