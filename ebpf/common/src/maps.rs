//! Keys and values of the Service maps, byte for byte. Only the layout is here; who writes what, and in which order, is
//! `agent_core::service::diff`.
//!
//! | map | type | key → value |
//! |---|---|---|
//! | `svc4`, `svc6` | hash | where a client connects to → the region of its backends |
//! | `slots4`, `slots6` | array | index → one backend; a region is a run of slots that is never rewritten while it is in use |
//! | `members` | hash | Service port id and backend → present, where clients keep to their backends |
//! | `affinities` | LRU hash | Service port id and client → the backend that it keeps to |
//! | `ranges` | trie | Service port id and source prefix → allowed |
//! | `clients` | hash | cookie of a network namespace → its addresses, and whether it is the node's own |
//! | `flows` | hash | a packet of a client outside → what becomes of its address, see [`crate::flow`] |
//! | `fragments` | LRU hash | a packet in pieces → its ports |
//! | `streams`, `sockets` | array, socket storage | a TCP socket, any other one → the Service it was connected to |
//! | `replies` | LRU hash | socket and backend → the Service that a datagram was sent to |
//! | `counters` | per-CPU array | Service port id → [`Counters`] |

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::record::Peer;

/// Version of this layout. It names the directory of the pins; another layout is another number.
pub const LAYOUT: u32 = 2;

/// Most IPv4 frontends.
pub const MAX_FRONTENDS4: u32 = 131_072;
/// Most IPv6 frontends.
pub const MAX_FRONTENDS6: u32 = 32_768;
/// IPv4 slots: the backends of all frontends and the regions that rest.
pub const MAX_SLOTS4: u32 = 1_048_576;
/// IPv6 slots.
pub const MAX_SLOTS6: u32 = 131_072;
/// Pairs of an unconnected UDP socket and a backend that are remembered; the least recently used gives way, and its
/// replies then show the backend's address.
pub const MAX_REPLIES: u32 = 32_768;
/// Service ports that have an id, and so a line of counters; zero is nobody's.
pub const MAX_IDS: u32 = 65_536;
/// Backends of Services whose clients keep to one.
pub const MAX_MEMBERS: u32 = 65_536;
/// Clients that keep to a backend; the least recently seen gives way, and chooses anew.
pub const MAX_AFFINITIES: u32 = 65_536;
/// Source prefixes of all Services.
pub const MAX_RANGES: u32 = 16_384;
/// Network namespaces of the node whose addresses are known: its own and one for each pod.
pub const MAX_CLIENTS: u32 = 4_096;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of SCTP.
pub const SCTP: u8 = 132;

/// An IPv4 address as three words of an IPv6 one: ::ffff:a.b.c.d, on the wire.
pub const MAPPED: [u32; 3] = [0, 0, 0xffff_u32.to_be()];

/// Gives a type its bytes. The second column is its size, which has to leave no room for padding.
macro_rules! plain {
    ($($type:ty: $size:literal),* $(,)?) => { $(
        const _: () = assert!(size_of::<$type>() == $size);

        impl $type {
            /// The bytes that the map holds.
            pub const fn to_bytes(self) -> [u8; $size] {
                // SAFETY: a repr(C) structure of integers; its fields fill the asserted size, so there is no padding.
                unsafe { core::mem::transmute(self) }
            }

            /// The value of bytes that the map holds.
            pub const fn from_bytes(bytes: [u8; $size]) -> Self {
                // SAFETY: every bit pattern is a value of a repr(C) structure of integers, and the sizes are equal.
                unsafe { core::mem::transmute(bytes) }
            }
        }
    )* };
}
pub(crate) use plain;

plain! {
    Frontend4: 8,
    Frontend6: 20,
    Service: 32,
    Slot4: 8,
    Slot6: 24,
    Counters: 48,
    Member: 28,
    AffinityKey: 20,
    Affinity: 24,
    RangeKey: 20,
    Client: 24,
}

/// Key of `svc4`: where a client connects to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend4 {
    address: u32,
    port: u16,
    protocol: u8,
    /// Zero: asked for by a socket of this node. One: by a packet from outside.
    scope: u8,
}

impl Frontend4 {
    /// The same address as it is for packets from outside of the node.
    pub const fn from_outside(self) -> Self {
        Self { scope: 1, ..self }
    }

