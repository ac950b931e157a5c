//! Flows that are met at links, those from outside of the node and those of SCTP from its pods: what of a packet is rewritten,
//! and for how long that is remembered. Keys and values of the map `flows`, and everything about them that can be decided
//! without a packet.
//!
//! A client C asks a Service address V and is served by a backend B. Where the backend has to answer through this node, it
//! sees the node's address N instead of the client's:
//!
//! | entry | packet | becomes | on |
//! |---|---|---|---|
//! | request | C → V | C → **B** | arrival |
//! | masked request | C → B | **N** → B | departure |
//! | reply to the mask | B → N | B → **C** | arrival |
//! | reply | B → C | **V** → C | departure |
//!
//! Where the backends of other nodes answer clients themselves (direct return), a request carries V there:
//!
//! | node | entry | packet | becomes | on |
//! |---|---|---|---|---|
//! | the client's | request | C → V | C → **B** | arrival |
//! | | carrying request | C → B | C → B with V in it | departure |
//! | the backend's | carried request | C → B | the same; V is taken out of the first one | arrival |
//! | | reply | B → C | **V** → C | departure |
//!
//! A packet that arrives changes its destination, one that departs its source; routing, TTL, MTU and fragments lie between
//! and are the kernel's. A backend on this node is not reached by a departure, so that it sees the client itself.
//!
//! A process of the node that asks by SCTP is met at `lo` alone, where both addresses are changed at once. N is C, or the
//! node's address in the place of a loopback one:
//!
//! | entry | packet | becomes | on |
//! |---|---|---|---|
//! | node's request | C → V | **N** → **B** | arrival |
//! | reply to the node | B → N | **V** → **C** | arrival |

use crate::plain::plain;
use crate::record::Peer;

plain! {
    Tuple: 40,
    Entry: 48,
}

/// Most entries of `flows`; four for a flow with a masked client, two for another one. A full table takes no new flow and
/// leaves those that there are.
pub const MAX_FLOWS: u32 = 262_144;
/// First source port of masked clients. The kernel gives its own sockets lower ones by default.
pub const FIRST_MASK_PORT: u16 = 61_000;
/// How many source ports are tried for a masked client. With half of them taken, one client of sixty thousand finds none.
pub const MASK_ATTEMPTS: u32 = 16;

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It comes in from outside.
    Arriving,
    /// It leaves the node.
    Leaving,
}

/// Key of `flows`: addresses (IPv4 ones mapped) and ports in network order as they are before the rewriting.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: [u32; 4],
    /// Destination address.
    pub destination: [u32; 4],
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    protocol: u8,
    way: u8,
    reserved: u16,
}

impl Tuple {
    /// A packet between two peers.
    pub const fn new(source: &Peer, destination: &Peer, protocol: u8, way: Way) -> Self {
        Self {
            source: source.address,
            destination: destination.address,
            source_port: source.port,
            destination_port: destination.port,
            protocol,
            way: matches!(way, Way::Leaving) as u8,
            reserved: 0,
        }
    }

    /// Who sent it.
    pub const fn from(&self) -> Peer {
        Peer::v6(self.source, self.source_port)
    }

    /// Whom it is for.
    pub const fn to(&self) -> Peer {
        Peer::v6(self.destination, self.destination_port)
    }

    /// IP protocol number.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Which way it goes.
    pub const fn way(&self) -> Way {
        if self.way == 0 { Way::Arriving } else { Way::Leaving }
    }

    /// The packet that answers this one, going the given way.
    pub const fn answer(&self, way: Way) -> Self {
        Self::new(&self.to(), &self.from(), self.protocol, way)
    }

