//! Keys and values of the Service maps, byte for byte. Only the layout is here; who writes what, and in which order, is
//! `agent_core::service::diff`.
//!
//! | map | type | key → value |
//! |---|---|---|
//! | `svc4`, `svc6` | hash | where a client connects to → the region of its backends |
//! | `slots4`, `slots6` | array | index → one backend; a region is a run of slots that is never rewritten while it is in use |
//! | `sockets` | socket storage | a socket → the Service it was connected to |
//! | `replies` | LRU hash | socket and backend → the Service that a datagram was sent to |
//! | `counters` | per-CPU hash | Service port id → [`Counters`] |

use core::mem::transmute;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Version of this layout. It names the directory of the pins; another layout is another number.
pub const LAYOUT: u32 = 1;

/// Most IPv4 frontends.
pub const MAX_FRONTENDS4: u32 = 65_536;
/// Most IPv6 frontends.
pub const MAX_FRONTENDS6: u32 = 16_384;
/// IPv4 slots: the backends of all frontends and the regions that rest.
pub const MAX_SLOTS4: u32 = 524_288;
/// IPv6 slots.
pub const MAX_SLOTS6: u32 = 131_072;
/// Pairs of an unconnected UDP socket and a backend that are remembered; the least recently used gives way, and its
/// replies then show the backend's address.
pub const MAX_REPLIES: u32 = 32_768;
/// Most Service ports that are counted.
pub const MAX_COUNTERS: u32 = 65_536;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

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
                unsafe { transmute(self) }
            }

            /// The value of bytes that the map holds.
            pub const fn from_bytes(bytes: [u8; $size]) -> Self {
                // SAFETY: every bit pattern is a value of a repr(C) structure of integers, and the sizes are equal.
                unsafe { transmute(bytes) }
            }
        }
    )* };
}

plain! {
    Frontend4: 8,
    Frontend6: 20,
    Service: 32,
    Slot4: 8,
    Slot6: 24,
    SocketRecord: 40,
    ReplyKey: 32,
    ReplyValue: 20,
    Counters: 16,
}

/// Key of `svc4`: where a client connects to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend4 {
    address: u32,
    port: u16,
    protocol: u8,
    /// Zero: from anywhere. Room for a second scope, traffic from outside the node.
    scope: u8,
}

impl Frontend4 {
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

/// A run of slots together with a check of the frontend that it belongs to, in one word.
///
/// A hash map may give the memory of a replaced value to another key while a program still reads it. One word is read at
/// once, and the check tells whether it is still the word that was looked up.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region(u64);

#[expect(
    clippy::cast_possible_truncation,
    reason = "each getter cuts its own bits out of the word"
)]
impl Region {
    /// `count` slots from `base` on.
    pub const fn new(base: u32, count: u16, check: u16) -> Self {
        Self(base as u64 | (count as u64) << 32 | (check as u64) << 48)
    }

    /// Index of the first slot.
    pub const fn base(self) -> u32 {
        self.0 as u32
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
    /// Room for session affinity, a region of node-local backends and flags; zero.
    reserved: [u32; 5],
}

impl Service {
    /// The value for a frontend.
    pub const fn new(region: Region, id: u32) -> Self {
        Self {
            region,
            id,
            reserved: [0; 5],
        }
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

/// An address and a port in network order; IPv4 addresses are mapped, so that one record serves both families.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Address in network order.
    pub address: [u32; 4],
    /// Port in network order.
    pub port: u16,
}

impl Peer {
    /// An IPv4 peer of words in network order.
    pub const fn v4(address: u32, port: u16) -> Self {
        Self {
            address: [MAPPED[0], MAPPED[1], MAPPED[2], address],
            port,
        }
    }

    /// An IPv6 peer of words in network order.
    pub const fn v6(address: [u32; 4], port: u16) -> Self {
        Self { address, port }
    }

    /// The address as people write it.
    pub fn ip(&self) -> IpAddr {
        address(self.address).to_canonical()
    }
}

/// Value of `sockets`: what was done for a socket. It lives and dies with the socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketRecord {
    service_address: [u32; 4],
    backend_address: [u32; 4],
    service_port: u16,
    backend_port: u16,
    /// Bit 0: connected to a Service. Bit 1: has sent datagrams to Services without connecting.
    state: u32,
}

const CONNECTED: u32 = 1;
const SENDS: u32 = 2;

impl SocketRecord {
    /// The record of a socket that connects to `service` and gets `backend`.
    pub const fn connected(service: Peer, backend: Peer) -> Self {
        Self {
            service_address: service.address,
            backend_address: backend.address,
            service_port: service.port,
            backend_port: backend.port,
            state: CONNECTED,
        }
    }

