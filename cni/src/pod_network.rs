//! The pod network of one node: attach a network namespace, detach it, list what is attached.
//!
//! Every call is blocking, works in the network namespace of the calling thread (the node's) and may be made by many
//! threads and processes at once, one at a time for one container. Nothing is remembered between calls but hints below
//! [`NodeNetwork::run_dir`]; losing them loses the cool-down of addresses and nothing else.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::{
    attach::CLAIM_TRIES_MAX,
    bandwidth::Bandwidth,
    cidr::Cidr,
    forwarding::Forwarding,
    identity::host_link,
    ipam,
    lease::{LeaseError, Leases},
    mapping::PortMapping,
    names::{self, Names, NamesError},
    netfilter::{Netfilter, NftError},
    netlink::{Connection, Refusal, StepError},
    netns::Netns,
    observe::{self, FirstLook},
    pacer::{self, Pacer},
    plan::{self, Conflict, HostEnd},
    ports,
    step::{LinkRef, LinkStep, Mac},
    sysctl::SysctlError,
};
use nix::errno::Errno;

pub use crate::{
    attach::{attach, attach_new},
    node_network::{NodeNetwork, Peer},
    step::LinkKind,
};

/// Who wants to be attached.
#[derive(Debug, Clone)]
pub struct AttachRequest<'a> {
    /// Path of the pod's network namespace: a bind mount or `/proc/<pid>/ns/net`.
    pub netns: &'a Path,
    /// Id of the container or pod, unique on the node: `[A-Za-z0-9][A-Za-z0-9_.-]*`.
    pub container_id: &'a str,
    /// Name of the link inside the namespace, up to 15 bytes: `eth0`.
    pub ifname: &'a str,
    /// Addresses to have instead of the next free ones, one of each family at most; each lies in a pod range.
    pub addresses: &'a [IpAddr],
    /// Hardware address to have instead of one that follows from the first address.
    pub mac: Option<Mac>,
    /// Ports of the node that lead to the pod.
    pub ports: &'a [PortMapping],
    /// Limits on what the pod receives and sends.
    pub bandwidth: Bandwidth,
    /// Names that a resolver on the node may know the pod by.
    pub aliases: &'a [String],
}

impl<'a> AttachRequest<'a> {
    /// A request without wishes.
    pub fn new(netns: &'a Path, container_id: &'a str, ifname: &'a str) -> Self {
        Self {
            netns,
            container_id,
            ifname,
            addresses: &[],
            mac: None,
            ports: &[],
            bandwidth: Bandwidth::default(),
            aliases: &[],
        }
    }
}

/// One pod's link, as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the network.
    pub network: String,
    /// Id of the container or pod.
    pub container_id: String,
    /// Name of the link inside the pod's namespace.
    pub ifname: String,
    /// Addresses of the pod, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Next hop of the pod's default routes, in the order of `addresses`.
    pub gateways: Vec<IpAddr>,
    /// Hardware address of the pod's end.
    pub mac: Mac,
    /// Hardware address of the host's end.
    pub host_mac: Mac,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Name of the host's end.
    pub host_link: String,
    /// Interface index of the host's end.
    pub host_index: u32,
    /// Limits on what the pod receives and sends.
    pub bandwidth: Bandwidth,
    /// Whether every step of the attaching was done; a half-made one is repaired by [`attach`] and removed by [`detach`].
    pub complete: bool,
}