    /// An evenly spread number of addresses and ports, the same on every node.
    #[inline(always)]
    pub fn hash(&self) -> u32 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let pair = |high: u32, low: u32| u64::from(u32::from_be(high)) << 32 | u64::from(u32::from_be(low));
        let mix = |state: u64, word: u64| (state ^ word).wrapping_mul(ODD).rotate_left(29);
        let (source, destination) = (&self.source, &self.destination);
        let ports =
            u64::from(u16::from_be(self.source_port)) << 24 | u64::from(u16::from_be(self.destination_port)) << 8;
        let mut state = mix(ODD, pair(source[0], source[1]));
        state = mix(state, pair(source[2], source[3]));
        state = mix(state, pair(destination[0], destination[1]));
        state = mix(state, pair(destination[2], destination[3]));
        state = mix(state, ports | u64::from(self.protocol));
        ((state ^ (state >> 31)).wrapping_mul(ODD) >> 32) as u32
    }
}

/// Flags of TCP.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// What has been seen of a flow's packets of one kind: a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen(u8);

impl Seen {
    /// Nothing.
    pub const NOTHING: Self = Self(0);
    /// A packet.
    pub const PACKET: Self = Self(1);
    /// One that goes on with a connection: TCP with ACK and without SYN.
    pub const MORE: Self = Self(2);
    /// TCP's FIN.
    pub const FIN: Self = Self(4);
    /// TCP's RST.
    pub const RST: Self = Self(8);

    /// What a packet shows; `flags` are TCP's, or [`flags_of_chunk`]; zero for other protocols.
    pub const fn of(flags: u8) -> Self {
        let mut seen = Self::PACKET.0;
        if flags & ACK != 0 && flags & SYN == 0 {
            seen |= Self::MORE.0;
        }
        if flags & FIN != 0 {
            seen |= Self::FIN.0;
        }
        if flags & RST != 0 {
            seen |= Self::RST.0;
        }
        Self(seen)
    }

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it has any bit of the other.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The flags that a TCP packet would have in the place of an SCTP packet whose first chunk is of this type. Looked up, as
/// the kernel's verifier would follow each type on its own.
#[inline(always)]
pub fn flags_of_chunk(kind: u8) -> u8 {
    static FLAGS: [u8; 16] = flags_of_chunks();
    FLAGS.get(usize::from(kind)).copied().unwrap_or(ACK)
}

const fn flags_of_chunks() -> [u8; 16] {
    const INIT: usize = 1;
    const INIT_ACK: usize = 2;
    const ABORT: usize = 6;
    const SHUTDOWN: usize = 7;
    const SHUTDOWN_ACK: usize = 8;
    const SHUTDOWN_COMPLETE: usize = 14;
    let mut flags = [ACK; 16];
    flags[INIT] = SYN;
    flags[INIT_ACK] = SYN | ACK;
    flags[ABORT] = RST;
    flags[SHUTDOWN] = FIN | ACK;
    flags[SHUTDOWN_ACK] = FIN | ACK;
    flags[SHUTDOWN_COMPLETE] = FIN | ACK;
    flags
}

/// Value of `flows`. Every entry of a flow knows the whole flow, so that each can be made again of any other.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    address: [u32; 4],
    other: [u32; 4],
    port: u16,
    other_port: u16,
    /// Id of the Service port.
    pub id: u32,
    /// When the last packet was seen, in seconds since the machine started.
    pub last: u32,
    seen: u8,
    role: u8,
    reserved: u16,
}

/// Which of a flow's packets an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// C → V.
    Request,
    /// C → B.
    MaskedRequest,
    /// B → N.
    ReplyToMask,
    /// B → C.
    Reply,
    /// C → B, which carries V.
    CarryingRequest,
    /// C → B, which did.
    CarriedRequest,
    /// C → V of a process of the node.
    NodeRequest,
    /// B → N, for a process of the node.
    ReplyToNode,
}

/// Nobody: no mask.
const NOBODY: Peer = Peer::v6([0; 4], 0);

impl Entry {
    const fn new(role: Role, becomes: &Peer, other: &Peer, id: u32, now: u32) -> Self {
        Self {
            address: becomes.address,
            other: other.address,
            port: becomes.port,
            other_port: other.port,
            id,
            last: now,
            seen: 0,
            role: role as u8,
            reserved: 0,
        }
    }

