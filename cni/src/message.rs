//! A step as an rtnetlink message, and the kernel's answers as facts. Bytes only; `netlink` has the socket.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NlaBuffer, NlasIterator,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoNetkit, InfoVeth, LinkAttribute,
        LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, NetkitMode, NetkitPolicy, Prop,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use crate::{
    cidr::Cidr,
    identity::{ROUTE_PROTOCOL, address_name, address_of_name},
    plan::{HostEnd, PodEnd},
    step::{LinkKind, LinkRef, LinkStep, Mac},
};

/// Metric of the unreachable routes: worse than any route that somebody means.
const UNREACHABLE_METRIC: u32 = 1 << 30;
/// `IPV4_DEVCONF_FORWARDING` and `IPV4_DEVCONF_RP_FILTER` of `linux/ip.h`.
const FORWARDING: u16 = 1;
const RP_FILTER: u16 = 8;

/// The message of a step and the flags to send it with. `pod` is the namespace where a pair's other end goes.
pub fn encode(step: &LinkStep, pod: Option<BorrowedFd<'_>>) -> (RouteNetlinkMessage, u16) {
    const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
    const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;
    match step {
        LinkStep::CreatePair { .. } => (RouteNetlinkMessage::NewLink(pair(step, pod)), NEW),
        LinkStep::ProbeNetkit => (RouteNetlinkMessage::NewLink(impossible_netkit()), NEW),
        LinkStep::SetAlias { link, alias } => set(link, LinkAttribute::IfAlias(alias.clone())),
        LinkStep::HoldAddress { link, address } => {
            let names = LinkAttribute::PropList(vec![Prop::AltIfName(address_name(*address))]);
            (RouteNetlinkMessage::NewLinkProp(refer(link, names)), NEW | NLM_F_APPEND)
        }
        LinkStep::ForwardAndFilter { link } => set(link, LinkAttribute::AfSpecUnspec(vec![forward_and_filter()])),
        LinkStep::NoAutomaticAddress { link } => {
            let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
            set(link, LinkAttribute::AfSpecUnspec(vec![mode]))
        }
        LinkStep::SetUp { link } => {
            let mut message = refer(link, None);
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
            (RouteNetlinkMessage::SetLink(message), 0)
        }
        LinkStep::AddAddress { index, address } => (RouteNetlinkMessage::NewAddress(own(*index, *address)), SET),
        LinkStep::RemoveAddress { index, address } => (RouteNetlinkMessage::DelAddress(own(*index, *address)), 0),
        LinkStep::AddNeighbour { index, address, mac } => (
            RouteNetlinkMessage::NewNeighbour(neighbour(*index, *address, *mac)),
            SET,
        ),
        LinkStep::AddRoute {
            index,
            to,
            gateway,
            source,
        } => (RouteNetlinkMessage::NewRoute(route(*index, to, *gateway, *source)), SET),
        LinkStep::AddUnreachable { to } => (RouteNetlinkMessage::NewRoute(unreachable(to)), SET),
        LinkStep::RemoveUnreachable { to } => (RouteNetlinkMessage::DelRoute(unreachable(to)), 0),
        LinkStep::SetGroup { link, group } => set(link, LinkAttribute::Group(*group)),
        LinkStep::Delete { index } => (RouteNetlinkMessage::DelLink(refer(&LinkRef::Index(*index), None)), 0),
        LinkStep::DeleteGroup { group } => {
            let group = LinkAttribute::Group(*group);
            (RouteNetlinkMessage::DelLink(refer(&LinkRef::Index(0), Some(group))), 0)
        }
        LinkStep::Show { link } => {
            let mask = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
            (RouteNetlinkMessage::GetLink(refer(link, mask)), 0)
        }
    }
}

fn set(link: &LinkRef, attribute: LinkAttribute) -> (RouteNetlinkMessage, u16) {
    (RouteNetlinkMessage::SetLink(refer(link, attribute)), 0)
}

fn refer(link: &LinkRef, attribute: impl Into<Option<LinkAttribute>>) -> LinkMessage {
    let mut message = LinkMessage::default();
    match link {
        LinkRef::Name(name) => message.attributes.push(LinkAttribute::IfName(name.clone())),
        LinkRef::Index(index) => message.header.index = *index,
    }
    message.attributes.extend(attribute.into());
    message
}

fn pair(step: &LinkStep, pod: Option<BorrowedFd<'_>>) -> LinkMessage {
    let LinkStep::CreatePair {
        kind,
        host_name,
        host_mac,
        pod_name,
        pod_mac,
        mtu,
        group,
    } = step
    else {
        unreachable!("called for CreatePair only")
    };
    let mut peer = end(pod_name, *pod_mac, *mtu);
    peer.attributes
        .extend(pod.map(|pod| LinkAttribute::NetNsFd(pod.as_raw_fd())));
    let (kind, data) = match kind {
        LinkKind::Veth => (InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(peer))),
        LinkKind::Netkit => (InfoKind::Netkit, InfoData::Netkit(netkit(peer))),
    };
    let mut message = end(host_name, *host_mac, *mtu);
    message.attributes.push(LinkAttribute::Group(*group));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(kind),
        LinkInfo::Data(data),
    ]));
    message
}

fn end(name: &str, mac: Mac, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.extend([
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::Mtu(mtu),
    ]);
    message
}

fn impossible_netkit() -> LinkMessage {
    let data = InfoData::Netkit(vec![InfoNetkit::Mode(NetkitMode::Other(u32::MAX))]);
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Netkit),
        LinkInfo::Data(data),
    ]));
    message
}

