//! What a node's pod network is made of, and what is wrong with it. Nothing here looks at the kernel.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    cidr::Cidr,
    firewall::Firewall,
    identity::{Identity, check_ifname, is_name},
    ipam,
    pacer::Pacer,
    plan::Wanted,
    pod_network::{AttachRequest, NetworkError},
    step::LinkKind,
};

/// Smallest packet size that every host must take by RFC 791; IPv6 asks for 1280.
const MTU_MIN: u32 = 576;
const MTU_MIN_IPV6: u32 = 1280;
/// Largest that veth takes.
const MTU_MAX: u32 = 65535;

/// Another node of the same pod network, reached directly (host-gw).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Ranges of its pods.
    pub pod_cidrs: Vec<Cidr>,
    /// Its addresses on a network of this node's, one of each family that its ranges have.
    pub addresses: Vec<IpAddr>,
}

impl Peer {
    /// Each range with the address that it is reached by.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (Cidr, IpAddr)> {
        self.pod_cidrs.iter().filter_map(|cidr| {
            let gateway = self
                .addresses
                .iter()
                .find(|address| address.is_ipv4() == cidr.is_ipv4())?;
            Some((*cidr, *gateway))
        })
    }
}

/// What a node's pod network is made of; the caller keeps one and passes it to every call.
#[derive(Debug, Clone)]
pub struct NodeNetwork {
    /// Name of the network, `[A-Za-z0-9][A-Za-z0-9_.-]*`: part of every link's identity; several may share a node.
    pub name: String,
    /// Ranges that pods get addresses from, one of each family at most; a pod gets one address from each.
    pub pod_cidrs: Vec<Cidr>,
    /// Ranges of Service addresses: unreachable for every packet that no Service program has turned.
    pub service_cidrs: Vec<Cidr>,
    /// Bytes of the largest packet on a pod link; none for as many as the node's way off takes.
    pub mtu: Option<u32>,
    /// Kind of the links that are made from now on.
    pub link_kind: LinkKind,
    /// Directory for hints; made when missing, on a file system that a reboot empties.
    pub run_dir: PathBuf,
    /// Whether pods leave the node under the node's address.
    pub masquerade: bool,
    /// Ranges beside those of pods and Services that pods reach under their own addresses all the same.
    pub reached_as_pod: Vec<Cidr>,
    /// The other nodes. Routes of ours to others are removed, so all networks of a node have the same peers.
    pub peers: Vec<Peer>,
    /// A loaded eBPF classifier that looks at what each pod sends; none leaves all to the kernel's own means.
    pub inspector: Option<Arc<OwnedFd>>,
    /// What limits pods by programs, beside an inspector; none leaves limits to token buckets.
    pub pacer: Option<Arc<dyn Pacer>>,
}

impl NodeNetwork {
    /// A network of veth links, of this node alone.
    pub fn new(name: &str, pod_cidrs: &[Cidr], run_dir: &Path) -> Self {
        Self {
            name: name.to_owned(),
            pod_cidrs: pod_cidrs.to_vec(),
            service_cidrs: Vec::new(),
            mtu: None,
            link_kind: LinkKind::Veth,
            run_dir: run_dir.to_owned(),
            masquerade: false,
            reached_as_pod: Vec::new(),
            peers: Vec::new(),
            inspector: None,
            pacer: None,
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
        } else if let Some(mtu) = self.mtu.filter(|mtu| !(smallest..=MTU_MAX).contains(mtu)) {
            format!("mtu {mtu} is not between {smallest} and {MTU_MAX}")
        } else if let Some((peer, own)) = self.overlapping_peer() {
            format!("the pod range {own} overlaps the peer's {peer}")
        } else if let Some(cidr) = self.unreachable_peer() {
            format!("the peer with the pod range {cidr} has no address of that family")
        } else {
            return Ok(());
        };
        Err(NetworkError::Invalid(wrong))
    }

    /// Whether pods get IPv6 addresses.
    pub(crate) fn has_ipv6(&self) -> bool {
        self.pod_cidrs.iter().any(|cidr| !cidr.is_ipv4())
    }

    fn overlapping_peer(&self) -> Option<(Cidr, Cidr)> {
        let theirs = self.peers.iter().flat_map(|peer| &peer.pod_cidrs);
        let mut pairs = theirs.flat_map(|their| self.pod_cidrs.iter().map(move |own| (*their, *own)));
        pairs.find(|(their, own)| their.overlaps(own))
    }

    fn unreachable_peer(&self) -> Option<Cidr> {
        let unreached = |peer: &Peer| {
            let lacks = |cidr: &&Cidr| !peer.routes().any(|(to, _)| to == **cidr);
            peer.pod_cidrs.iter().find(lacks).copied()
        };
        self.peers.iter().find_map(unreached)
    }

    /// Whether packets of pods cross the node's other links.
    pub(crate) fn leaves_node(&self) -> bool {
        self.masquerade || !self.peers.is_empty()
    }

    /// What the node's nftables table follows from.
    pub(crate) fn firewall(&self) -> Firewall<'_> {
        Firewall {
            pod_cidrs: &self.pod_cidrs,
            reached_as_pod: self.masquerade.then(|| self.known_ranges()),
            peers: &self.peers,
        }
    }

    /// Pods, Services, what was said, and multicast: an answer to a group has no way back through another address.
    fn known_ranges(&self) -> Vec<Cidr> {
        let multicast = [
            Cidr::containing(Ipv4Addr::new(224, 0, 0, 0).into(), 4),
            Cidr::containing(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
        ];
        let peers = self.peers.iter().flat_map(|peer| &peer.pod_cidrs);
        let own = self
            .pod_cidrs
            .iter()
            .chain(&self.service_cidrs)
            .chain(&self.reached_as_pod);
        own.chain(peers)
            .copied()
            .chain(multicast.into_iter().flatten())
            .collect()
    }

    /// What a request comes to, once it is found to be right.
    pub(crate) fn wanted(&self, request: &AttachRequest<'_>, mtu: u32) -> Result<Wanted, NetworkError> {
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
        if request.mac.is_some_and(|mac| mac[0] & 1 != 0 || mac == [0; 6]) {
            return Err(NetworkError::Invalid(
                "the hardware address that is asked for is not one of a single station".to_owned(),
            ));
        }
        Ok(Wanted {
            identity,
            kind: self.link_kind,
            mtu,
            mac: request.mac,
            bandwidth: request.bandwidth,
            pod_cidrs: self.pod_cidrs.clone(),
            requested: request.addresses.to_vec(),
        })
    }
}