    /// Whether it is for packets from outside of the node.
    pub const fn is_from_outside(&self) -> bool {
        self.scope == 1
    }

    /// A frontend by address, port and [`TCP`] or [`UDP`].
    pub const fn new(address: Ipv4Addr, port: u16, protocol: u8) -> Self {
        Self::from_wire(u32::from_ne_bytes(address.octets()), port.to_be(), protocol)
    }

    /// The same of words in network order, as the kernel hands them over.
    pub const fn from_wire(address: u32, port: u16, protocol: u8) -> Self {
        Self {
            address,
            port,
            protocol,
            scope: 0,
        }
    }

    /// The address.
    pub const fn address(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.address.to_ne_bytes())
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        u16::from_be(self.port)
    }

    /// IP protocol number.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }
}

/// Key of `svc6`: where a client connects to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend6 {
    address: [u32; 4],
    port: u16,
    protocol: u8,
    scope: u8,
}

impl Frontend6 {
    /// The same address as it is for packets from outside of the node.
    pub const fn from_outside(self) -> Self {
        Self { scope: 1, ..self }
    }

    /// Whether it is for packets from outside of the node.
    pub const fn is_from_outside(&self) -> bool {
        self.scope == 1
    }

    /// A frontend by address, port and [`TCP`] or [`UDP`].
    pub const fn new(address: Ipv6Addr, port: u16, protocol: u8) -> Self {
        Self::from_wire(words(address), port.to_be(), protocol)
    }

    /// The same of words in network order, as the kernel hands them over.
    pub const fn from_wire(address: [u32; 4], port: u16, protocol: u8) -> Self {
        Self {
            address,
            port,
            protocol,
            scope: 0,
        }
    }

    /// The address.
    pub const fn address(&self) -> Ipv6Addr {
        address(self.address)
    }

    /// The address as words in network order.
    pub const fn wire_address(&self) -> [u32; 4] {
        self.address
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        u16::from_be(self.port)
    }

    /// IP protocol number.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }
}

/// What a frontend's region is beside its slots: a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits(u8);

impl Traits {
    /// Nothing special.
    pub const NONE: Self = Self(0);
    /// Without a backend a connection is dropped, not refused: there are backends, though none that it may use.
    pub const DROPS: Self = Self(1);
    /// A client keeps to its backend.
    pub const STICKY: Self = Self(2);
    /// Only clients in the Service's source ranges may use it.
    pub const GUARDED: Self = Self(4);
    /// Only sockets of the node's own network namespace may use it: the address is a loopback's.
    pub const NODE_ONLY: Self = Self(8);
    /// The backends are those of this node alone, and see the address of the client.
    pub const LOCAL: Self = Self(16);
    /// The slots are a Maglev table: the same flow falls on the same backend on every node.
    pub const MAGLEV: Self = Self(32);
    /// Backends on other nodes see the client and answer it themselves: its requests carry the Service's address.
    pub const DIRECT: Self = Self(64);

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The other if a condition holds.
    pub const fn and_if(self, condition: bool, other: Self) -> Self {
        if condition { self.and(other) } else { self }
    }

    /// Whether it has any bit of the other.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Most slots of one map: what a region has bits for.
pub const MAX_REGION_BASE: u32 = 1 << 24;

/// A run of slots together with a check of the frontend that it belongs to, in one word.
///
/// A hash map may give the memory of a replaced value to another key while a program still reads it. One word is read at
/// once, and the check tells whether it is still the word that was looked up.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region(u64);

const _: () = assert!(MAX_SLOTS4 <= MAX_REGION_BASE && MAX_SLOTS6 <= MAX_REGION_BASE);

#[expect(
    clippy::cast_possible_truncation,
    reason = "each getter cuts its own bits out of the word"
)]
impl Region {
    /// `count` slots from `base` on, which is below [`MAX_REGION_BASE`].
    pub const fn new(base: u32, count: u16, check: u16) -> Self {
        Self((base & (MAX_REGION_BASE - 1)) as u64 | (count as u64) << 32 | (check as u64) << 48)
    }

    /// The same with these traits.
    pub const fn with(self, traits: Traits) -> Self {
        Self(self.0 & !(0xff << 24) | (traits.0 as u64) << 24)
    }

