//! Who a client is: the values of `clients`.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::{MAPPED, words};
use crate::plain::plain;

plain! {
    Client: 24,
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
