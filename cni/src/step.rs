//! The steps that make and change pod links: a plain list of what the kernel is asked for. Nothing here acts.
//!
//! Each is one rtnetlink request. All but [`LinkStep::CreatePair`] and [`LinkStep::HoldAddress`] may be repeated.

use std::{fmt, net::IpAddr, os::fd::RawFd};

use nix::errno::Errno;

use crate::{
    bandwidth::{Bandwidth, Bucket},
    cidr::Cidr,
};

/// A hardware address.
pub type Mac = [u8; 6];

/// The kind of pair between node and pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkKind {
    /// `veth`, in every kernel.
    #[default]
    Veth,
    /// `netkit` in L2 mode, Linux 6.7 and later.
    Netkit,
}

/// A link by what the asker knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkRef {
    /// By name.
    Name(String),
    /// By index in the namespace where the step is done.
    Index(u32),
}

/// An eBPF program for packets, loaded by somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Its descriptor, open while the batch is sent.
    pub descriptor: RawFd,
    /// What the program is told with each packet: where the limits of the link stand, 0 for none.
    pub place: u16,
}

/// Which packets of a link a program sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Those that come in by it, before the network stack.
    Incoming,
    /// Those that leave by it, before its queue.
    Outgoing,
}

/// Index of `lo` in every network namespace.
pub const LOOPBACK: LinkRef = LinkRef::Index(1);

/// A rule of routing for detours by `lo`, see [`crate::detours`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetourRule {
    /// The node's own packets of SCTP go by the detours first.
    Follow {
        /// The family: a rule is of one.
        is_ipv4: bool,
    },
    /// IPv4: which protocol a packet is of is known wherever one is routed, also when its source is checked. It does nothing
    /// else, and bears a number for those who made it.
    Know {
        /// The number.
        mark: u32,
    },
}

