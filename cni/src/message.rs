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
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage},
    tc::{TcAttribute, TcHandle, TcMessage, TcOption},
};

use crate::{
    bandwidth::Bucket,
    cidr::Cidr,
    identity::{DETOUR_PROTOCOL, PEER_PROTOCOL, ROUTE_PROTOCOL, address_name, limits_name, mac_name},
    step::{DetourRule, Hook, LinkKind, LinkRef, LinkStep, Mac, Program},
};

/// Metric of the unreachable routes: worse than any route that somebody means.
const UNREACHABLE_METRIC: u32 = 1 << 30;
/// Metric of the routes to peers, below that of any route that somebody means.
const PEER_METRIC: u32 = 1 << 20;
/// The table of detours, and where its rules stand: behind that of the node's own addresses, before all that others have.
const DETOUR_TABLE: u32 = 132_132;
const DETOUR_PRIORITY: u32 = 132;
/// `IPV4_DEVCONF_FORWARDING` and `IPV4_DEVCONF_RP_FILTER` of `linux/ip.h`.
const FORWARDING: u16 = 1;
const RP_FILTER: u16 = 8;
const ROUTE_LOCALNET: u16 = 26;
/// `TC_H_ROOT`, `TC_H_CLSACT`, and the places behind it for what comes in and what leaves.
const ROOT: u32 = u32::MAX;
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INCOMING: u32 = 0xffff_fff2;
const OUTGOING: u32 = 0xffff_fff3;
/// Priorities of filters: the pod network's own, and one that sees what that lets pass.
const FIRST: u32 = 1;
const SECOND: u32 = 50;
/// Handles of the queues: a queue of another kind is another one.
const BUCKET_HANDLE: u32 = 0x0001_0000;
const PACED_HANDLE: u32 = 0x0002_0000;