    /// Index of the first slot.
    pub const fn base(self) -> u32 {
        self.0 as u32 & (MAX_REGION_BASE - 1)
    }

    /// What it is beside its slots.
    pub const fn traits(self) -> Traits {
        Traits((self.0 >> 24) as u8)
    }

    /// How many slots there are; zero for a Service without backends.
    pub const fn count(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// The check of the frontend, see [`crate::lookup::Frontend::check`].
    pub const fn check(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// Value of `svc4` and `svc6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where the backends are.
    pub region: Region,
    /// Id of the Service port, for the counters.
    pub id: u32,
    /// How long a client that is not heard of keeps its backend, in seconds; for [`Traits::STICKY`].
    pub affinity: u32,
    reserved: [u32; 4],
}

impl Service {
    /// The value for a frontend.
    pub const fn new(region: Region, id: u32) -> Self {
        Self {
            region,
            id,
            affinity: 0,
            reserved: [0; 4],
        }
    }

    /// The same with a time for which clients keep their backend, in seconds.
    pub const fn keeping(self, affinity: u32) -> Self {
        Self { affinity, ..self }
    }
}

/// Value of `slots4`: a backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot4 {
    /// Address in network order.
    pub address: u32,
    /// Port in network order.
    pub port: u16,
    flags: u16,
}

impl Slot4 {
    /// A backend by address and port.
    pub const fn new(address: Ipv4Addr, port: u16) -> Self {
        Self {
            address: u32::from_ne_bytes(address.octets()),
            port: port.to_be(),
            flags: 0,
        }
    }

    /// Address and port as people write them.
    pub const fn endpoint(&self) -> (Ipv4Addr, u16) {
        (
            Ipv4Addr::from_octets(self.address.to_ne_bytes()),
            u16::from_be(self.port),
        )
    }
}

/// Value of `slots6`: a backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot6 {
    /// Address in network order.
    pub address: [u32; 4],
    /// Port in network order.
    pub port: u16,
    flags: u16,
    reserved: u32,
}

impl Slot6 {
    /// A backend by address and port.
    pub const fn new(address: Ipv6Addr, port: u16) -> Self {
        Self {
            address: words(address),
            port: port.to_be(),
            flags: 0,
            reserved: 0,
        }
    }

    /// Address and port as people write them.
    pub const fn endpoint(&self) -> (Ipv6Addr, u16) {
        (address(self.address), u16::from_be(self.port))
    }
}

/// Value of `counters`, on each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections, and first datagrams of an unconnected socket to a backend.
    pub forwarded: u64,
    /// Attempts that were refused for lack of a backend.
    pub refused: u64,
    /// Attempts that were dropped for lack of a backend on this node.
    pub no_local: u64,
    /// Attempts that were dropped because their source is in none of the Service's ranges.
    pub not_allowed: u64,
    /// New flows from outside that were dropped because the table of flows, or the source ports for a backend, were full.
    pub no_room: u64,
    /// Packets that could not be read: cut short, or a fragment whose first one is unknown. Counted for the id zero.
    pub unreadable: u64,
}

/// Key of `members`: a backend that clients of a Service port may keep to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    id: u32,
    address: [u32; 4],
    port: u16,
    /// One: among the backends of this node alone.
    scope: u16,
    reserved: u32,
}

impl Member {
    /// A backend of the Service port `id`, of all its backends or of those of this node.
    pub const fn new(id: u32, backend: &Peer, traits: Traits) -> Self {
        Self {
            id,
            address: backend.address,
            port: backend.port,
            scope: traits.has(Traits::LOCAL) as u16,
            reserved: 0,
        }
    }

    /// Id of the Service port.
    pub const fn id(&self) -> u32 {
        self.id
    }
}

/// Key of `affinities`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityKey {
    client: [u32; 4],
    id: u32,
}

impl AffinityKey {
    /// A client, see [`Client::identity`], of the Service port `id`.
    pub const fn new(client: [u32; 4], id: u32) -> Self {
        Self { client, id }
    }

    /// Id of the Service port.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// The client's address.
    pub const fn client(&self) -> IpAddr {
        address(self.client).to_canonical()
    }
}

/// Value of `affinities`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    address: [u32; 4],
    port: u16,
    reserved: u16,
    /// When the client was last heard of, in seconds since the machine started.
    pub last: u32,
}

