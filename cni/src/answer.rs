//! The kernel's answers as facts: the few attributes of links, routes and addresses that matter here. Others are passed
//! over, whatever a newer kernel puts into them. Bytes only; `message` makes the questions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_packet_route::AddressFamily;
use nix::errno::Errno;

use crate::{
    bandwidth::Bandwidth,
    cidr::Cidr,
    identity::{DETOUR_PROTOCOL, PEER_PROTOCOL, ROUTE_PROTOCOL, address_of_name, limits_of_name, mac_of_name},
    netlink::Refusal,
    plan::{HostEnd, PodEnd, Way},
    step::Mac,
};

/// Bytes of `struct ifinfomsg`, `struct rtmsg` and `struct ifaddrmsg`, which lead the attributes.
const LINK_HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;
const ADDRESS_HEADER: usize = 8;

/// The few attributes of a link that matter here. Others are passed over, whatever a newer kernel puts into them.
#[derive(Debug, Default, PartialEq, Eq)]
struct LinkFacts {
    index: u32,
    name: String,
    mac: Vec<u8>,
    other_index: u32,
    group: u32,
    alias: Option<String>,
    addresses: Vec<IpAddr>,
    asked_mac: Option<Mac>,
    bandwidth: Bandwidth,
    mtu: u32,
}