fn netkit(peer: LinkMessage) -> Vec<InfoNetkit> {
    vec![
        InfoNetkit::Mode(NetkitMode::L2),
        InfoNetkit::Policy(NetkitPolicy::Pass),
        InfoNetkit::PeerPolicy(NetkitPolicy::Pass),
        InfoNetkit::Peer(peer),
    ]
}

/// `IFLA_AF_SPEC { AF_INET { IFLA_INET_CONF { key: u32 } } }`: to set, the kernel wants an attribute for each key, where
/// it answers with one array of all. Strict source checks cost nothing here: one pod lies behind each link.
fn forward_and_filter() -> AfSpecUnspec {
    const IFLA_INET_CONF: u16 = 1;
    let conf = [FORWARDING, RP_FILTER].map(|key| DefaultNla::new(key, 1u32.to_ne_bytes().to_vec()));
    let conf = DefaultNla::new(IFLA_INET_CONF, bytes(&conf));
    AfSpecUnspec::Other(DefaultNla::new(u8::from(AddressFamily::Inet).into(), bytes(&[conf])))
}

fn bytes(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn own(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.index = index;
    message.header.prefix_len = if address.is_ipv4() { 32 } else { 128 };
    message.header.flags = AddressHeaderFlags::Permanent | AddressHeaderFlags::Nodad;
    let flags = AddressFlags::Permanent | AddressFlags::Nodad | AddressFlags::Noprefixroute;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Flags(flags),
    ];
    message
}

fn neighbour(index: u32, address: IpAddr, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::from(address)),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    message
}

fn route(index: u32, to: &Cidr, gateway: Option<IpAddr>, source: Option<IpAddr>) -> RouteMessage {
    let mut message = route_to(to, RouteType::Unicast);
    if gateway.is_none() && to.is_ipv4() {
        message.header.scope = RouteScope::Link;
    }
    message
        .attributes
        .extend(gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    message
        .attributes
        .extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

fn unreachable(to: &Cidr) -> RouteMessage {
    let mut message = route_to(to, RouteType::Unreachable);
    message.attributes.push(RouteAttribute::Priority(UNREACHABLE_METRIC));
    message
}

fn route_to(to: &Cidr, kind: RouteType) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to.network());
    message.header.destination_prefix_length = to.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.kind = kind;
    if to.prefix() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(to.network().into()));
    }
    message
}

/// What a dump is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// All links of the namespace.
    Links,
    /// All addresses of all links, of both families.
    Addresses,
    /// All our routes of IPv4.
    RoutesV4,
    /// All our routes of IPv6.
    RoutesV6,
}

/// The message that asks for a table. The kernel filters routes by protocol, if it checks dump requests strictly.
pub fn encode_dump(table: Table) -> RouteNetlinkMessage {
    let routes = |family| {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        RouteNetlinkMessage::GetRoute(message)
    };
    match table {
        Table::Links => {
            let mut message = LinkMessage::default();
            message
                .attributes
                .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
            RouteNetlinkMessage::GetLink(message)
        }
        Table::Addresses => RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        Table::RoutesV4 => routes(AddressFamily::Inet),
        Table::RoutesV6 => routes(AddressFamily::Inet6),
    }
}

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
}

impl LinkFacts {
    /// From the payload of `RTM_NEWLINK`; `None` when it is cut short.
    fn decode(payload: &[u8]) -> Option<Self> {
        const IFLA_ADDRESS: u16 = 1;
        const IFLA_IFNAME: u16 = 3;
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
                IFLA_LINK => facts.other_index = u32_at(attribute.value(), 0)?,
                IFLA_IFALIAS => facts.alias = Some(text(&attribute)),
                IFLA_GROUP => facts.group = u32_at(attribute.value(), 0)?,
                IFLA_PROP_LIST => facts.addresses = held_addresses(attribute.value()),
                _ => {}
            }
        }
        Some(facts)
    }
}

fn held_addresses(names: &[u8]) -> Vec<IpAddr> {
    let names = NlasIterator::new(names).filter_map(Result::ok);
    let mut addresses: Vec<IpAddr> = names.filter_map(|name| address_of_name(&text(&name))).collect();
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
        ..
    } = LinkFacts::decode(payload)?;
    Some(HostEnd {
        name,
        index,
        pod_index: other_index,
        group,
        alias,
        addresses,
    })
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
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTN_UNICAST: u8 = 1;
    let header = payload.get(..ROUTE_HEADER)?;
    if header[5] != ROUTE_PROTOCOL || header[7] != RTN_UNICAST {
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
    Cidr::containing(to?, header[1]).zip(index)
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
    use proptest::prelude::*;

    use super::*;

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
            LinkAttribute::PropList(vec![
                Prop::AltIfName("orlop-fd00--5".to_owned()),
                Prop::AltIfName("somebody-elses".to_owned()),
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
        };
        assert_eq!(decode_host_end(&payload), Some(expected));
        assert_eq!(decode_host_end(&payload[..10]), None);
    }

    #[test]
    fn only_our_routes_into_links_are_read() {
        let bytes = |message: RouteMessage| {
            let mut payload = vec![0; message.buffer_len()];
            message.emit(&mut payload);
            payload
        };
        let to: Cidr = "10.0.0.5/32".parse().unwrap();
        assert_eq!(decode_route(&bytes(route(9, &to, None, None))), Some((to, 9)));
        assert_eq!(decode_route(&bytes(unreachable(&to))), None);
        let mut foreign = route(9, &to, None, None);
        foreign.header.protocol = RouteProtocol::Static;
        assert_eq!(decode_route(&bytes(foreign)), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (decode_host_end(&bytes), decode_pod_end(&bytes), decode_route(&bytes), decode_address(&bytes));
        }
    }
}
