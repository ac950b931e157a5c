//! Where a client connects to: the keys of `svc4` and `svc6`.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::{address, words};
use crate::plain::plain;

plain! {
    Frontend4: 8,
    Frontend6: 20,
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
        // Written at once: a processor that reads as a whole what was written in parts waits until it is in memory.
        let whole = address as u64 | (port as u64) << 32 | (protocol as u64) << 48;
        Self::from_bytes(whole.to_le_bytes())
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