impl LinkFacts {
    /// From the payload of `RTM_NEWLINK`; `None` when it is cut short.
    fn decode(payload: &[u8]) -> Option<Self> {
        const IFLA_ADDRESS: u16 = 1;
        const IFLA_IFNAME: u16 = 3;
        const IFLA_MTU: u16 = 4;
        const IFLA_LINK: u16 = 5;
        const IFLA_IFALIAS: u16 = 20;
        const IFLA_GROUP: u16 = 27;
        const IFLA_PROP_LIST: u16 = 52;
        let mut facts = Self {
            index: u32_at(payload, 4)?,
            ..Self::default()
        };
        for attribute in NlasIterator::new(payload.get(LINK_HEADER..)?) {
            let attribute = attribute.ok()?;
            match attribute.kind() {
                IFLA_ADDRESS => facts.mac = attribute.value().to_vec(),
                IFLA_IFNAME => facts.name = text(&attribute),
                IFLA_MTU => facts.mtu = u32_at(attribute.value(), 0)?,
                IFLA_LINK => facts.other_index = u32_at(attribute.value(), 0)?,
                IFLA_IFALIAS => facts.alias = Some(text(&attribute)),
                IFLA_GROUP => facts.group = u32_at(attribute.value(), 0)?,
                IFLA_PROP_LIST => {
                    facts.addresses = held_addresses(attribute.value());
                    facts.asked_mac = names(attribute.value()).find_map(|name| mac_of_name(&name));
                    let limits = names(attribute.value()).find_map(|name| limits_of_name(&name));
                    facts.bandwidth = limits.unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(facts)
    }
}

fn names(list: &[u8]) -> impl Iterator<Item = String> {
    let names = NlasIterator::new(list).filter_map(Result::ok);
    names.map(|name| text(&name))
}

fn held_addresses(list: &[u8]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = names(list).filter_map(|name| address_of_name(&name)).collect();
    addresses.sort_unstable();
    addresses
}

fn text(attribute: &NlaBuffer<&[u8]>) -> String {
    let bytes = attribute.value().split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Reads a link that `Show` or a dump answered with as a host's end; `None` when the message is cut short.
pub fn decode_host_end(payload: &[u8]) -> Option<HostEnd> {
    let LinkFacts {
        index,
        name,
        other_index,
        group,
        alias,
        addresses,
        mac,
        asked_mac,
        bandwidth,
        mtu,
        ..
    } = LinkFacts::decode(payload)?;
    Some(HostEnd {
        name,
        index,
        pod_index: other_index,
        group,
        alias,
        addresses,
        // A link that is no Ethernet is nobody's host end.
        mac: mac.try_into().unwrap_or_default(),
        asked_mac,
        bandwidth,
        mtu,
    })
}

/// Bytes of the largest packet of a link; `None` when the message is cut short.
pub fn decode_mtu(payload: &[u8]) -> Option<u32> {
    LinkFacts::decode(payload).map(|facts| facts.mtu)
}

/// Index of the link that a route leads into; `None` when it leads nowhere.
pub fn decode_outgoing(payload: &[u8]) -> Option<u32> {
    const RTA_OIF: u16 = 4;
    let mut attributes = NlasIterator::new(payload.get(ROUTE_HEADER..)?).filter_map(Result::ok);
    let link = attributes.find(|attribute| attribute.kind() == RTA_OIF)?;
    u32_at(link.value(), 0)
}

/// Where the answer to `FindRoute` leads.
pub fn decode_way(answer: &Result<Vec<u8>, Refusal>) -> Way {
    const RTN_LOCAL: u8 = 2;
    match answer {
        Ok(route) if route.get(7) == Some(&RTN_LOCAL) => Way::Local,
        Err(refusal) if refusal.errno == Errno::EHOSTUNREACH => Way::Unreachable,
        Ok(_) | Err(_) => Way::Other,
    }
}

/// Reads a link as a pod's end; `None` when the message is cut short.
pub fn decode_pod_end(payload: &[u8]) -> Option<PodEnd> {
    let LinkFacts {
        index,
        mac,
        other_index,
        ..
    } = LinkFacts::decode(payload)?;
    Some(PodEnd {
        index,
        host_index: other_index,
        mac,
    })
}

/// Reads one of our routes into a link as (destination, link's index); `None` for any other route.
pub fn decode_route(payload: &[u8]) -> Option<(Cidr, u32)> {
    decode_unicast(payload, ROUTE_PROTOCOL)
}

/// Reads one of our routes to a peer as its destination; `None` for any other route.
pub fn decode_peer_route(payload: &[u8]) -> Option<Cidr> {
    decode_unicast(payload, PEER_PROTOCOL).map(|(to, _)| to)
}

/// Reads one of our detours as its destination, the source and the largest packet; `None` for any other route.
pub fn decode_detour(payload: &[u8]) -> Option<(IpAddr, IpAddr, u32)> {
    const RTA_PREFSRC: u16 = 7;
    const RTA_METRICS: u16 = 8;
    const RTAX_MTU: u16 = 2;
    let (to, _) = decode_unicast(payload, DETOUR_PROTOCOL)?;
    let (mut source, mut mtu) = (None, None);
    for attribute in NlasIterator::new(&payload[ROUTE_HEADER..]).filter_map(Result::ok) {
        match attribute.kind() {
            RTA_PREFSRC => source = address(attribute.value()),
            RTA_METRICS => {
                let mut metrics = NlasIterator::new(attribute.value()).filter_map(Result::ok);
                mtu = metrics
                    .find(|metric| metric.kind() == RTAX_MTU)
                    .and_then(|mtu| u32_at(mtu.value(), 0));
            }
            _ => {}
        }
    }
    Some((to.network(), source?, mtu?))
}

/// Reads our rule that does nothing as the number that it bears; `None` for any other rule.
pub fn decode_mark(payload: &[u8]) -> Option<u32> {
    const RULE_HEADER: usize = 12;
    const FR_ACT_NOP: u8 = 3;
    const FRA_FWMARK: u16 = 10;
    const FRA_PROTOCOL: u16 = 21;
    let header = payload.get(..RULE_HEADER)?;
    let (mut mark, mut is_ours) = (0, false);
    for attribute in NlasIterator::new(&payload[RULE_HEADER..]).filter_map(Result::ok) {
        match attribute.kind() {
            FRA_FWMARK => mark = u32_at(attribute.value(), 0)?,
            FRA_PROTOCOL => is_ours = attribute.value() == [DETOUR_PROTOCOL],
            _ => {}
        }
    }
    (is_ours && header[7] == FR_ACT_NOP).then_some(mark)
}

fn decode_unicast(payload: &[u8], protocol: u8) -> Option<(Cidr, u32)> {
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTN_UNICAST: u8 = 1;
    const RTN_LOCAL: u8 = 2;
    let header = payload.get(..ROUTE_HEADER)?;
    if header[5] != protocol || !matches!(header[7], RTN_UNICAST | RTN_LOCAL) {
        return None;
    }
    let is_ipv4 = header[0] == u8::from(AddressFamily::Inet);
    let (mut to, mut index) = (Some(unspecified(is_ipv4)), None);
    for attribute in NlasIterator::new(&payload[ROUTE_HEADER..]).filter_map(Result::ok) {
        match attribute.kind() {
            RTA_DST => to = address(attribute.value()),
            RTA_OIF => index = u32_at(attribute.value(), 0),
            _ => {}
        }
    }
    Some((Cidr::containing(to?, header[1])?, index?))
}

fn unspecified(is_ipv4: bool) -> IpAddr {
    if is_ipv4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

/// Reads an interface's address as (address, link's index); `None` when the message is cut short.
pub fn decode_address(payload: &[u8]) -> Option<(IpAddr, u32)> {
    const IFA_ADDRESS: u16 = 1;
    let index = u32_at(payload, 4)?;
    let mut attributes = NlasIterator::new(payload.get(ADDRESS_HEADER..)?).filter_map(Result::ok);
    let own = attributes.find(|attribute| attribute.kind() == IFA_ADDRESS)?;
    address(own.value()).map(|own| (own, index))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{Emitable, NetlinkSerializable};
    use netlink_packet_route::link::{LinkAttribute, LinkMessage, Prop};
    use proptest::prelude::*;

    use super::*;
    use crate::{bandwidth::Rate, message::encode, step::LinkStep};

    #[test]
    fn a_links_answer_is_read_for_its_identity_and_addresses() {
        let mut message = LinkMessage::default();
        message.header.index = 9;
        message.attributes.extend([
            LinkAttribute::IfName("orlabc".to_owned()),
            LinkAttribute::Link(2),
            LinkAttribute::Group(7),
            LinkAttribute::IfAlias("orlop:n/c/eth0".to_owned()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::PropList(vec![
                Prop::AltIfName("orlop-fd00--5".to_owned()),
                Prop::AltIfName("somebody-elses".to_owned()),
                Prop::AltIfName("orlmac-020000000009-orlabc".to_owned()),
                Prop::AltIfName("orlbits-8000000.800000--orlabc".to_owned()),
                Prop::AltIfName("orlop-10.0.0.5".to_owned()),
            ]),
        ]);
        let mut payload = vec![0; message.buffer_len()];
        message.emit(&mut payload);
        let expected = HostEnd {
            name: "orlabc".to_owned(),
            index: 9,
            pod_index: 2,
            group: 7,
            alias: Some("orlop:n/c/eth0".to_owned()),
            addresses: vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            mac: [2, 0, 0, 0, 0, 1],
            asked_mac: Some([2, 0, 0, 0, 0, 9]),
            bandwidth: Bandwidth {
                ingress: Some(Rate {
                    bits_per_second: 8_000_000,
                    burst_bits: 800_000,
                }),
                egress: None,
            },
            mtu: 1500,
        };
        assert_eq!(decode_host_end(&payload), Some(expected));
        assert_eq!(decode_host_end(&payload[..10]), None);
    }

    #[test]
    fn only_our_routes_into_links_are_read() {
        let to: Cidr = "10.0.0.5/32".parse().unwrap();
        let everywhere: Cidr = "::/0".parse().unwrap();
        let into = |to| LinkStep::AddRoute {
            index: 9,
            to,
            gateway: None,
            source: None,
        };
        assert_eq!(decode_route(&bytes(&into(to))), Some((to, 9)));
        assert_eq!(decode_route(&bytes(&into(everywhere))), Some((everywhere, 9)));
        assert_eq!(decode_route(&bytes(&LinkStep::AddUnreachable { to })), None);
        let gateway = "192.0.2.2".parse().unwrap();
        assert_eq!(decode_route(&bytes(&LinkStep::AddPeerRoute { to, gateway })), None);
        let mut foreign = bytes(&into(to));
        foreign[5] = 4;
        assert_eq!(decode_route(&foreign), None);
    }

    #[test]
    fn an_interfaces_address_is_read_back() {
        let address = "fd00::5".parse().unwrap();
        assert_eq!(
            decode_address(&bytes(&LinkStep::AddAddress { index: 9, address })),
            Some((address, 9))
        );
    }

    fn bytes(step: &LinkStep) -> Vec<u8> {
        let (message, _) = encode(step, None);
        let mut payload = vec![0; NetlinkSerializable::buffer_len(&message)];
        message.serialize(&mut payload);
        payload
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (decode_host_end(&bytes), decode_pod_end(&bytes), decode_route(&bytes), decode_address(&bytes));
        }
    }
}
