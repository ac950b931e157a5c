//! The pod network of one node: attach a network namespace, detach it, list what is attached.
//!
//! Every call is blocking, works in the network namespace of the calling thread (the node's) and may be made by many
//! threads and processes at once, one at a time for one container. Nothing is remembered between calls but hints below [`NodeNetwork::run_dir`]; losing
//! them loses the cool-down of addresses and nothing else.

use std::{
    io,
    net::IpAddr,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::errno::Errno;

pub use crate::step::LinkKind;
use crate::{
    cidr::Cidr,
    identity::{GROUP, Identity, check_ifname, host_link, is_name},
    ipam,
    lease::{LeaseError, Leases},
    message::{Table, decode_host_end, decode_pod_end, decode_route},
    netlink::{Connection, Refusal, StepError},
    netns::Netns,
    plan::{self, Conflict, Course, HostEnd, PodEnd, Wanted},
    step::{LinkRef, LinkStep},
    sysctl::{self, SysctlError},
};

/// How often another address is tried when one turns out to be held; each time the hints are put right first.
const CLAIM_TRIES_MAX: u32 = 16;
/// Smallest packet size that every host must take by RFC 791; IPv6 asks for 1280.
const MTU_MIN: u32 = 576;
const MTU_MIN_IPV6: u32 = 1280;
/// Largest that veth takes.
const MTU_MAX: u32 = 65535;

/// What a node's pod network is made of; the caller keeps one and passes it to every call.
#[derive(Debug, Clone)]
pub struct NodeNetwork {
    /// Name of the network, `[A-Za-z0-9][A-Za-z0-9_.-]*`: part of every link's identity; several may share a node.
    pub name: String,
    /// Ranges that pods get addresses from, one of each family at most; a pod gets one address from each.
    pub pod_cidrs: Vec<Cidr>,
    /// Ranges of Service addresses: unreachable for every packet that no Service program has turned.
    pub service_cidrs: Vec<Cidr>,
    /// Bytes of the largest packet on a pod link.
    pub mtu: u32,
    /// Kind of the links that are made from now on.
    pub link_kind: LinkKind,
    /// Directory for hints; made when missing, on a file system that a reboot empties.
    pub run_dir: PathBuf,
}

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
    pub mac: [u8; 6],
    /// Name of the host's end.
    pub host_link: String,
    /// Interface index of the host's end.
    pub host_index: u32,
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
    /// Others took every address that was tried first; trying again later helps.
    #[error("{CLAIM_TRIES_MAX} addresses in a row were taken by others first")]
    Contended,
    /// The kernel refused a step.
    #[error(transparent)]
    Step(#[from] Box<StepError>),
    /// The kernel did not show its tables.
    #[error("read the node's links and routes")]
    Look(#[source] Refusal),
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

/// Makes the node ready for pods: its own address in each pod range, and routes that keep unassigned pod and Service
/// addresses on the node. Idempotent; takes tens of microseconds.
///
/// # Errors
/// When the kernel refuses, or the configuration is wrong.
pub fn prepare(network: &NodeNetwork) -> Result<(), NetworkError> {
    network.check()?;
    Connection::open()
        .map_err(NetworkError::Socket)?
        .perform(&plan::prepare_node(&network.pod_cidrs, &network.service_cidrs), None)?;
    if network.has_ipv6() {
        sysctl::forward_ipv6()?;
    }
    Ok(())
}

/// Removes every link of this network and what [`prepare`] made, so that nothing of it is left but the forwarding of
/// IPv6. Idempotent.
///
/// # Errors
/// When the kernel refuses.
pub fn teardown(network: &NodeNetwork) -> Result<(), NetworkError> {
    /// Group of the links that are deleted together; spells "orX".
    const DOOMED: u32 = 0x6f_72_58;
    let node = Connection::open().map_err(NetworkError::Socket)?;
    let ours = host_ends(&node)?
        .into_iter()
        .filter(|end| identity(end).is_none_or(|id| id.network == network.name));
    for end in ours {
        let link = LinkRef::Index(end.index);
        match node.perform(&[LinkStep::SetGroup { link, group: DOOMED }], None) {
            Err(error) if error.source.errno != Errno::ENODEV => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
    }
    node.perform(&[LinkStep::DeleteGroup { group: DOOMED }], None)?;
    node.perform(&plan::clear_node(&network.pod_cidrs, &network.service_cidrs), None)?;
    Ok(())
}

/// Gives a pod its link, addresses and routes. For a container that is attached already, or half so, completes what is
/// missing and answers the same addresses. [`prepare`] comes first, once.
///
/// # Errors
/// When no address is free, the namespace is missing, or the kernel refuses. What this call made is removed then; a link
/// that was there before stays.
pub fn attach(network: &NodeNetwork, request: &AttachRequest<'_>) -> Result<Attachment, NetworkError> {
    let wanted = network.wanted(request)?;
    let task = Attaching::open(network, request, wanted)?;
    match task.course()? {
        (Course::Complete, Some(host)) => task.complete(&host),
        (Course::Recreate, Some(host)) => {
            task.delete(host.index)?;
            task.create()
        }
        (Course::Complete | Course::Recreate | Course::Create, _) => task.create(),
    }
}

/// Removes the link of a container, both ends, and frees its addresses afterwards. Does nothing when there is none.
/// Waits for the kernel, some 20 ms.
///
/// # Errors
/// When the kernel refuses.
pub fn detach(network: &NodeNetwork, container_id: &str, ifname: &str) -> Result<(), NetworkError> {
    let node = Connection::open().map_err(NetworkError::Socket)?;
    let name = host_link(container_id, ifname);
    if let Some(host) = show_host_end(&node, &name)?
        && identity(&host).is_none_or(|identity| identity.network == network.name)
    {
        node.perform(&[LinkStep::Delete { index: host.index }], None)?;
    }
    Ok(Leases::open(&network.run_dir)?.release(&name)?)
}

/// Everything of this network that is attached, by container id; half-made links too.
///
/// # Errors
/// When the kernel's tables can't be read.
pub fn list(network: &NodeNetwork) -> Result<Vec<Attachment>, NetworkError> {
    let node = Connection::open().map_err(NetworkError::Socket)?;
    let mut routes = node.dump(Table::RoutesV4).map_err(NetworkError::Look)?;
    routes.extend(node.dump(Table::RoutesV6).map_err(NetworkError::Look)?);
    let routes: Vec<(IpAddr, u32)> = routes.iter().filter_map(|route| decode_route(route)).collect();
    let mut attachments = Vec::new();
    for end in host_ends(&node)? {
        let Some(identity) = identity(&end).filter(|identity| identity.network == network.name) else {
            continue;
        };
        let is_routed = |address: &IpAddr| routes.contains(&(*address, end.index));
        let is_complete = !end.addresses.is_empty() && end.addresses.iter().all(is_routed);
        attachments.push(attachment(&identity, &end, is_complete));
    }
    attachments.sort_unstable_by(|a, b| (&a.container_id, &a.ifname).cmp(&(&b.container_id, &b.ifname)));
    Ok(attachments)
}

impl NodeNetwork {
    /// A network of veth links with packets of 1500 bytes.
    pub fn new(name: &str, pod_cidrs: &[Cidr], run_dir: &Path) -> Self {
        Self {
            name: name.to_owned(),
            pod_cidrs: pod_cidrs.to_vec(),
            service_cidrs: Vec::new(),
            mtu: 1500,
            link_kind: LinkKind::Veth,
            run_dir: run_dir.to_owned(),
        }
    }

    /// Checks what no single call would notice.
    ///
    /// # Errors
    /// [`NetworkError::Invalid`], naming the wrong part.
    pub fn check(&self) -> Result<(), NetworkError> {
        let families = |is_ipv4| self.pod_cidrs.iter().filter(|cidr| cidr.is_ipv4() == is_ipv4).count();
        let smallest = if self.has_ipv6() { MTU_MIN_IPV6 } else { MTU_MIN };
        let wrong = if !is_name(&self.name) {
            format!(
                "network name {:?} is not of the form [A-Za-z0-9][A-Za-z0-9_.-]*",
                self.name
            )
        } else if self.pod_cidrs.is_empty() {
            "no pod range is given".to_owned()
        } else if families(true) > 1 || families(false) > 1 {
            "more than one pod range of one family is given".to_owned()
        } else if let Some(cidr) = self.pod_cidrs.iter().find(|cidr| ipam::capacity(cidr) == 0) {
            format!("the pod range {cidr} is too small for a pod")
        } else if let Some(cidr) = self
            .pod_cidrs
            .iter()
            .find(|c| self.service_cidrs.iter().any(|s| s.overlaps(c)))
        {
            format!("the pod range {cidr} overlaps a Service range")
        } else if !(smallest..=MTU_MAX).contains(&self.mtu) {
            format!("mtu {} is not between {smallest} and {MTU_MAX}", self.mtu)
        } else {
            return Ok(());
        };
        Err(NetworkError::Invalid(wrong))
    }

    fn has_ipv6(&self) -> bool {
        self.pod_cidrs.iter().any(|cidr| !cidr.is_ipv4())
    }

    fn wanted(&self, request: &AttachRequest<'_>) -> Result<Wanted, NetworkError> {
        self.check()?;
        check_ifname(request.ifname).map_err(NetworkError::Invalid)?;
        let identity =
            Identity::new(&self.name, request.container_id, request.ifname).map_err(NetworkError::Invalid)?;
        for (place, address) in request.addresses.iter().enumerate() {
            if !self.pod_cidrs.iter().any(|cidr| ipam::is_assignable(cidr, *address)) {
                return Err(NetworkError::Invalid(format!(
                    "the address {address} is in no pod range"
                )));
            }
            if request.addresses[..place]
                .iter()
                .any(|other| other.is_ipv4() == address.is_ipv4())
            {
                return Err(NetworkError::Invalid(
                    "more than one address of one family is asked for".to_owned(),
                ));
            }
        }
        Ok(Wanted {
            identity,
            kind: self.link_kind,
            mtu: self.mtu,
            pod_cidrs: self.pod_cidrs.clone(),
            requested: request.addresses.to_vec(),
        })
    }
}

/// One call of [`attach`]: what is wanted and the two namespaces it is done in.
struct Attaching {
    wanted: Wanted,
    leases: Leases,
    node: Connection,
    pod: Connection,
    netns: Netns,
}

impl Attaching {
    fn open(network: &NodeNetwork, request: &AttachRequest<'_>, wanted: Wanted) -> Result<Self, NetworkError> {
        let failed = |source| NetworkError::Namespace {
            path: request.netns.to_owned(),
            source,
        };
        let netns = Netns::open(request.netns).map_err(failed)?;
        if netns.is_same(&Netns::current().map_err(failed)?).map_err(failed)? {
            return Err(NetworkError::OwnNamespace(request.netns.to_owned()));
        }
        let pod = netns
            .run(Connection::open)
            .map_err(failed)?
            .map_err(NetworkError::Socket)?;
        let node = Connection::open().map_err(NetworkError::Socket)?;
        Ok(Self {
            wanted,
            leases: Leases::open(&network.run_dir)?,
            node,
            pod,
            netns,
        })
    }

    /// Looks, and decides by what is there.
    fn course(&self) -> Result<(Course, Option<HostEnd>), NetworkError> {
        let host = show_host_end(&self.node, &self.wanted.identity.host_link())?;
        let pod = show_pod_end(&self.pod, &self.wanted.identity.ifname)?;
        Ok((plan::course(&self.wanted, host.as_ref(), pod.as_ref())?, host))
    }

    /// Makes the link with addresses that nobody else holds.
    fn claim(&self) -> Result<HostEnd, NetworkError> {
        for _ in 0..CLAIM_TRIES_MAX {
            let addresses = self.choose()?;
            let claimed = self
                .node
                .perform(&plan::claim(&self.wanted, &addresses), Some(self.netns.as_fd()));
            match claimed {
                Ok(answer) => return answer.as_deref().and_then(decode_host_end).ok_or_else(cut_short),
                Err(refused) => self.give_up_claim(*refused)?,
            }
        }
        Err(NetworkError::Contended)
    }

    /// Removes what a refused claim made. An address that others hold is no error as long as another one may do.
    fn give_up_claim(&self, refused: StepError) -> Result<(), NetworkError> {
        if !matches!(refused.step, LinkStep::CreatePair { .. })
            && let Some(host) = show_host_end(&self.node, &self.wanted.identity.host_link())?
        {
            self.delete(host.index)?;
        } else {
            self.leases.release(&self.wanted.identity.host_link())?;
        }
        if let LinkStep::HoldAddress { address, .. } = &refused.step
            && refused.source.errno == Errno::EEXIST
        {
            let is_requested = self.wanted.requested.contains(address);
            return if is_requested {
                Err(NetworkError::AddressInUse(*address))
            } else {
                self.correct_hints()
            };
        }
        Err(Box::new(refused).into())
    }

    /// The addresses to try: those asked for, and the next free ones of the other ranges, IPv4 first.
    fn choose(&self) -> Result<Vec<IpAddr>, NetworkError> {
        let link = self.wanted.identity.host_link();
        let requested = &self.wanted.requested;
        let is_open = |cidr: &&Cidr| !requested.iter().any(|address| address.is_ipv4() == cidr.is_ipv4());
        let open: Vec<Cidr> = self.wanted.pod_cidrs.iter().filter(is_open).copied().collect();
        let taken = match self.leases.take(&open, &link)? {
            Ok(taken) => taken,
            Err(_) => {
                self.correct_hints()?;
                let exhausted = |cidr| NetworkError::Exhausted {
                    cidr,
                    capacity: ipam::capacity(&cidr),
                };
                self.leases.take(&open, &link)?.map_err(exhausted)?
            }
        };
        let mut addresses: Vec<IpAddr> = requested.iter().copied().chain(taken).collect();
        addresses.sort_unstable();
        Ok(addresses)
    }

    fn correct_hints(&self) -> Result<(), NetworkError> {
        let held: Vec<(String, Vec<IpAddr>)> = host_ends(&self.node)?
            .into_iter()
            .map(|end| (end.name, end.addresses))
            .collect();
        Ok(self.leases.correct(&self.wanted.pod_cidrs, &held)?)
    }

    /// Does all three batches, or nothing.
    fn create(&self) -> Result<Attachment, NetworkError> {
        let host = self.claim()?;
        self.complete(&host).or_else(|error| {
            self.delete(host.index)?;
            Err(error)
        })
    }

    /// Furnishes the pod and publishes it; changes nothing where that is done.
    fn complete(&self, host: &HostEnd) -> Result<Attachment, NetworkError> {
        sysctl::guard_link(&host.name, host.addresses.iter().any(IpAddr::is_ipv6))?;
        self.pod.perform(&plan::furnish(host), None)?;
        self.node.perform(&plan::publish(host, &self.wanted.pod_cidrs), None)?;
        Ok(attachment(&self.wanted.identity, host, true))
    }

    /// The link first, its addresses after it.
    fn delete(&self, index: u32) -> Result<(), NetworkError> {
        self.node.perform(&[LinkStep::Delete { index }], None)?;
        Ok(self.leases.release(&self.wanted.identity.host_link())?)
    }
}

fn show_host_end(node: &Connection, name: &str) -> Result<Option<HostEnd>, NetworkError> {
    let shown = node.show(LinkStep::Show {
        link: LinkRef::Name(name.to_owned()),
    })?;
    shown
        .map(|link| decode_host_end(&link).ok_or_else(cut_short))
        .transpose()
}

fn show_pod_end(pod: &Connection, name: &str) -> Result<Option<PodEnd>, NetworkError> {
    let shown = pod.show(LinkStep::Show {
        link: LinkRef::Name(name.to_owned()),
    })?;
    shown
        .map(|link| decode_pod_end(&link).ok_or_else(cut_short))
        .transpose()
}

/// All host ends of the node, of every network.
fn host_ends(node: &Connection) -> Result<Vec<HostEnd>, NetworkError> {
    let links = node.dump(Table::Links).map_err(NetworkError::Look)?;
    Ok(links
        .iter()
        .filter_map(|link| decode_host_end(link))
        .filter(|end| end.group == GROUP)
        .collect())
}

fn identity(end: &HostEnd) -> Option<Identity> {
    end.alias.as_deref().and_then(Identity::from_alias)
}

fn cut_short() -> NetworkError {
    NetworkError::Look(Refusal {
        errno: Errno::EBADMSG,
        words: None,
    })
}

fn attachment(identity: &Identity, host: &HostEnd, complete: bool) -> Attachment {
    Attachment {
        network: identity.network.clone(),
        container_id: identity.container_id.clone(),
        ifname: identity.ifname.clone(),
        addresses: host.addresses.clone(),
        gateways: host.addresses.iter().map(|address| plan::gateway(*address)).collect(),
        mac: plan::pod_mac(&host.addresses),
        host_link: host.name.clone(),
        host_index: host.index,
        complete,
    }
}
