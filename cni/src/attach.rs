//! Attaching one pod: look, choose the course, claim, furnish, publish; and what is undone when one of them is refused.

use std::{net::IpAddr, os::fd::AsFd};

use nix::errno::Errno;

use crate::{
    answer::decode_host_end,
    cidr::Cidr,
    forwarding::Forwarding,
    identity::host_link,
    lease::Leases,
    netfilter::Netfilter,
    netlink::{Connection, StepError},
    netns::Netns,
    node_network::NodeNetwork,
    observe::{self, FirstLook},
    pacer,
    plan::{self, Course, HostEnd, Wanted},
    pod_network::{AttachRequest, Attachment, NetworkError, names_of, prepare_again},
    ports,
    step::LinkStep,
    sysctl,
};

/// How often another address is tried when one turns out to be held; each time the hints are put right first.
pub(crate) const CLAIM_TRIES_MAX: u32 = 16;

/// Gives a pod its link, addresses and routes. For a container that is attached already, or half so, completes what is
/// missing and answers the same addresses. [`prepare`] comes first, once.
///
/// # Errors
/// When no address is free, the namespace is missing, or the kernel refuses. What this call made is removed then; a link
/// that was there before stays.
pub fn attach(network: &NodeNetwork, request: &AttachRequest<'_>) -> Result<Attachment, NetworkError> {
    let task = Attaching::open(network, request)?;
    task.follow(task.course()?)
}

/// [`prepare`] and [`attach`] in one, for a pod that is not attached yet, as CNI's ADD is meant.
///
/// # Errors
/// As those; and [`NetworkError::Attached`].
pub fn attach_new(network: &NodeNetwork, request: &AttachRequest<'_>) -> Result<Attachment, NetworkError> {
    let mut task = Attaching::open(network, request)?;
    let netfilter = task.netfilter.insert(ports::connect()?);
    prepare_again(&task.node, netfilter, network, &task.looked)?;
    match &task.looked.host {
        Some(host) if task.is_published(host)? => Err(NetworkError::Attached {
            container_id: request.container_id.to_owned(),
            ifname: request.ifname.to_owned(),
        }),
        Some(_) | None => task.follow(task.course()?),
    }
}

/// One call of [`attach`]: what is wanted, what was there and the two namespaces it is done in.
struct Attaching<'a> {
    network: &'a NodeNetwork,
    request: &'a AttachRequest<'a>,
    looked: FirstLook,
    wanted: Wanted,
    leases: Leases,
    node: Connection,
    /// There when it has been of use before.
    netfilter: Option<Netfilter>,
    pod: Connection,
    netns: Netns,
    /// The node's.
    home: Netns,
}

impl<'a> Attaching<'a> {
    fn open(network: &'a NodeNetwork, request: &'a AttachRequest<'a>) -> Result<Self, NetworkError> {
        /// Bytes of the largest packet where nobody says it: Ethernet's, for a node that is alone.
        const USUAL_MTU: u32 = 1500;
        let node = Connection::open().map_err(NetworkError::Socket)?;
        let looked = observe::first_look(&node, network, &host_link(request.container_id, request.ifname))?;
        let wanted = network.wanted(request, network.mtu.or(looked.uplink_mtu).unwrap_or(USUAL_MTU))?;
        let failed = |source| observe::inaccessible(request.netns, source);
        let netns = Netns::open(request.netns).map_err(failed)?;
        let home = Netns::current().map_err(failed)?;
        if netns.is_same(&home).map_err(failed)? {
            return Err(NetworkError::OwnNamespace(request.netns.to_owned()));
        }
        let pod = observe::connect_inside(&netns, &home, request.netns)?;
        Ok(Self {
            network,
            request,
            looked,
            wanted,
            leases: Leases::new(&network.run_dir),
            node,
            netfilter: None,
            pod,
            netns,
            home,
        })
    }

    /// Decides by what is there. Where the node has nothing for the pod, the kernel tells whether the pod has a link of
    /// that name: it refuses another one.
    fn course(&self) -> Result<Course, NetworkError> {
        match &self.looked.host {
            Some(host) => self.course_beside(Some(host)),
            None => Ok(Course::Create),
        }
    }

    /// Looks into the pod, too.
    fn course_beside(&self, host: Option<&HostEnd>) -> Result<Course, NetworkError> {
        let pod = observe::show_pod_end(&self.pod, &self.wanted.identity.ifname)?;
        Ok(plan::course(&self.wanted, host, pod.as_ref())?)
    }

    fn follow(&self, course: Course) -> Result<Attachment, NetworkError> {
        match (course, &self.looked.host) {
            (Course::Complete, Some(host)) => self.complete(host),
            (Course::Recreate, Some(host)) => {
                self.delete(host.index)?;
                self.create()
            }
            (Course::Complete | Course::Recreate | Course::Create, _) => self.create(),
        }
    }

