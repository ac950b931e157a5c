//! What to ask of the kernel for one pod, from what is wanted and what is there. Pure; `netlink` does the steps.
//!
//! Attaching is four batches: *claim* on the node (the pair, whose it is, its addresses), *raise* on the node (limits, the
//! program), *furnish* in the pod, *publish* on the node (the routes). The kernel works off a batch without the sender, so a
//! killed process leaves either nothing, a claimed link or one with some of the rest. All say whose they are; repeating the
//! later batches completes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    bandwidth::{Bandwidth, Bucket},
    cidr::Cidr,
    identity::{GROUP, Identity},
    ipam,
    step::{Hook, LOOPBACK, LinkKind, LinkRef, LinkStep, Mac, Program},
};

/// Next hop of every pod, answered by a permanent neighbour instead of ARP; no interface has it.
pub const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The same for IPv6, instead of neighbour discovery.
pub const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// Hardware address of every host end; each is alone on its link. Locally administered; spells "orlop".
pub const HOST_MAC: Mac = [0x02, b'o', b'r', b'l', b'o', b'p'];

/// The same for links whose pod is limited in what it receives: what looks for short cuts to pods takes none to these, past
/// the queue that limits them.
pub const QUEUED_HOST_MAC: Mac = [0x02, b'o', b'r', b'l', b'o', b'q'];

/// A pod's network as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Whose it is.
    pub identity: Identity,
    /// Kind of the pair.
    pub kind: LinkKind,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Ranges that the pod gets one address from each.
    pub pod_cidrs: Vec<Cidr>,
    /// Addresses that were asked for.
    pub requested: Vec<IpAddr>,
    /// The hardware address that was asked for.
    pub mac: Option<Mac>,
    /// Limits on what the pod receives and sends.
    pub bandwidth: Bandwidth,
}

/// A host end as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEnd {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Index of the pod's end, in the pod's namespace.
    pub pod_index: u32,
    /// Its group.
    pub group: u32,
    /// Its alias, when somebody set one.
    pub alias: Option<String>,
    /// The addresses it holds, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// The hardware address that was asked for the pod's end.
    pub asked_mac: Option<Mac>,
    /// Limits that were asked for.
    pub bandwidth: Bandwidth,
}

impl HostEnd {
    /// Hardware address of the pod's end.
    pub fn pod_mac(&self) -> Mac {
        self.asked_mac.unwrap_or_else(|| pod_mac(&self.addresses))
    }
}

/// What stands on a link beside the link itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Means {
    /// The limits that the two below keep.
    pub bandwidth: Bandwidth,
    /// Looks at what the pod sends.
    pub inspector: Option<Program>,
    /// Limits what the pod receives, at the node's end.
    pub ingress: Option<Limit>,
    /// Limits what the pod sends, at the pod's end.
    pub egress: Option<Limit>,
}

/// What keeps a limit at one end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The kernel's token bucket.
    Bucket(Bucket),
    /// A program that says when packets depart.
    Paced(Program),
}

/// The link of the wanted name in the pod's namespace, as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEnd {
    /// Its index.
    pub index: u32,
    /// Index of its other end; 0 when it has none.
    pub host_index: u32,
    /// Its hardware address.
    pub mac: Vec<u8>,
}

/// What is to be done for a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// Nothing is there: claim, furnish, publish.
    Create,
    /// The link is there: furnish and publish, which changes nothing where all is done.
    Complete,
    /// What is there can't become what is wanted: delete it, then as [`Self::Create`].
    Recreate,
}

/// Why a pod can't be attached as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The namespace has a link of that name which is not ours.
    #[error("the pod's namespace has a link named {0} already")]
    IfnameInUse(String),
    /// The host link's name is another attachment's.
    #[error("the link {link} is another attachment's: {alias}")]
    HostLinkInUse {
        /// The host link.
        link: String,
        /// Its alias.
        alias: String,
    },
}

/// Chooses the course from what the kernel shows.
///
/// # Errors
/// When what is there is somebody else's.
pub fn course(wanted: &Wanted, host: Option<&HostEnd>, pod: Option<&PodEnd>) -> Result<Course, Conflict> {
    let Some(host) = host else {
        return match pod {
            None => Ok(Course::Create),
            Some(_) => Err(Conflict::IfnameInUse(wanted.identity.ifname.clone())),
        };
    };
    match &host.alias {
        Some(alias) if *alias != wanted.identity.alias() => Err(Conflict::HostLinkInUse {
            link: host.name.clone(),
            alias: alias.clone(),
        }),
        Some(_) if is_usable(wanted, host, pod) => Ok(Course::Complete),
        Some(_) | None => match pod {
            Some(pod) if !are_ends_of_one(host, pod) => Err(Conflict::IfnameInUse(wanted.identity.ifname.clone())),
            Some(_) | None => Ok(Course::Recreate),
        },
    }
}