/// The message of a step and the flags to send it with. `pod` is the namespace where a pair's other end goes.
pub fn encode(step: &LinkStep, pod: Option<BorrowedFd<'_>>) -> (RouteNetlinkMessage, u16) {
    const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
    const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;
    match step {
        LinkStep::CreatePair { .. } => (RouteNetlinkMessage::NewLink(pair(step, pod)), NEW),
        LinkStep::ProbeNetkit => (RouteNetlinkMessage::NewLink(impossible_netkit()), NEW),
        // Strict source checks cost nothing here: one pod lies behind each link.
        LinkStep::MakeOurs { link, alias } => {
            let mut message = refer(link, LinkAttribute::IfAlias(alias.clone()));
            let settings = LinkAttribute::AfSpecUnspec(vec![turn_on(&[FORWARDING, RP_FILTER])]);
            message.attributes.push(settings);
            (RouteNetlinkMessage::SetLink(message), 0)
        }
        LinkStep::HoldAddress { link, address } => {
            let names = LinkAttribute::PropList(vec![Prop::AltIfName(address_name(*address))]);
            (RouteNetlinkMessage::NewLinkProp(refer(link, names)), NEW | NLM_F_APPEND)
        }
        LinkStep::KeepMac { link, mac } => {
            let named = named(link, mac_name(*mac, link));
            (RouteNetlinkMessage::NewLinkProp(named), NEW | NLM_F_APPEND)
        }
        LinkStep::KeepLimits { link, bandwidth } => {
            let named = named(link, limits_name(*bandwidth, link));
            (RouteNetlinkMessage::NewLinkProp(named), NEW | NLM_F_APPEND)
        }
        LinkStep::DropLimits { link, bandwidth } => {
            let named = named(link, limits_name(*bandwidth, link));
            (RouteNetlinkMessage::DelLinkProp(named), 0)
        }
        LinkStep::RouteLoopback { index } => set(
            &LinkRef::Index(*index),
            LinkAttribute::AfSpecUnspec(vec![turn_on(&[ROUTE_LOCALNET])]),
        ),
        LinkStep::Limit { index, bucket } => {
            let message = traffic(*index, BUCKET_HANDLE, ROOT, "tbf", token_bucket(bucket));
            (RouteNetlinkMessage::NewQueueDiscipline(message), SET)
        }
        LinkStep::Pace { index } => {
            let message = traffic(*index, PACED_HANDLE, ROOT, "fq", departure_times());
            (RouteNetlinkMessage::NewQueueDiscipline(message), SET)
        }
        LinkStep::ProbePace => {
            let message = traffic(1, PACED_HANDLE, ROOT, "fq", impossible_queue());
            (RouteNetlinkMessage::NewQueueDiscipline(message), SET)
        }
        LinkStep::PrepareInspection { index } => {
            let message = traffic(*index, CLSACT_HANDLE, CLSACT, "clsact", Vec::new());
            (RouteNetlinkMessage::NewQueueDiscipline(message), NEW)
        }
        LinkStep::Inspect { index, hook, program } => {
            let message = filter(*index, *hook, FIRST, classifier(*program));
            (RouteNetlinkMessage::NewTrafficFilter(message), SET)
        }
        LinkStep::Serve { index, hook, program } => {
            let message = filter(*index, *hook, SECOND, classifier(*program));
            (RouteNetlinkMessage::NewTrafficFilter(message), SET)
        }
        LinkStep::ServeNot { index, hook } => {
            let message = filter(*index, *hook, SECOND, Vec::new());
            (RouteNetlinkMessage::DelTrafficFilter(message), 0)
        }
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
        LinkStep::AddPeerRoute { to, gateway } => (RouteNetlinkMessage::NewRoute(peer_route(to, Some(*gateway))), SET),
        LinkStep::RemovePeerRoute { to } => (RouteNetlinkMessage::DelRoute(peer_route(to, None)), 0),
        LinkStep::AddUnreachable { to } => (RouteNetlinkMessage::NewRoute(unreachable(to)), SET),
        LinkStep::RemoveUnreachable { to } => (RouteNetlinkMessage::DelRoute(unreachable(to)), 0),
        LinkStep::AddDetour { to, source, mtu } => {
            (RouteNetlinkMessage::NewRoute(detour(*to, Some((*source, *mtu)))), SET)
        }
        LinkStep::RemoveDetour { to } => (RouteNetlinkMessage::DelRoute(detour(*to, None)), 0),
        LinkStep::AddRule { rule } => (RouteNetlinkMessage::NewRule(detour_rule(*rule, true)), NEW),
        LinkStep::RemoveRule { rule } => (RouteNetlinkMessage::DelRule(detour_rule(*rule, false)), 0),
        LinkStep::SetGroup { link, group } => set(link, LinkAttribute::Group(*group)),
        LinkStep::Delete { index } => (RouteNetlinkMessage::DelLink(refer(&LinkRef::Index(*index), None)), 0),
        LinkStep::DeleteGroup { group } => {
            let group = LinkAttribute::Group(*group);
            (RouteNetlinkMessage::DelLink(refer(&LinkRef::Index(0), Some(group))), 0)
        }
        LinkStep::FindRoute { to } => (RouteNetlinkMessage::GetRoute(question(*to)), 0),
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

/// A link by its name, and another name of it.
fn named(link: &str, name: String) -> LinkMessage {
    let names = LinkAttribute::PropList(vec![Prop::AltIfName(name)]);
    refer(&LinkRef::Name(link.to_owned()), names)
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
        // The kernel would make one for each processor, with a directory of files for each. Without a program for XDP all
        // of a link's packets go by the first.
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
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
/// it answers with one array of all.
fn turn_on(keys: &[u16]) -> AfSpecUnspec {
    const IFLA_INET_CONF: u16 = 1;
    let on = |key: &u16| DefaultNla::new(*key, 1u32.to_ne_bytes().to_vec());
    let conf: Vec<DefaultNla> = keys.iter().map(on).collect();
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

fn question(to: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to);
    message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(to.into()));
    message
}

fn peer_route(to: &Cidr, gateway: Option<IpAddr>) -> RouteMessage {
    let mut message = route_to(to, RouteType::Unicast);
    message.header.protocol = RouteProtocol::Other(PEER_PROTOCOL);
    message
        .attributes
        .extend(gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    message.attributes.push(RouteAttribute::Priority(PEER_METRIC));
    message
}

fn detour(to: IpAddr, by: Option<(IpAddr, u32)>) -> RouteMessage {
    let mut message = question(to);
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.protocol = RouteProtocol::Other(DETOUR_PROTOCOL);
    // The kernel has IPv6 routes by lo reject what they are for, unless it is the node's own.
    message.header.kind = if to.is_ipv4() {
        RouteType::Unicast
    } else {
        RouteType::Local
    };
    let lo = RouteAttribute::Oif(1);
    message.attributes.extend([RouteAttribute::Table(DETOUR_TABLE), lo]);
    if to.is_ipv4() {
        message.header.scope = RouteScope::Link;
    }
    if let Some((source, mtu)) = by {
        let metrics = RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]);
        message
            .attributes
            .extend([RouteAttribute::PrefSource(source.into()), metrics]);
    }
    message
}

fn detour_rule(rule: DetourRule, is_new: bool) -> RuleMessage {
    const FRA_IP_PROTO: u16 = 22;
    const IPPROTO_SCTP: u8 = 132;
    let mut message = RuleMessage::default();
    message.attributes = vec![
        RuleAttribute::Priority(DETOUR_PRIORITY),
        RuleAttribute::Other(DefaultNla::new(FRA_IP_PROTO, vec![IPPROTO_SCTP])),
        RuleAttribute::Protocol(RouteProtocol::Other(DETOUR_PROTOCOL)),
    ];
    match rule {
        DetourRule::Follow { is_ipv4 } => {
            message.header.family = if is_ipv4 {
                AddressFamily::Inet
            } else {
                AddressFamily::Inet6
            };
            message.header.action = RuleAction::ToTable;
            let own = RuleAttribute::Iifname("lo".to_owned());
            message.attributes.extend([RuleAttribute::Table(DETOUR_TABLE), own]);
        }
        DetourRule::Know { mark } => {
            message.header.family = AddressFamily::Inet;
            message.header.action = RuleAction::Nop;
            if is_new {
                message.attributes.push(RuleAttribute::FwMark(mark));
            }
        }
    }
    message
}

fn traffic(index: u32, handle: u32, parent: u32, kind: &str, options: Vec<DefaultNla>) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = index.cast_signed();
    message.header.handle = TcHandle::from(handle);
    message.header.parent = TcHandle::from(parent);
    message.attributes = vec![TcAttribute::Kind(kind.to_owned())];
    if !options.is_empty() {
        let options = options.into_iter().map(TcOption::Other).collect();
        message.attributes.push(TcAttribute::Options(options));
    }
    message
}

