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
//! | `taken` | array | places of `streams` → whether somebody has them, see [`crate::stream`] |
//! | `replies` | LRU hash | socket and backend → the Service that a datagram was sent to |
//! | `counters` | array | CPU and Service port id, see [`Counters::place`] → [`Counters`] |

use core::net::Ipv6Addr;

use crate::plain::plain;

mod affinity;
mod client;
mod frontend;
mod service;
mod slot;

pub use affinity::{Affinity, AffinityKey, Member};
pub use client::{Client, NODE};
pub use frontend::{Frontend4, Frontend6};
pub use service::{MAX_REGION_BASE, Region, Service, Traits};
pub use slot::{Slot4, Slot6};

/// Version of this layout. It names the directory of the pins; another layout is another number.
pub const LAYOUT: u32 = 3;

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

plain! {
    Counters: 48,
    RangeKey: 20,
}

/// Value of `counters`: what one CPU counted of one Service port.
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

impl Counters {
    /// Index of a Service port's line in the part of `counters` that one CPU writes; no port has an id of [`MAX_IDS`] or more.
    ///
    /// An array with a part for each CPU is one allocation. The kernel's per-CPU array would be one for each line, 65,536 of
    /// them, which take longer than all else about making the maps.
    #[inline(always)]
    pub const fn place(cpu: u32, id: u32) -> u32 {
        cpu * MAX_IDS + id % MAX_IDS
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
    use core::net::Ipv4Addr;

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