/// Why the pod network could not be changed or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The request or the configuration is wrong; trying again does not help.
    #[error("{0}")]
    Invalid(String),
    /// The pod's namespace can't be entered.
    #[error("enter the network namespace {path}")]
    Namespace {
        /// The path that was given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path given for a pod is the namespace of the node.
    #[error("{0} is the node's own network namespace")]
    OwnNamespace(PathBuf),
    /// It is attached already.
    #[error("{container_id} is attached by {ifname} already")]
    Attached {
        /// The container.
        container_id: String,
        /// The interface.
        ifname: String,
    },
    /// A link is there that is somebody else's.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// Every address of a range is held.
    #[error("no address is free in {cidr}: all {capacity} are held")]
    Exhausted {
        /// The range.
        cidr: Cidr,
        /// How many addresses it has for pods.
        capacity: u32,
    },
    /// An address that was asked for is held by another pod.
    #[error("the address {0} is held by another pod")]
    AddressInUse(IpAddr),
    /// A port of the node that was asked for leads to another pod.
    #[error("{0} of the node leads to another pod")]
    PortInUse(PortMapping),
    /// Others took every address that was tried first; trying again later helps.
    #[error("{CLAIM_TRIES_MAX} addresses in a row were taken by others first")]
    Contended,
    /// Nothing of that container is attached.
    #[error("{container_id} is not attached by {ifname}")]
    Unknown {
        /// The container.
        container_id: String,
        /// The interface.
        ifname: String,
    },
    /// An attachment is not as it was made.
    #[error("the network of {container_id} is not as it was made: {what}")]
    Changed {
        /// The container.
        container_id: String,
        /// What is missing or other.
        what: String,
    },
    /// The kernel refused a step.
    #[error(transparent)]
    Step(#[from] Box<StepError>),
    /// The kernel refused a step of the nftables table.
    #[error(transparent)]
    Nftables(#[from] Box<NftError>),
    /// The kernel did not show its tables.
    #[error("read the node's links and routes")]
    Look(#[source] Refusal),
    /// A pod's names can't be told to resolvers, or taken back.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// The address file can't be used.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A kernel setting can't be made.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// No socket or thread can be had.
    #[error("open a netlink socket")]
    Socket(#[source] io::Error),
}

/// Makes the node ready for pods: its own address in each pod range, routes that keep unassigned pod and Service
/// addresses on the node, routes to peers, and the nftables table. Idempotent; takes tens of microseconds.
///
/// # Errors
/// When the kernel refuses, or the configuration is wrong.
pub fn prepare(network: &NodeNetwork) -> Result<(), NetworkError> {
    network.check()?;
    prepare_by(&connect()?, network)
}

fn prepare_by(node: &Connection, network: &NodeNetwork) -> Result<(), NetworkError> {
    node.perform(&plan::prepare_node(&network.pod_cidrs, &network.service_cidrs), None)?;
    forward(network)?;
    forget_peers(node, network)?;
    route_to_peers(node, network)?;
    // The last, for the table says that all of it is done.
    ports::prepare(network)
}

/// [`prepare`] for a node where that has been done before, as far as `looked` and the table tell: what others may have
/// undone since is looked at, and done where it is missing.
pub(crate) fn prepare_again(
    node: &Connection,
    netfilter: &Netfilter,
    network: &NodeNetwork,
    looked: &FirstLook,
) -> Result<(), NetworkError> {
    if !looked.is_prepared || !ports::is_prepared(netfilter, network)? {
        return prepare_by(node, network);
    }
    forward(network)?;
    route_to_peers(node, network)
}

fn forward(network: &NodeNetwork) -> Result<(), NetworkError> {
    let forwarding = Forwarding::new(&network.run_dir);
    if network.has_ipv6() {
        forwarding.turn_on_ipv6(network.leaves_node())?;
    }
    if network.leaves_node() {
        forwarding.turn_on_ipv4()?;
    }
    Ok(())
}

fn route_to_peers(node: &Connection, network: &NodeNetwork) -> Result<(), NetworkError> {
    let routes = network.peers.iter().flat_map(Peer::routes);
    let add = routes.map(|(to, gateway)| LinkStep::AddPeerRoute { to, gateway });
    node.perform(&add.collect::<Vec<_>>(), None)?;
    Ok(())
}

/// Removes our routes to those who are peers no longer.
fn forget_peers(node: &Connection, network: &NodeNetwork) -> Result<(), NetworkError> {
    let is_wanted = |to: &Cidr| {
        network
            .peers
            .iter()
            .flat_map(Peer::routes)
            .any(|(wanted, _)| wanted == *to)
    };
    let stale = observe::peer_routes(node)?.into_iter().filter(|to| !is_wanted(to));
    let remove = stale.map(|to| LinkStep::RemovePeerRoute { to });
    node.perform(&remove.collect::<Vec<_>>(), None)?;
    Ok(())
}

/// Removes every link of this network and what [`prepare`] made, so that nothing of it is left. The node forwards as it
/// did before, unless pods of another network are still attached. Idempotent.
///
/// # Errors
/// When the kernel refuses.
pub fn teardown(network: &NodeNetwork) -> Result<(), NetworkError> {
    let node = connect()?;
    let is_ours = |end: &HostEnd| observe::identity(end).is_none_or(|identity| identity.network == network.name);
    let (ours, others): (Vec<HostEnd>, Vec<HostEnd>) = observe::host_ends(&node)?.into_iter().partition(is_ours);
    delete_together(network, &node, &ours)?;
    node.perform(&plan::clear_node(&network.pod_cidrs, &network.service_cidrs), None)?;
    let peers = network.peers.iter().flat_map(Peer::routes);
    let peers: Vec<LinkStep> = peers.map(|(to, _)| LinkStep::RemovePeerRoute { to }).collect();
    node.perform(&peers, None)?;
    ports::clear(&network.name)?;
    names_of(network).clear()?;
    if others.is_empty() {
        Forwarding::new(&network.run_dir).restore()?;
    }
    Ok(())
}

/// Removes the link of a container, both ends, and frees its addresses afterwards. Does nothing when there is none.
/// Waits for the kernel, some 20 ms.
///
/// # Errors
/// When the kernel refuses.
pub fn detach(network: &NodeNetwork, container_id: &str, ifname: &str) -> Result<(), NetworkError> {
    // Made first, and so closed last.
    let netfilter = ports::connect_if_any()?;
    let node = connect()?;
    let name = host_link(container_id, ifname);
    if let Some(netfilter) = &netfilter {
        ports::close_by(netfilter, &network.name, |owner| owner == name)?;
    }
    names_of(network).forget(&name)?;
    if let Some(end) = observe::show_host_end(&node, &name)?
        && observe::identity(&end).is_none_or(|identity| identity.network == network.name)
    {
        node.perform(&[LinkStep::Delete { index: end.index }], None)?;
        pacer::forget(network, [end.index]);
    }
    Ok(Leases::new(&network.run_dir).release(&[&name])?)
}

/// Detaches everything of this network but the given (container id, ifname); answers how many that were. All of them
/// together take little longer than one.
///
/// # Errors
/// When the kernel refuses.
pub fn retain(network: &NodeNetwork, valid: &[(String, String)]) -> Result<usize, NetworkError> {
    let valid: BTreeSet<(&str, &str)> = valid
        .iter()
        .map(|(id, ifname)| (id.as_str(), ifname.as_str()))
        .collect();
    let is_stale = |end: &HostEnd| {
        observe::identity(end).is_some_and(|identity| {
            identity.network == network.name
                && !valid.contains(&(identity.container_id.as_str(), identity.ifname.as_str()))
        })
    };
    let node = connect()?;
    let stale: Vec<HostEnd> = observe::host_ends(&node)?.into_iter().filter(is_stale).collect();
    let is_valid = |link: &str| valid.iter().any(|(id, ifname)| host_link(id, ifname) == link);
    ports::close(&network.name, |owner| !is_valid(owner))?;
    names_of(network).retain(is_valid)?;
    delete_together(network, &node, &stale)?;
    let names: Vec<&str> = stale.iter().map(|end| end.name.as_str()).collect();
    Leases::new(&network.run_dir).release(&names)?;
    Ok(stale.len())
}

/// Everything of this network that is attached, by container id; half-made links too.
///
/// # Errors
/// When the kernel's tables can't be read.
pub fn list(network: &NodeNetwork) -> Result<Vec<Attachment>, NetworkError> {
    let node = connect()?;
    let routes = observe::routes(&node)?;
    let ours = |end: &HostEnd| observe::as_attachment(&network.name, end, &routes);
    let mut attachments: Vec<Attachment> = observe::host_ends(&node)?.iter().filter_map(ours).collect();
    attachments.sort_unstable_by(|a, b| (&a.container_id, &a.ifname).cmp(&(&b.container_id, &b.ifname)));
    Ok(attachments)
}

/// Everything that is attached to the node, by every network, and the ports of the node that lead to each: one for all
/// addresses is there for each family.
///
/// # Errors
/// When the kernel's tables can't be read.
pub fn list_all(network: &NodeNetwork) -> Result<Vec<(Attachment, Vec<PortMapping>)>, NetworkError> {
    let ends = observe::host_ends(&connect()?)?;
    let mut names: Vec<String> = ends
        .iter()
        .filter_map(observe::identity)
        .map(|identity| identity.network)
        .collect();
    names.sort_unstable();
    names.dedup();
    let mut all = Vec::new();
    for name in names {
        let ports = ports::all(&name)?;
        let network = NodeNetwork {
            name,
            ..network.clone()
        };
        all.extend(list(&network)?.into_iter().map(|attachment| {
            let own = ports.iter().filter(|(owner, _)| *owner == attachment.host_link);
            let own = own.map(|(_, port)| *port).collect();
            (attachment, own)
        }));
    }
    Ok(all)
}

/// Takes back the ports of this network whose links are gone; answers how many those were.
///
/// # Errors
/// When the kernel refuses.
pub fn close_stale_ports(network: &NodeNetwork) -> Result<usize, NetworkError> {
    let links: Vec<String> = observe::host_ends(&connect()?)?
        .into_iter()
        .map(|end| end.name)
        .collect();
    let is_stale = |owner: &str| !links.iter().any(|link| link == owner);
    let count = ports::all(&network.name)?
        .iter()
        .filter(|(owner, _)| is_stale(owner))
        .count();
    ports::close(&network.name, is_stale)?;
    Ok(count)
}

/// Names that resolvers on the node may know a pod by.
pub fn aliases(network: &NodeNetwork, attachment: &Attachment) -> Vec<String> {
    Names::new(&network.run_dir, &attachment.network).of(&attachment.host_link)
}

/// Takes back the names of pods, of every network, whose links are gone.
///
/// # Errors
/// When the kernel's tables can't be read, or a file of names can't be removed.
pub fn forget_stale_aliases(network: &NodeNetwork) -> Result<(), NetworkError> {
    // Names come after their link, so the links are looked at behind them.
    let networks = names::networks(&network.run_dir);
    if networks.is_empty() {
        return Ok(());
    }
    let links = observe::host_ends(&connect()?)?;
    for name in networks {
        let is_there = |link: &str| links.iter().any(|end| end.name == link);
        Names::new(&network.run_dir, &name).retain(is_there)?;
    }
    Ok(())
}

/// The names of this network's pods.
pub(crate) fn names_of(network: &NodeNetwork) -> Names {
    Names::new(&network.run_dir, &network.name)
}

/// Has every link of this network looked at by the network's inspector, in the place of an earlier one, and limited as
/// before. What a pod sends its own end goes on to limit, by the earlier program.
///
/// # Errors
/// When the kernel refuses.
pub fn inspect_again(network: &NodeNetwork) -> Result<(), NetworkError> {
    if network.inspector.is_none() {
        return Ok(());
    }
    let node = connect()?;
    for attachment in list(network)? {
        let means = pacer::means(network, attachment.host_index, attachment.bandwidth);
        match node.perform(&plan::inspect(attachment.host_index, &means), None) {
            Err(error) if error.source.errno == Errno::ENODEV => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Takes back the limits of pods, of every network, whose links are gone; answers how many those were. Whoever removes a
/// pod without [`NodeNetwork::pacer`] can't.
///
/// # Errors
/// When the kernel's tables can't be read.
pub fn forget_stale_limits(network: &NodeNetwork) -> Result<usize, NetworkError> {
    // Limits come after their link, so the links are looked at behind them.
    let limited = network.pacer.as_deref().map(Pacer::links).unwrap_or_default();
    if limited.is_empty() {
        return Ok(0);
    }
    let ends = observe::host_ends(&connect()?)?;
    let is_gone = |link: &u32| !ends.iter().any(|end| end.index == *link);
    let gone: Vec<u32> = limited.into_iter().filter(is_gone).collect();
    let count = gone.len();
    pacer::forget(network, gone);
    Ok(count)
}

/// The attachment of one container; `None` when there is none.
///
/// # Errors
/// When the kernel's tables can't be read.
pub fn find(network: &NodeNetwork, container_id: &str, ifname: &str) -> Result<Option<Attachment>, NetworkError> {
    let node = connect()?;
    let Some(end) = observe::show_host_end(&node, &host_link(container_id, ifname))? else {
        return Ok(None);
    };
    Ok(observe::as_attachment(&network.name, &end, &observe::routes(&node)?))
}

/// The attachment of one container, if everything of it is as [`attach`] made it, on the node and in the pod.
///
/// # Errors
/// [`NetworkError::Unknown`], or [`NetworkError::Changed`] with the first thing that is missing.
pub fn check(
    network: &NodeNetwork,
    netns: &Path,
    container_id: &str,
    ifname: &str,
) -> Result<Attachment, NetworkError> {
    let unknown = || NetworkError::Unknown {
        container_id: container_id.to_owned(),
        ifname: ifname.to_owned(),
    };
    let changed = |what| NetworkError::Changed {
        container_id: container_id.to_owned(),
        what,
    };
    let found = find(network, container_id, ifname)?.ok_or_else(unknown)?;
    if !found.complete {
        return Err(changed("the node has no route to it".to_owned()));
    }
    let failed = |source| observe::inaccessible(netns, source);
    let (opened, home) = (Netns::open(netns).map_err(failed)?, Netns::current().map_err(failed)?);
    match observe::first_change(&observe::connect_inside(&opened, &home, netns)?, &found)? {
        Some(what) => Err(changed(what)),
        None => Ok(found),
    }
}

/// Whether the ports of the node that were asked for lead to the attachment.
///
/// # Errors
/// [`NetworkError::Changed`] when one does not.
pub fn check_ports(network: &NodeNetwork, found: &Attachment, ports: &[PortMapping]) -> Result<(), NetworkError> {
    if ports.is_empty() || ports::are_open(&network.name, &found.addresses, &found.host_link, ports)? {
        return Ok(());
    }
    Err(NetworkError::Changed {
        container_id: found.container_id.clone(),
        what: "a port of the node does not lead to it".to_owned(),
    })
}

/// Whether this kernel has [`LinkKind::Netkit`]. Makes no link, but loads the kernel's module if there is one.
///
/// # Errors
/// When no socket can be had.
pub fn has_netkit() -> Result<bool, NetworkError> {
    let refused = connect()?.perform(&[LinkStep::ProbeNetkit], None).err();
    Ok(refused.is_some_and(|error| error.source.errno != Errno::EOPNOTSUPP))
}

/// Whether this kernel has the queue that a [`pacer::Pacer`] with programs needs. Makes none, but loads the kernel's module
/// if there is one.
///
/// # Errors
/// When no socket can be had.
pub fn has_pacing_queue() -> Result<bool, NetworkError> {
    let refused = connect()?.perform(&[LinkStep::ProbePace], None).err();
    Ok(refused.is_some_and(|error| error.source.errno != Errno::ENOENT))
}

/// Whether an [`attach`] would find an address of each range.
///
/// # Errors
/// [`NetworkError::Exhausted`], or why the kernel can't be asked.
pub fn status(network: &NodeNetwork) -> Result<(), NetworkError> {
    network.check()?;
    let held: Vec<IpAddr> = observe::host_ends(&connect()?)?
        .into_iter()
        .flat_map(|end| end.addresses)
        .collect();
    let is_full = |cidr: &&Cidr| {
        let count = held
            .iter()
            .filter(|address| ipam::is_assignable(cidr, **address))
            .count();
        count >= ipam::capacity(cidr) as usize
    };
    network
        .pod_cidrs
        .iter()
        .find(is_full)
        .map_or(Ok(()), |cidr| Err(observe::exhausted(*cidr)))
}

/// Removes many links at the price of one: each removal waits until no reader can have the link any more.
fn delete_together(network: &NodeNetwork, node: &Connection, ends: &[HostEnd]) -> Result<(), NetworkError> {
    /// Group of the links that are deleted together; spells "orX".
    const DOOMED: u32 = 0x6f_72_58;
    if ends.is_empty() {
        return Ok(());
    }
    for end in ends {
        node.perform(
            &[LinkStep::SetGroup {
                link: LinkRef::Index(end.index),
                group: DOOMED,
            }],
            None,
        )?;
    }
    node.perform(&[LinkStep::DeleteGroup { group: DOOMED }], None)?;
    pacer::forget(network, ends.iter().map(|end| end.index));
    Ok(())
}

pub(crate) fn connect() -> Result<Connection, NetworkError> {
    Connection::open().map_err(NetworkError::Socket)
}