/// A filter for all protocols (`ETH_P_ALL`).
fn filter(index: u32, hook: Hook, priority: u32, options: Vec<DefaultNla>) -> TcMessage {
    let parent = match hook {
        Hook::Incoming => INCOMING,
        Hook::Outgoing => OUTGOING,
    };
    let mut message = traffic(index, 1, parent, "bpf", options);
    message.header.info = priority << 16 | u32::from(3u16.to_be());
    message
}

/// `struct tc_tbf_qopt` with the rate as far as 32 bits go, and beside it the rate in 64 and the burst in bytes.
fn token_bucket(bucket: &Bucket) -> Vec<DefaultNla> {
    const TCA_TBF_PARMS: u16 = 1;
    const TCA_TBF_RATE64: u16 = 4;
    const TCA_TBF_BURST: u16 = 6;
    let short = u32::try_from(bucket.rate).unwrap_or(u32::MAX).to_ne_bytes();
    // Link layer Ethernet, so that the kernel reckons without a table.
    let rate = [&[0, 1, 0, 0, 0, 0, 0, 0][..], &short].concat();
    let parameters = [&rate[..], &[0; 12], &bucket.limit.to_ne_bytes(), &[0; 8]].concat();
    let mut options = vec![DefaultNla::new(TCA_TBF_PARMS, parameters)];
    if bucket.rate > u64::from(u32::MAX) {
        options.push(DefaultNla::new(TCA_TBF_RATE64, bucket.rate.to_ne_bytes().to_vec()));
    }
    options.push(DefaultNla::new(TCA_TBF_BURST, bucket.burst.to_ne_bytes().to_vec()));
    options
}