    /// What the destination of an arriving packet, or the source of a leaving one, becomes.
    pub const fn becomes(&self) -> Peer {
        Peer::v6(self.address, self.port)
    }

    /// Of the roles of the node's processes: what the source becomes.
    pub const fn source_becomes(&self) -> Peer {
        Peer::v6(self.other, self.other_port)
    }

    /// What has been seen.
    pub const fn seen(&self) -> Seen {
        Seen(self.seen)
    }

    /// Notes a packet.
    #[inline(always)]
    pub fn note(&mut self, seen: Seen, now: u32) {
        let all = self.seen | seen.0;
        // A write that changes nothing still takes the line of the cache away from other CPUs.
        if self.last != now {
            self.last = now;
        }
        if self.seen != all {
            self.seen = all;
        }
    }

    /// The packets that it is for.
    pub const fn role(&self) -> Role {
        match self.role {
            0 => Role::Request,
            1 => Role::MaskedRequest,
            2 => Role::ReplyToMask,
            3 => Role::Reply,
            4 => Role::CarryingRequest,
            5 => Role::CarriedRequest,
            6 => Role::NodeRequest,
            _ => Role::ReplyToNode,
        }
    }

    /// The whole flow, of an entry and its key.
    pub const fn flow(&self, key: &Tuple) -> Flow {
        let other = Peer::v6(self.other, self.other_port);
        let (client, service, backend, mask) = match self.role() {
            Role::Request | Role::NodeRequest => (key.from(), key.to(), self.becomes(), other),
            Role::MaskedRequest => (key.from(), other, key.to(), self.becomes()),
            Role::ReplyToMask | Role::ReplyToNode => (self.becomes(), other, key.from(), key.to()),
            Role::Reply => (key.to(), self.becomes(), key.from(), other),
            Role::CarryingRequest => (key.from(), other, key.to(), other),
            Role::CarriedRequest => (key.from(), other, key.to(), key.to()),
        };
        Flow {
            client,
            service,
            backend,
            mask,
            id: self.id,
            protocol: key.protocol(),
            is_of_node: matches!(self.role(), Role::NodeRequest | Role::ReplyToNode),
        }
    }
}

/// A conversation of a client with a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// C: who asks.
    pub client: Peer,
    /// V: the address that it asks.
    pub service: Peer,
    /// B: who answers.
    pub backend: Peer,
    /// N: who the backend takes for the client. Without a port: the client itself. V, or on its node B: the client itself,
    /// whom the backend answers directly. Of a process of the node: whom the backend sees.
    pub mask: Peer,
    /// Id of the Service port.
    pub id: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Whether the client is a process of the node, met at `lo`.
    pub is_of_node: bool,
}

impl Flow {
    /// A flow whose client is not masked.
    pub const fn new(request: &Tuple, backend: &Peer, id: u32) -> Self {
        Self {
            client: request.from(),
            service: request.to(),
            backend: *backend,
            mask: NOBODY,
            id,
            protocol: request.protocol(),
            is_of_node: false,
        }
    }

    /// A flow of a process of the node, which the backend sees as it is.
    pub const fn of_node(request: &Tuple, backend: &Peer, id: u32) -> Self {
        Self {
            mask: request.from(),
            is_of_node: true,
            ..Self::new(request, backend, id)
        }
    }

    /// What a request of a client becomes that the backend's node has taken the Service's address out of.
    pub const fn carried(request: &Tuple, service: &Peer, id: u32) -> Self {
        let backend = request.to();
        Self {
            service: *service,
            mask: backend,
            ..Self::new(request, &backend, id)
        }
    }

    /// Whether the backend sees somebody else in the place of the client.
    #[inline(always)]
    pub fn is_masked(&self) -> bool {
        self.mask.port != 0 && !self.is_of_node && !self.is_carrying() && self.mask != self.backend
    }

