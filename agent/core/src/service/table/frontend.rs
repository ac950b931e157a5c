//! An address that clients connect to, and where it leads.

use std::net::SocketAddr;

use super::super::topology::Backends;
use super::super::{AddressRange, Protocol, ServicePort};

/// Who asks for a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// A socket of this node.
    Inside,
    /// A packet that comes in from elsewhere.
    Outside,
}

/// An address that clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Address and port.
    pub address: SocketAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Whom it is for.
    pub scope: Scope,
}

impl Frontend {
    /// Whether it is of SCTP, whose sockets here meet no program.
    pub fn is_association(&self) -> bool {
        self.protocol == Protocol::Sctp
    }
}

/// What an address is of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One of its cluster addresses.
    ClusterIp,
    /// A node's address with the Service's node port.
    NodePort,
    /// An address that its load balancer has been given.
    LoadBalancer,
    /// One of its external addresses.
    ExternalIp,
    /// A node's address with a port for one pod.
    HostPort,
}

/// Where a frontend leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub owner: ServicePort,
    /// What it is.
    pub kind: Kind,
    /// Backends of the frontend's family, each once, in order.
    pub backends: Backends,
    /// What else holds.
    pub rules: Rules,
}

/// What holds for a frontend beside its backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Without a backend, connections are dropped; otherwise they are refused.
    pub drops: bool,
    /// The backends are those of this node alone.
    pub local: bool,
    /// How long a client keeps its backend, in seconds.
    pub affinity: Option<u32>,
    /// Where clients may come from; from everywhere without.
    pub ranges: Option<Vec<AddressRange>>,
    /// Only for the node's own network namespace.
    pub node_only: bool,
    /// Backends are looked up in a Maglev table.
    pub maglev: bool,
    /// Backends on other nodes see the client and answer it themselves.
    pub direct: bool,
}