    /// Whether all was done for the pod that the host's end is for.
    fn is_published(&self, host: &HostEnd) -> Result<bool, NetworkError> {
        let attachment = observe::as_attachment(&self.network.name, host, &observe::routes(&self.node)?);
        Ok(attachment.is_some_and(|attachment| attachment.complete))
    }

    /// Makes the link with addresses that nobody else holds.
    fn claim(&self) -> Result<HostEnd, NetworkError> {
        for _ in 0..CLAIM_TRIES_MAX {
            let addresses = self.choose()?;
            let claimed = self
                .node
                .perform(&plan::claim(&self.wanted, &addresses), Some(self.netns.as_fd()));
            match claimed {
                Ok(answer) => {
                    return answer
                        .as_deref()
                        .and_then(decode_host_end)
                        .ok_or_else(observe::cut_short);
                }
                Err(refused) => self.give_up_claim(*refused)?,
            }
        }
        Err(NetworkError::Contended)
    }

    /// Removes what a refused claim made. An address that others hold is no error as long as another one may do.
    fn give_up_claim(&self, refused: StepError) -> Result<(), NetworkError> {
        if !matches!(refused.step, LinkStep::CreatePair { .. })
            && let Some(host) = observe::show_host_end(&self.node, &self.wanted.identity.host_link())?
        {
            self.delete(host.index)?;
        } else {
            self.leases.release(&[&self.wanted.identity.host_link()])?;
            self.course_beside(None)?;
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
                self.leases.take(&open, &link)?.map_err(observe::exhausted)?
            }
        };
        let mut addresses: Vec<IpAddr> = requested.iter().copied().chain(taken).collect();
        addresses.sort_unstable();
        Ok(addresses)
    }

    fn correct_hints(&self) -> Result<(), NetworkError> {
        let held: Vec<(String, Vec<IpAddr>)> = observe::host_ends(&self.node)?
            .into_iter()
            .map(|end| (end.name, end.addresses))
            .collect();
        Ok(self.leases.correct(&self.wanted.pod_cidrs, &held)?)
    }

    /// Does all batches, or nothing.
    fn create(&self) -> Result<Attachment, NetworkError> {
        let host = self.claim()?;
        self.complete(&host).or_else(|error| {
            self.delete(host.index)?;
            Err(error)
        })
    }

    /// Raises the link, furnishes the pod and publishes it; changes nothing where that is done.
    fn complete(&self, host: &HostEnd) -> Result<Attachment, NetworkError> {
        let request = self.request;
        let has_ipv6 = host.addresses.iter().any(IpAddr::is_ipv6);
        sysctl::guard_link(&host.name, has_ipv6)?;
        // A limit may be changed, but does not go while the pod is there.
        let bandwidth = request.bandwidth.or(host.bandwidth);
        let means = pacer::means(self.network, host.index, bandwidth);
        let has_ports = !request.ports.is_empty();
        self.node.perform(&plan::raise(host, &means, has_ports), None)?;
        if has_ipv6 {
            let settings = self.netns.visit(&self.home, || sysctl::allow_ipv6(request.ifname));
            settings.map_err(|source| observe::inaccessible(request.netns, source))??;
        }
        self.pod.perform(&plan::furnish(host, &means), None)?;
        self.node.perform(&plan::publish(host, &self.wanted.pod_cidrs), None)?;
        if has_ports {
            self.open_ports(host)?;
        }
        if !request.aliases.is_empty() {
            names_of(self.network).tell(&host.name, &host.addresses, request.aliases)?;
        }
        let host = HostEnd {
            bandwidth,
            ..host.clone()
        };
        Ok(observe::attachment(&self.wanted.identity, &host, true))
    }

    fn open_ports(&self, host: &HostEnd) -> Result<(), NetworkError> {
        // Where pods leave the node, it forwards already.
        if !self.network.leaves_node() {
            let forwarding = Forwarding::new(&self.network.run_dir);
            forwarding.turn_on_ipv4()?;
            if self.network.has_ipv6() {
                forwarding.turn_on_ipv6(true)?;
            }
        }
        let opened;
        let netfilter = match &self.netfilter {
            Some(netfilter) => netfilter,
            None => {
                opened = ports::connect()?;
                &opened
            }
        };
        ports::open(self.network, netfilter, &self.node, host, self.request.ports)
    }

    /// Names first, then the link, its addresses after it.
    fn delete(&self, index: u32) -> Result<(), NetworkError> {
        names_of(self.network).forget(&self.wanted.identity.host_link())?;
        self.node.perform(&[LinkStep::Delete { index }], None)?;
        pacer::forget(self.network, [index]);
        Ok(self.leases.release(&[&self.wanted.identity.host_link()])?)
    }
}