    /// Whether requests carry the Service's address from this node to another.
    #[inline(always)]
    pub fn is_carrying(&self) -> bool {
        !self.is_of_node && self.mask == self.service
    }

    /// The key of one of its entries.
    #[inline(always)]
    pub const fn key(&self, role: Role) -> Tuple {
        let (from, to, way) = match role {
            Role::Request | Role::NodeRequest => (&self.client, &self.service, Way::Arriving),
            Role::MaskedRequest | Role::CarryingRequest => (&self.client, &self.backend, Way::Leaving),
            Role::CarriedRequest => (&self.client, &self.backend, Way::Arriving),
            Role::ReplyToMask | Role::ReplyToNode => (&self.backend, &self.mask, Way::Arriving),
            Role::Reply => (&self.backend, &self.client, Way::Leaving),
        };
        Tuple::new(from, to, self.protocol, way)
    }

    /// The value of one of its entries.
    #[inline(always)]
    pub const fn entry(&self, role: Role, now: u32) -> Entry {
        let (becomes, other) = match role {
            Role::Request | Role::NodeRequest => (&self.backend, &self.mask),
            Role::MaskedRequest | Role::CarryingRequest => (&self.mask, &self.service),
            Role::CarriedRequest => (&self.backend, &self.service),
            Role::ReplyToMask | Role::ReplyToNode => (&self.client, &self.service),
            Role::Reply => (&self.service, &self.mask),
        };
        Entry::new(role, becomes, other, self.id, now)
    }

    /// The entries that it has.
    pub fn roles(&self) -> &'static [Role] {
        if self.is_of_node {
            &[Role::NodeRequest, Role::ReplyToNode]
        } else if self.is_masked() {
            &[Role::Request, Role::MaskedRequest, Role::ReplyToMask, Role::Reply]
        } else if self.is_carrying() {
            &[Role::Request, Role::CarryingRequest, Role::Reply]
        } else if self.mask == self.backend {
            &[Role::CarriedRequest, Role::Reply]
        } else {
            &[Role::Request, Role::Reply]
        }
    }
}

/// The source port of a masked client for an evenly spread number, in network order.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the offset is below the count of ports")]
pub const fn mask_port(draw: u32) -> u16 {
    let count = u16::MAX as u32 - FIRST_MASK_PORT as u32 + 1;
    let offset = (draw as u64 * count as u64) >> 32;
    (FIRST_MASK_PORT + offset as u16).to_be()
}

/// How long a flow is remembered after its last packet, in seconds, by what has been seen of its requests and replies.
/// The times are the kernel's for connection tracking, with kube-proxy's for established and half-closed connections. An
/// SCTP association that lives is heard of every half minute.
pub const fn lifetime(protocol: u8, requests: Seen, replies: Seen) -> u32 {
    const RESET: u32 = 10;
    const CLOSED: u32 = 120;
    const HALF_CLOSED: u32 = 3_600;
    const ESTABLISHED: u32 = 86_400;
    const ASSOCIATED: u32 = 210;
    const OPENING: u32 = 60;
    const ANSWERED: u32 = 120;
    const UNANSWERED: u32 = 30;
    if protocol != crate::maps::TCP && protocol != crate::maps::SCTP {
        return if replies.has(Seen::PACKET) {
            ANSWERED
        } else {
            UNANSWERED
        };
    }
    if requests.and(replies).has(Seen::RST) {
        RESET
    } else if requests.has(Seen::FIN) && replies.has(Seen::FIN) {
        CLOSED
    } else if requests.and(replies).has(Seen::FIN) {
        HALF_CLOSED
    } else if requests.has(Seen::MORE) && replies.has(Seen::PACKET) {
        if protocol == crate::maps::SCTP {
            ASSOCIATED
        } else {
            ESTABLISHED
        }
    } else {
        OPENING
    }
}

#[cfg(test)]
mod tests;