fn is_usable(wanted: &Wanted, host: &HostEnd, pod: Option<&PodEnd>) -> bool {
    let families = |addresses: &mut dyn Iterator<Item = bool>| {
        let mut families: Vec<bool> = addresses.collect();
        families.sort_unstable();
        families
    };
    let held = families(&mut host.addresses.iter().map(IpAddr::is_ipv4));
    held == families(&mut wanted.pod_cidrs.iter().map(Cidr::is_ipv4))
        && wanted.requested.iter().all(|address| host.addresses.contains(address))
        && wanted.mac.is_none_or(|mac| host.asked_mac == Some(mac))
        && pod.is_some_and(|pod| are_ends_of_one(host, pod) && pod.mac == host.pod_mac())
}

/// Interface indices repeat in other namespaces, so the hardware address is compared beside them.
fn are_ends_of_one(host: &HostEnd, pod: &PodEnd) -> bool {
    pod.index == host.pod_index && pod.host_index == host.index
}

/// First batch, on the node: after it the link exists, says whose it is and holds its addresses, or `EEXIST` was the
/// answer to one of them. Ends with the link being shown. It is not up yet: to show a link that is up without a carrier, and
/// to change its queues, the kernel waits for packets on their way.
pub fn claim(wanted: &Wanted, addresses: &[IpAddr]) -> Vec<LinkStep> {
    let name = wanted.identity.host_link();
    let link = || LinkRef::Name(name.clone());
    let mut steps = vec![
        LinkStep::CreatePair {
            kind: wanted.kind,
            host_name: name.clone(),
            host_mac: match wanted.bandwidth.ingress {
                Some(_) => QUEUED_HOST_MAC,
                None => HOST_MAC,
            },
            pod_name: wanted.identity.ifname.clone(),
            pod_mac: wanted.mac.unwrap_or_else(|| pod_mac(addresses)),
            mtu: wanted.mtu,
            group: GROUP,
        },
        LinkStep::MakeOurs {
            link: link(),
            alias: wanted.identity.alias(),
        },
    ];
    steps.extend(addresses.iter().map(|address| LinkStep::HoldAddress {
        link: link(),
        address: *address,
    }));
    steps.extend(wanted.mac.map(|mac| LinkStep::KeepMac {
        link: name.clone(),
        mac,
    }));
    steps.extend([
        LinkStep::NoAutomaticAddress { link: link() },
        LinkStep::Show { link: link() },
    ]);
    steps
}

/// Second batch, on the node: what sees the pod's packets is there before the first of them. A change of the link is told to
/// all of the kernel when it is up, so what ports of the node need is there before, too.
pub fn raise(host: &HostEnd, means: &Means, has_ports: bool) -> Vec<LinkStep> {
    let mut steps = keep_limits(host, means.bandwidth);
    steps.extend(inspect(host.index, means));
    steps.extend(has_ports.then_some(LinkStep::RouteLoopback { index: host.index }));
    steps.push(LinkStep::SetUp {
        link: LinkRef::Index(host.index),
    });
    steps
}

/// Has the link itself say how its pod is limited: the next agent reads it there.
fn keep_limits(host: &HostEnd, bandwidth: Bandwidth) -> Vec<LinkStep> {
    let (link, earlier) = (|| host.name.clone(), host.bandwidth);
    if bandwidth == earlier {
        return Vec::new();
    }
    let drop = (!earlier.is_none()).then(|| LinkStep::DropLimits {
        link: link(),
        bandwidth: earlier,
    });
    let keep = LinkStep::KeepLimits {
        link: link(),
        bandwidth,
    };
    drop.into_iter().chain([keep]).collect()
}

/// What of a link's means stands at the node's end.
pub fn inspect(index: u32, means: &Means) -> Vec<LinkStep> {
    let mut steps = Vec::new();
    if let Some(program) = means.inspector {
        steps.extend(attach_program(index, Hook::Incoming, program));
    }
    steps.extend(means.ingress.map(|limit| limit_by(index, limit)).unwrap_or_default());
    steps
}

fn attach_program(index: u32, hook: Hook, program: Program) -> [LinkStep; 2] {
    [
        LinkStep::PrepareInspection { index },
        LinkStep::Inspect { index, hook, program },
    ]
}

fn limit_by(index: u32, limit: Limit) -> Vec<LinkStep> {
    match limit {
        Limit::Bucket(bucket) => vec![LinkStep::Limit { index, bucket }],
        Limit::Paced(program) => {
            let mut steps = attach_program(index, Hook::Outgoing, program).to_vec();
            steps.push(LinkStep::Pace { index });
            steps
        }
    }
}

