//! Looking: what the kernel holds of the pod network, as facts. Changes nothing.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use nix::errno::Errno;

use crate::{
    answer::{
        decode_address, decode_host_end, decode_mtu, decode_outgoing, decode_peer_route, decode_pod_end, decode_route,
        decode_way,
    },
    cidr::Cidr,
    identity::{GROUP, Identity},
    ipam,
    message::Table,
    netlink::{Connection, Refusal},
    netns::Netns,
    node_network::NodeNetwork,
    plan::{self, HostEnd, PodEnd},
    pod_network::{Attachment, NetworkError},
    step::{LinkRef, LinkStep},
};

/// Addresses that nobody can have, neither in the world nor in examples, so that the way to them is the way to everywhere.
const PROBE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1));
const PROBE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x4000, 0, 0, 0, 0, 0, 0, 1));

/// The host end of that name.
pub(crate) fn show_host_end(node: &Connection, name: &str) -> Result<Option<HostEnd>, NetworkError> {
    let link = show(node, name)?;
    link.map(|link| decode_host_end(&link).ok_or_else(cut_short))
        .transpose()
}

/// The link of that name in a pod's namespace.
pub(crate) fn show_pod_end(pod: &Connection, name: &str) -> Result<Option<PodEnd>, NetworkError> {
    let link = show(pod, name)?;
    link.map(|link| decode_pod_end(&link).ok_or_else(cut_short)).transpose()
}

fn show(namespace: &Connection, name: &str) -> Result<Option<Vec<u8>>, NetworkError> {
    let link = LinkRef::Name(name.to_owned());
    Ok(namespace.show(LinkStep::Show { link })?)
}

/// All host ends of the node, of every network.
pub(crate) fn host_ends(node: &Connection) -> Result<Vec<HostEnd>, NetworkError> {
    let links = node.dump(Table::Links).map_err(NetworkError::Look)?;
    let ends = links.iter().filter_map(|link| decode_host_end(link));
    Ok(ends.filter(|end| end.group == GROUP).collect())
}

/// Our routes in a namespace, as (destination, link's index).
pub(crate) fn routes(namespace: &Connection) -> Result<Vec<(Cidr, u32)>, NetworkError> {
    let mut routes = namespace.dump(Table::RoutesV4).map_err(NetworkError::Look)?;
    routes.extend(namespace.dump(Table::RoutesV6).map_err(NetworkError::Look)?);
    Ok(routes.iter().filter_map(|route| decode_route(route)).collect())
}

/// Ranges that we route to peers.
pub(crate) fn peer_routes(node: &Connection) -> Result<Vec<Cidr>, NetworkError> {
    let mut routes = node.dump(Table::PeersV4).map_err(NetworkError::Look)?;
    routes.extend(node.dump(Table::PeersV6).map_err(NetworkError::Look)?);
    Ok(routes.iter().filter_map(|route| decode_peer_route(route)).collect())
}

/// What the node shows before a pod is attached, by one question to the kernel: whole tables are not read, and nothing is
/// locked.
#[derive(Debug)]
pub(crate) struct FirstLook {
    /// The host's end, if the pod has one already.
    pub(crate) host: Option<HostEnd>,
    /// Whether [`plan::prepare_node`] has been done.
    pub(crate) is_prepared: bool,
    /// Bytes of the largest packet that every way off the node takes; none when the node is alone, or nobody asked.
    pub(crate) uplink_mtu: Option<u32>,
}

/// Looks at the node of a network, for the host end of that name.
pub(crate) fn first_look(node: &Connection, network: &NodeNetwork, name: &str) -> Result<FirstLook, NetworkError> {
    let link = LinkRef::Name(name.to_owned());
    let prepared = plan::signs_of_preparation(&network.pod_cidrs, &network.service_cidrs);
    let probes: &[IpAddr] = if network.mtu.is_none() {
        &[PROBE_V4, PROBE_V6]
    } else {
        &[]
    };
    let mut questions = vec![LinkStep::Show { link }];
    questions.extend(prepared.iter().map(|(question, _)| question.clone()));
    questions.extend(probes.iter().map(|to| LinkStep::FindRoute { to: *to }));
    let mut answers = node.ask(&questions).map_err(NetworkError::Look)?;
    let routes = answers.split_off(1 + prepared.len());
    let mut signs = prepared.iter().zip(&answers[1..]);
    Ok(FirstLook {
        is_prepared: signs.all(|((_, way), answer)| decode_way(answer) == *way),
        // Whatever a refusal is, there is no way.
        uplink_mtu: smallest_mtu(node, routes.iter().flatten().filter_map(|route| decode_outgoing(route)))?,
        host: match answers.swap_remove(0) {
            Ok(link) => Some(decode_host_end(&link).ok_or_else(cut_short)?),
            Err(refusal) if refusal.errno == Errno::ENODEV => None,
            Err(refusal) => return Err(NetworkError::Look(refusal)),
        },
    })
}