/// One request to the kernel, done in the namespace that the batch is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkStep {
    /// Make both ends, down: the host's here, the pod's in the namespace that comes with the batch.
    CreatePair {
        /// Kind of both ends.
        kind: LinkKind,
        /// Name of the host's end.
        host_name: String,
        /// Hardware address of the host's end.
        host_mac: Mac,
        /// Name of the pod's end.
        pod_name: String,
        /// Hardware address of the pod's end.
        pod_mac: Mac,
        /// Bytes, for both ends.
        mtu: u32,
        /// `IFLA_GROUP` of the host's end.
        group: u32,
    },
    /// Ask for a netkit pair in a mode that there is none of: always refused, with `EOPNOTSUPP` where the kernel has no
    /// netkit at all.
    ProbeNetkit,
    /// Write whose the link is. IPv4: forward what comes in, and drop what comes in with a source that is not routed to
    /// this link.
    MakeOurs {
        /// Which link.
        link: LinkRef,
        /// The text.
        alias: String,
    },
    /// Give the link an alternative name that stands for an address; refused (`EEXIST`) while another link has it.
    HoldAddress {
        /// Which link.
        link: LinkRef,
        /// The address.
        address: IpAddr,
    },
    /// Keep a hardware address that was asked for as an alternative name.
    KeepMac {
        /// Which link.
        link: String,
        /// The hardware address.
        mac: Mac,
    },
    /// No automatic IPv6 link-local address, so no duplicate address detection for it either.
    NoAutomaticAddress {
        /// Which link.
        link: LinkRef,
    },
    /// Bring the link up.
    SetUp {
        /// Which link.
        link: LinkRef,
    },
    /// Give the link an address of its own, without a prefix route and usable at once.
    AddAddress {
        /// Index of the link.
        index: u32,
        /// The address.
        address: IpAddr,
    },
    /// Remove an address; not there is fine.
    RemoveAddress {
        /// Index of the link.
        index: u32,
        /// The address.
        address: IpAddr,
    },
    /// IPv4: let the link carry what comes from or goes to a loopback address, for ports of the node that lead to the pod.
    RouteLoopback {
        /// Index of the link.
        index: u32,
    },
    /// Queue what the link sends in a token bucket.
    Limit {
        /// Index of the link.
        index: u32,
        /// The bucket.
        bucket: Bucket,
    },
    /// Hold what the link sends until the time that a program has given each packet.
    Pace {
        /// Index of the link.
        index: u32,
    },
    /// Ask for a queue as of [`Self::Pace`] with numbers that there is none of: always refused, with `ENOENT` where the
    /// kernel has no such queues at all.
    ProbePace,
    /// Keep limits that were asked for as an alternative name.
    KeepLimits {
        /// Which link.
        link: String,
        /// The limits.
        bandwidth: Bandwidth,
    },
    /// Remove what [`Self::KeepLimits`] made; not there is fine.
    DropLimits {
        /// Which link.
        link: String,
        /// The limits.
        bandwidth: Bandwidth,
    },
    /// Make the place for [`Self::Inspect`] on the link.
    PrepareInspection {
        /// Index of the link.
        index: u32,
    },
    /// Have packets of the link looked at by a program, in the place of another.
    Inspect {
        /// Index of the link.
        index: u32,
        /// Which packets.
        hook: Hook,
        /// The program.
        program: Program,
    },
    /// Have packets that the program of [`Self::Inspect`] lets pass looked at by another one, in the place of an earlier
    /// one.
    Serve {
        /// Index of the link.
        index: u32,
        /// Which packets.
        hook: Hook,
        /// The program.
        program: Program,
    },
    /// Remove what [`Self::Serve`] made; not there is fine.
    ServeNot {
        /// Index of the link.
        index: u32,
        /// Which packets.
        hook: Hook,
    },
    /// Say for good which hardware address a neighbour has.
    AddNeighbour {
        /// Index of the link.
        index: u32,
        /// The neighbour.
        address: IpAddr,
        /// Its hardware address.
        mac: Mac,
    },
    /// Route a range into a link.
    AddRoute {
        /// Index of the link.
        index: u32,
        /// Where to.
        to: Cidr,
        /// Next hop; none when the range is on the link itself.
        gateway: Option<IpAddr>,
        /// Source address of the node's own packets.
        source: Option<IpAddr>,
    },
    /// Route a peer's range to the peer.
    AddPeerRoute {
        /// Where to.
        to: Cidr,
        /// The peer's address on a network of the node's.
        gateway: IpAddr,
    },
    /// Remove what [`Self::AddPeerRoute`] made; not there is fine.
    RemovePeerRoute {
        /// Where to.
        to: Cidr,
    },
    /// Answer "unreachable" for a range where nothing more exact is routed.
    AddUnreachable {
        /// Where to.
        to: Cidr,
    },
    /// Remove what [`Self::AddUnreachable`] made; not there is fine.
    RemoveUnreachable {
        /// Where to.
        to: Cidr,
    },
    /// Have the node's own packets of SCTP to an address go by `lo`, under this source and no larger than this.
    AddDetour {
        /// Where to.
        to: IpAddr,
        /// The node's address.
        source: IpAddr,
        /// Bytes of the largest packet.
        mtu: u32,
    },
    /// Remove what [`Self::AddDetour`] made; not there is fine.
    RemoveDetour {
        /// Where to.
        to: IpAddr,
    },
    /// Make a rule; there already is fine, and so is a family that the kernel has not.
    AddRule {
        /// Which.
        rule: DetourRule,
    },
    /// Remove a rule; not there is fine.
    RemoveRule {
        /// Which, whatever its number.
        rule: DetourRule,
    },
    /// Put the link into a group, for [`Self::DeleteGroup`]; not there is fine.
    SetGroup {
        /// Which link.
        link: LinkRef,
        /// The group.
        group: u32,
    },
    /// Remove a link and its other end; not there is fine.
    Delete {
        /// Index of the link.
        index: u32,
    },
    /// Remove every link of a group at the price of one; none there is fine.
    DeleteGroup {
        /// The group.
        group: u32,
    },
    /// Answer with the route to an address.
    FindRoute {
        /// Where to.
        to: IpAddr,
    },
    /// Answer with the link as it is.
    Show {
        /// Which link.
        link: LinkRef,
    },
}

impl LinkStep {
    /// Whether it asks, and changes nothing.
    pub fn is_question(&self) -> bool {
        matches!(self, Self::FindRoute { .. } | Self::Show { .. })
    }