/// Third batch, in the pod: `lo`, the link, its addresses, and all else by way of the node.
pub fn furnish(host: &HostEnd, means: &Means) -> Vec<LinkStep> {
    let index = host.pod_index;
    let link = LinkRef::Index(index);
    let mut steps = vec![
        LinkStep::SetUp { link: LOOPBACK },
        LinkStep::NoAutomaticAddress { link: link.clone() },
    ];
    steps.extend(means.egress.map(|limit| limit_by(index, limit)).unwrap_or_default());
    steps.push(LinkStep::SetUp { link });
    for address in &host.addresses {
        let gateway = gateway(*address);
        steps.push(LinkStep::AddAddress {
            index,
            address: *address,
        });
        steps.push(LinkStep::AddNeighbour {
            index,
            address: gateway,
            mac: host.mac,
        });
        if gateway.is_ipv4() {
            steps.push(LinkStep::AddRoute {
                index,
                to: single(gateway),
                gateway: None,
                source: None,
            });
        }
        steps.push(LinkStep::AddRoute {
            index,
            to: everywhere(gateway),
            gateway: Some(gateway),
            source: None,
        });
    }
    steps
}

/// Fourth batch, on the node: from here on the pod is reached. Showing the link at the end makes kernels from 6.8 on act on
/// the carrier that the pod's end brought, instead of a little later.
pub fn publish(host: &HostEnd, pod_cidrs: &[Cidr]) -> Vec<LinkStep> {
    let (index, mac) = (host.index, host.pod_mac());
    let neighbours = host.addresses.iter().map(|address| LinkStep::AddNeighbour {
        index,
        address: *address,
        mac,
    });
    let routes = host.addresses.iter().map(|address| LinkStep::AddRoute {
        index,
        to: single(*address),
        gateway: None,
        source: pod_cidrs
            .iter()
            .find(|cidr| cidr.contains(*address))
            .and_then(ipam::node_address),
    });
    let show = LinkStep::Show {
        link: LinkRef::Index(index),
    };
    neighbours.chain(routes).chain([show]).collect()
}

/// The node's own part: its address in each pod range, and no way off the node for addresses that nobody has.
pub fn prepare_node(pod_cidrs: &[Cidr], service_cidrs: &[Cidr]) -> Vec<LinkStep> {
    let addresses = pod_cidrs.iter().filter_map(ipam::node_address);
    let addresses = addresses.map(|address| LinkStep::AddAddress { index: 1, address });
    let unreachable = pod_cidrs
        .iter()
        .chain(service_cidrs)
        .map(|to| LinkStep::AddUnreachable { to: *to });
    [LinkStep::SetUp { link: LOOPBACK }]
        .into_iter()
        .chain(addresses)
        .chain(unreachable)
        .collect()
}

/// What asks whether [`prepare_node`] has been done: the node's addresses, and in each range the one that nobody has.
pub fn signs_of_preparation(pod_cidrs: &[Cidr], service_cidrs: &[Cidr]) -> Vec<(LinkStep, Way)> {
    let own = pod_cidrs.iter().filter_map(ipam::node_address);
    let nobodys = pod_cidrs.iter().chain(service_cidrs).map(Cidr::network);
    let own = own.map(|to| (LinkStep::FindRoute { to }, Way::Local));
    own.chain(nobodys.map(|to| (LinkStep::FindRoute { to }, Way::Unreachable)))
        .collect()
}

/// Where a packet would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the node itself.
    Local,
    /// Nowhere, by a route that says so.
    Unreachable,
    /// Into a link, or nowhere for want of a route.
    Other,
}

/// The opposite of [`prepare_node`]; `lo` stays up.
pub fn clear_node(pod_cidrs: &[Cidr], service_cidrs: &[Cidr]) -> Vec<LinkStep> {
    let unreachable = pod_cidrs
        .iter()
        .chain(service_cidrs)
        .map(|to| LinkStep::RemoveUnreachable { to: *to });
    let addresses = pod_cidrs.iter().filter_map(ipam::node_address);
    unreachable
        .chain(addresses.map(|address| LinkStep::RemoveAddress { index: 1, address }))
        .collect()
}

/// Hardware address of the pod's end: fixed by its first address, so that a neighbour's table never goes stale.
pub fn pod_mac(addresses: &[IpAddr]) -> Mac {
    let [a, b, c, d] = match addresses.first() {
        Some(IpAddr::V4(v4)) => v4.octets(),
        Some(IpAddr::V6(v6)) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
        None => [0; 4],
    };
    [0x0a, b'o', a, b, c, d]
}

/// Next hop of a pod that has this address.
pub fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY_V4 } else { GATEWAY_V6 }
}

/// The range that is one address.
pub fn single(address: IpAddr) -> Cidr {
    Cidr::containing(address, if address.is_ipv4() { 32 } else { 128 }).expect("the prefix is as long as the address")
}

/// The range of all addresses of this one's family.
pub fn everywhere(family: IpAddr) -> Cidr {
    Cidr::containing(family, 0).expect("no prefix is too long at 0")
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