impl Affinity {
    /// A client that was given `backend` at `now`.
    pub const fn new(backend: &Peer, now: u32) -> Self {
        Self {
            address: backend.address,
            port: backend.port,
            reserved: 0,
            last: now,
        }
    }

    /// The backend.
    pub const fn backend(&self) -> Peer {
        Peer::v6(self.address, self.port)
    }
}

/// Key of `ranges` behind the length of its prefix, which counts the 32 bits of the id.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangeKey {
    id: u32,
    address: [u32; 4],
}

impl RangeKey {
    /// An address, IPv4 ones mapped, for the Service port `id`.
    pub const fn new(id: u32, address: [u32; 4]) -> Self {
        Self { id, address }
    }

    /// Id of the Service port.
    pub const fn id(&self) -> u32 {
        self.id
    }
}

/// Value of `clients`: what is known of a network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client {
    v6: [u32; 4],
    v4: u32,
    is_node: u32,
}

/// The key of `clients` under which the node itself stands a second time, for those who don't know its cookie.
pub const NODE: u64 = 0;

impl Client {
    /// A namespace with these addresses; `is_node` for the node's own.
    pub const fn new(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>, is_node: bool) -> Self {
        let v4 = match v4 {
            Some(v4) => u32::from_ne_bytes(v4.octets()),
            None => 0,
        };
        let v6 = match v6 {
            Some(v6) => words(v6),
            None => [0; 4],
        };
        Self {
            v6,
            v4,
            is_node: is_node as u32,
        }
    }

    /// Whether it is the node's own.
    pub const fn is_node(&self) -> bool {
        self.is_node != 0
    }

    /// The address that its IPv4 packets come from, mapped, if it is known.
    pub const fn address4(&self) -> Option<[u32; 4]> {
        if self.v4 == 0 {
            None
        } else {
            Some([MAPPED[0], MAPPED[1], MAPPED[2], self.v4])
        }
    }

    /// The address that its IPv6 packets come from, if it is known.
    pub const fn address6(&self) -> Option<[u32; 4]> {
        match self.v6 {
            [0, 0, 0, 0] => None,
            address => Some(address),
        }
    }
}

/// An IPv6 address as four words in network order.
pub const fn words(address: Ipv6Addr) -> [u32; 4] {
    // SAFETY: both are sixteen bytes in the same order, and every bit pattern is valid.
    unsafe { core::mem::transmute(address.octets()) }
}

pub(crate) const fn address(words: [u32; 4]) -> Ipv6Addr {
    // SAFETY: both are sixteen bytes in the same order, and every bit pattern is valid.
    Ipv6Addr::from_octets(unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stand_in_network_order() {
        let key = Frontend4::new(Ipv4Addr::new(10, 96, 0, 1), 443, TCP);
        assert_eq!(key.to_bytes(), [10, 96, 0, 1, 0x01, 0xbb, 6, 0]);
        assert_eq!(
            (key.address(), key.port(), key.protocol()),
            (Ipv4Addr::new(10, 96, 0, 1), 443, TCP)
        );
        let slot = Slot4::new(Ipv4Addr::new(10, 244, 0, 9), 8080);
        assert_eq!(slot.to_bytes(), [10, 244, 0, 9, 0x1f, 0x90, 0, 0]);
        let key = Frontend6::new(Ipv6Addr::LOCALHOST, 53, UDP);
        assert_eq!(
            key.to_bytes(),
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 53, 17, 0]
        );
        assert_eq!((key.address(), key.port()), (Ipv6Addr::LOCALHOST, 53));
        assert_eq!(
            Slot6::from_bytes(Slot6::new(Ipv6Addr::LOCALHOST, 9).to_bytes()).endpoint(),
            (Ipv6Addr::LOCALHOST, 9)
        );
    }

    #[test]
    fn a_region_is_one_word() {
        let region = Region::new(MAX_REGION_BASE - 1, 65_534, 0xabcd).with(Traits::STICKY);
        assert_eq!(
            (region.base(), region.count(), region.check()),
            (MAX_REGION_BASE - 1, 65_534, 0xabcd)
        );
        assert_eq!(region.traits(), Traits::STICKY);
        assert_eq!(region.with(Traits::NONE).traits(), Traits::NONE);
    }
}