/// Bytes of the largest packet that all pods' links and the ways off the node take; none where there are neither.
pub(crate) fn node_mtu(node: &Connection) -> Result<Option<u32>, NetworkError> {
    let ways = [PROBE_V4, PROBE_V6].map(|to| LinkStep::FindRoute { to });
    let routes = node.ask(&ways).map_err(NetworkError::Look)?;
    let uplinks = smallest_mtu(node, routes.iter().flatten().filter_map(|route| decode_outgoing(route)))?;
    Ok(host_ends(node)?.iter().map(|end| end.mtu).chain(uplinks).min())
}

/// The smallest of these links', but for `lo`.
fn smallest_mtu(node: &Connection, links: impl Iterator<Item = u32>) -> Result<Option<u32>, NetworkError> {
    let mut links: Vec<u32> = links.filter(|index| *index != 1).collect();
    links.dedup();
    let show = |index: &u32| LinkStep::Show {
        link: LinkRef::Index(*index),
    };
    let questions: Vec<LinkStep> = links.iter().map(show).collect();
    if questions.is_empty() {
        return Ok(None);
    }
    let shown = node.ask(&questions).map_err(NetworkError::Look)?;
    Ok(shown.iter().flatten().filter_map(|link| decode_mtu(link)).min())
}

/// All addresses in a namespace, as (address, link's index).
pub(crate) fn addresses(namespace: &Connection) -> Result<Vec<(IpAddr, u32)>, NetworkError> {
    let addresses = namespace.dump(Table::Addresses).map_err(NetworkError::Look)?;
    Ok(addresses.iter().filter_map(|address| decode_address(address)).collect())
}

/// Whose a host end is; `None` when nobody has said so.
pub(crate) fn identity(end: &HostEnd) -> Option<Identity> {
    end.alias.as_deref().and_then(Identity::from_alias)
}

/// A host end as an attachment, if it is one of that network.
pub(crate) fn as_attachment(network: &str, end: &HostEnd, routes: &[(Cidr, u32)]) -> Option<Attachment> {
    let identity = identity(end).filter(|identity| identity.network == network)?;
    let is_routed = |address: &IpAddr| routes.contains(&(plan::single(*address), end.index));
    let is_complete = !end.addresses.is_empty() && end.addresses.iter().all(is_routed);
    Some(attachment(&identity, end, is_complete))
}

/// The attachment that a host end is.
pub(crate) fn attachment(identity: &Identity, host: &HostEnd, complete: bool) -> Attachment {
    Attachment {
        network: identity.network.clone(),
        container_id: identity.container_id.clone(),
        ifname: identity.ifname.clone(),
        addresses: host.addresses.clone(),
        gateways: host.addresses.iter().map(|address| plan::gateway(*address)).collect(),
        mac: host.pod_mac(),
        host_mac: host.mac,
        mtu: host.mtu,
        host_link: host.name.clone(),
        host_index: host.index,
        bandwidth: host.bandwidth,
        complete,
    }
}

/// The first thing in a pod's namespace that is not as it was made.
pub(crate) fn first_change(pod: &Connection, made: &Attachment) -> Result<Option<String>, NetworkError> {
    let ifname = &made.ifname;
    let Some(end) = show_pod_end(pod, ifname)? else {
        return Ok(Some(format!("{ifname} is gone")));
    };
    if end.host_index != made.host_index || end.mac != made.mac {
        return Ok(Some(format!("{ifname} is another link")));
    }
    let (held, routed) = (addresses(pod)?, routes(pod)?);
    let change = |(address, gateway): (&IpAddr, &IpAddr)| {
        let everywhere = plan::everywhere(*gateway);
        if !held.contains(&(*address, end.index)) {
            Some(format!("{ifname} has lost the address {address}"))
        } else if !routed.contains(&(everywhere, end.index)) {
            Some(format!("{ifname} has lost the route to {everywhere}"))
        } else {
            None
        }
    };
    Ok(made.addresses.iter().zip(&made.gateways).find_map(change))
}

/// A socket in a pod's namespace, for a thread whose own is `home`.
pub(crate) fn connect_inside(netns: &Netns, home: &Netns, path: &Path) -> Result<Connection, NetworkError> {
    let opened = netns
        .visit(home, Connection::open)
        .map_err(|source| inaccessible(path, source))?;
    opened.map_err(NetworkError::Socket)
}

pub(crate) fn inaccessible(path: &Path, source: io::Error) -> NetworkError {
    NetworkError::Namespace {
        path: path.to_owned(),
        source,
    }
}

pub(crate) fn exhausted(cidr: Cidr) -> NetworkError {
    NetworkError::Exhausted {
        cidr,
        capacity: ipam::capacity(&cidr),
    }
}

pub(crate) fn cut_short() -> NetworkError {
    NetworkError::Look(Refusal {
        errno: Errno::EBADMSG,
        words: None,
    })
}