    /// Whether this refusal means that the step's end is reached anyway, or can't matter on this kernel.
    pub fn tolerates(&self, errno: Errno) -> bool {
        match self {
            Self::NoAutomaticAddress { .. } => matches!(errno, Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP),
            Self::RemoveAddress { .. } => errno == Errno::EADDRNOTAVAIL,
            Self::RemoveUnreachable { .. } | Self::RemovePeerRoute { .. } | Self::RemoveDetour { .. } => {
                errno == Errno::ESRCH
            }
            Self::AddRule { .. } => matches!(errno, Errno::EEXIST | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP),
            Self::RemoveRule { .. } => matches!(errno, Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP),
            Self::KeepMac { .. } | Self::KeepLimits { .. } | Self::PrepareInspection { .. } => errno == Errno::EEXIST,
            Self::DropLimits { .. } => errno == Errno::EINVAL || errno == Errno::ENOENT,
            Self::Delete { .. } | Self::DeleteGroup { .. } | Self::SetGroup { .. } => errno == Errno::ENODEV,
            // Without a place for programs it is the parent that is unknown, and without filters in the kernel the request.
            Self::ServeNot { .. } => matches!(errno, Errno::ENOENT | Errno::ENODEV | Errno::EINVAL | Errno::EOPNOTSUPP),
            Self::CreatePair { .. }
            | Self::ProbeNetkit
            | Self::ProbePace
            | Self::MakeOurs { .. }
            | Self::HoldAddress { .. }
            | Self::RouteLoopback { .. }
            | Self::Limit { .. }
            | Self::Pace { .. }
            | Self::Inspect { .. }
            | Self::Serve { .. }
            | Self::AddPeerRoute { .. }
            | Self::SetUp { .. }
            | Self::AddAddress { .. }
            | Self::AddNeighbour { .. }
            | Self::AddRoute { .. }
            | Self::AddUnreachable { .. }
            | Self::AddDetour { .. }
            | Self::FindRoute { .. }
            | Self::Show { .. } => false,
        }
    }
}

impl fmt::Display for LinkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "link {name}"),
            Self::Index(index) => write!(f, "link #{index}"),
        }
    }
}

impl fmt::Display for LinkStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreatePair {
                host_name, pod_name, ..
            } => {
                write!(f, "create the links {host_name} on the node and {pod_name} in the pod")
            }
            Self::ProbeNetkit => write!(f, "ask for a netkit link"),
            Self::MakeOurs { link, alias } => {
                write!(f, "set the alias of {link} to {alias} and turn on its forwarding")
            }
            Self::HoldAddress { link, address } => write!(f, "hold {address} by {link}"),
            Self::KeepMac { link, .. } => write!(f, "keep the hardware address of link {link}"),
            Self::RouteLoopback { index } => write!(f, "let link #{index} carry loopback addresses"),
            Self::Limit { index, bucket } => write!(f, "limit link #{index} to {} bytes a second", bucket.rate),
            Self::PrepareInspection { index } => write!(f, "make the place for a program on link #{index}"),
            Self::Pace { index } => write!(f, "pace what link #{index} sends"),
            Self::ProbePace => write!(f, "ask for a queue that paces"),
            Self::KeepLimits { link, .. } => write!(f, "keep the limits of link {link}"),
            Self::DropLimits { link, .. } => write!(f, "drop the earlier limits of link {link}"),
            Self::Inspect { index, hook, .. } => match hook {
                Hook::Incoming => write!(f, "attach the program to link #{index}"),
                Hook::Outgoing => write!(f, "attach the pacing program to link #{index}"),
            },
            Self::Serve { index, .. } => write!(f, "attach the program of Services to link #{index}"),
            Self::ServeNot { index, .. } => write!(f, "remove the program of Services from link #{index}"),
            Self::AddPeerRoute { to, gateway } => write!(f, "route {to} to {gateway}"),
            Self::RemovePeerRoute { to } => write!(f, "remove the route to {to}"),
            Self::NoAutomaticAddress { link } => write!(f, "turn off automatic IPv6 addresses of {link}"),
            Self::SetUp { link } => write!(f, "bring up {link}"),
            Self::AddAddress { index, address } => write!(f, "add the address {address} to link #{index}"),
            Self::RemoveAddress { index, address } => write!(f, "remove the address {address} from link #{index}"),
            Self::AddNeighbour { index, address, .. } => write!(f, "add the neighbour {address} to link #{index}"),
            Self::AddRoute { index, to, .. } => write!(f, "route {to} into link #{index}"),
            Self::AddUnreachable { to } => write!(f, "make {to} unreachable"),
            Self::RemoveUnreachable { to } => write!(f, "remove the unreachable route to {to}"),
            Self::AddDetour { to, source, .. } => write!(f, "route SCTP to {to} into lo as {source}"),
            Self::RemoveDetour { to } => write!(f, "remove the route of SCTP to {to}"),
            Self::AddRule { .. } => write!(f, "add a rule for routes of SCTP"),
            Self::RemoveRule { .. } => write!(f, "remove a rule for routes of SCTP"),
            Self::SetGroup { link, group } => write!(f, "put {link} into group {group}"),
            Self::Delete { index } => write!(f, "delete link #{index}"),
            Self::DeleteGroup { group } => write!(f, "delete the links of group {group}"),
            Self::FindRoute { to } => write!(f, "find the route to {to}"),
            Self::Show { link } => write!(f, "look at {link}"),
        }
    }
}
