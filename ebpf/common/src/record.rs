//! What is remembered of a socket: the Service it was connected to, and the Services it sends datagrams to.

use core::net::IpAddr;

use crate::maps::{MAPPED, address};
use crate::plain::plain;

plain! {
    SocketRecord: 40,
    ReplyKey: 32,
    ReplyValue: 20,
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
    pub const fn ip(&self) -> IpAddr {
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

    /// Notes that the socket is connected as another record says, whatever it sends.
    pub const fn connect(&mut self, other: Self) {
        let sends = self.state & SENDS;
        *self = other;
        self.state |= sends;
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

#[cfg(test)]
mod tests {
    use super::*;

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
