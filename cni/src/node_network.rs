//! What a node's pod network is made of, and what is wrong with it. Nothing here looks at the kernel.

use std::path::{Path, PathBuf};

use crate::{
    cidr::Cidr,
    identity::{Identity, check_ifname, is_name},
    ipam,
    plan::Wanted,
    pod_network::{AttachRequest, NetworkError},
    step::LinkKind,
};

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

    /// Whether pods get IPv6 addresses.
    pub(crate) fn has_ipv6(&self) -> bool {
        self.pod_cidrs.iter().any(|cidr| !cidr.is_ipv4())
    }

    /// What a request comes to, once it is found to be right.
    pub(crate) fn wanted(&self, request: &AttachRequest<'_>) -> Result<Wanted, NetworkError> {
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