/// A queue that goes by packets' times alone: senders' own rates are not looked at (`nopacing`), for the limit is one of
/// them all, and one sender may fill as much of the queue as many.
fn departure_times() -> Vec<DefaultNla> {
    const TCA_FQ_PLIMIT: u16 = 1;
    const TCA_FQ_FLOW_PLIMIT: u16 = 2;
    const TCA_FQ_RATE_ENABLE: u16 = 5;
    /// Packets; the program drops what would wait too long.
    const PACKETS: u32 = 10_000;
    let number = |kind, value: u32| DefaultNla::new(kind, value.to_ne_bytes().to_vec());
    vec![
        number(TCA_FQ_PLIMIT, PACKETS),
        number(TCA_FQ_FLOW_PLIMIT, PACKETS),
        number(TCA_FQ_RATE_ENABLE, 0),
    ]
}

fn impossible_queue() -> Vec<DefaultNla> {
    const TCA_FQ_QUANTUM: u16 = 3;
    vec![DefaultNla::new(TCA_FQ_QUANTUM, 0u32.to_ne_bytes().to_vec())]
}

/// A classifier whose program decides itself (`direct-action`).
fn classifier(program: Program) -> Vec<DefaultNla> {
    const TCA_BPF_CLASSID: u16 = 3;
    const TCA_BPF_FD: u16 = 6;
    const TCA_BPF_NAME: u16 = 7;
    const TCA_BPF_FLAGS: u16 = 8;
    const DIRECT_ACTION: u32 = 1;
    vec![
        DefaultNla::new(TCA_BPF_CLASSID, u32::from(program.place).to_ne_bytes().to_vec()),
        DefaultNla::new(TCA_BPF_FD, program.descriptor.to_ne_bytes().to_vec()),
        DefaultNla::new(TCA_BPF_NAME, b"orlop\0".to_vec()),
        DefaultNla::new(TCA_BPF_FLAGS, DIRECT_ACTION.to_ne_bytes().to_vec()),
    ]
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
    /// All our routes of IPv4 but those to peers.
    RoutesV4,
    /// All our routes of IPv6 but those to peers.
    RoutesV6,
    /// All routes to peers of IPv4.
    PeersV4,
    /// All routes to peers of IPv6.
    PeersV6,
    /// All detours of IPv4.
    DetoursV4,
    /// All detours of IPv6.
    DetoursV6,
    /// All rules of routing of IPv4.
    Rules,
}

/// The message that asks for a table. The kernel filters routes by protocol, if it checks dump requests strictly.
pub fn encode_dump(table: Table) -> RouteNetlinkMessage {
    let routes = |family, protocol| {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.protocol = RouteProtocol::Other(protocol);
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
        Table::RoutesV4 => routes(AddressFamily::Inet, ROUTE_PROTOCOL),
        Table::RoutesV6 => routes(AddressFamily::Inet6, ROUTE_PROTOCOL),
        Table::PeersV4 => routes(AddressFamily::Inet, PEER_PROTOCOL),
        Table::PeersV6 => routes(AddressFamily::Inet6, PEER_PROTOCOL),
        Table::DetoursV4 => routes(AddressFamily::Inet, DETOUR_PROTOCOL),
        Table::DetoursV6 => routes(AddressFamily::Inet6, DETOUR_PROTOCOL),
        Table::Rules => {
            let mut message = RuleMessage::default();
            message.header.family = AddressFamily::Inet;
            RouteNetlinkMessage::GetRule(message)
        }
    }
}
