//! A step or a question as an rtnetlink message. Bytes only: `netlink` has the socket, `answer` reads what comes back.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{DefaultNla, Emitable, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
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
    identity::{ROUTE_PROTOCOL, address_name},
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