    /// The record of a socket that sends to Services without connecting.
    pub const fn sending() -> Self {
        let nobody = Peer::v6([0; 4], 0);
        Self {
            state: SENDS,
            ..Self::connected(nobody, nobody)
        }
    }

    /// Whether `replies` may hold entries of this socket.
    pub const fn sends(&self) -> bool {
        self.state & SENDS != 0
    }

    /// Notes that `replies` holds an entry of this socket.
    pub const fn set_sends(&mut self) {
        self.state |= SENDS;
    }

    /// Notes that the socket is connected to no Service.
    pub const fn disconnect(&mut self) {
        self.state &= !CONNECTED;
    }

    /// The Service that a socket connected to, if `peer` is the backend that it got there. A socket that has been
    /// connected elsewhere since has another peer.
    #[inline(always)]
    pub fn service_of(&self, peer: &Peer) -> Option<Peer> {
        let same = self.state & CONNECTED != 0
            && self.backend_port == peer.port
            && self.backend_address[3] == peer.address[3]
            && self.backend_address == peer.address;
        same.then_some(Peer {
            address: self.service_address,
            port: self.service_port,
        })
    }

    /// The backend that a connected socket got for `service`.
    #[inline(always)]
    pub fn backend_of(&self, service: &Peer) -> Option<Peer> {
        let same =
            self.state & CONNECTED != 0 && self.service_port == service.port && self.service_address == service.address;
        same.then_some(Peer {
            address: self.backend_address,
            port: self.backend_port,
        })
    }
}

/// Key of `replies`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyKey {
    cookie: u64,
    address: [u32; 4],
    port: u16,
    reserved: [u16; 3],
}

impl ReplyKey {
    /// A socket by its cookie, which no later socket gets, and the backend it sent to.
    pub const fn new(cookie: u64, backend: &Peer) -> Self {
        Self {
            cookie,
            address: backend.address,
            port: backend.port,
            reserved: [0; 3],
        }
    }
}

/// Value of `replies`: the Service that the datagram was meant for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyValue {
    address: [u32; 4],
    port: u16,
    reserved: u16,
}

impl ReplyValue {
    /// The value for a Service.
    pub const fn new(service: &Peer) -> Self {
        Self {
            address: service.address,
            port: service.port,
            reserved: 0,
        }
    }

    /// The Service.
    pub const fn service(&self) -> Peer {
        Peer {
            address: self.address,
            port: self.port,
        }
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
}

/// An IPv6 address as four words in network order.
pub const fn words(address: Ipv6Addr) -> [u32; 4] {
    // SAFETY: both are sixteen bytes in the same order, and every bit pattern is valid.
    unsafe { transmute(address.octets()) }
}

const fn address(words: [u32; 4]) -> Ipv6Addr {
    // SAFETY: both are sixteen bytes in the same order, and every bit pattern is valid.
    Ipv6Addr::from_octets(unsafe { transmute::<[u32; 4], [u8; 16]>(words) })
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
        let region = Region::new(u32::MAX - 1, 65_534, 0xabcd);
        assert_eq!(
            (region.base(), region.count(), region.check()),
            (u32::MAX - 1, 65_534, 0xabcd)
        );
    }

    #[test]
    fn a_record_answers_only_for_its_own_backend() {
        let (service, backend) = (Peer::v4(1, 2), Peer::v4(3, 4));
        let record = SocketRecord::connected(service, backend);
        assert_eq!(record.service_of(&backend), Some(service));
        assert_eq!(record.service_of(&Peer::v4(3, 5)), None);
        assert_eq!(record.service_of(&Peer::v4(5, 4)), None);
        assert_eq!(record.backend_of(&service), Some(backend));
        let mut record = record;
        record.disconnect();
        assert_eq!(record.service_of(&backend), None);
        assert_eq!(SocketRecord::sending().service_of(&Peer::v6([0; 4], 0)), None);
    }
}
