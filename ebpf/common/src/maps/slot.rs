//! A backend: the values of `slots4` and `slots6`.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::{address, words};
use crate::plain::plain;

plain! {
    Slot4: 8,
    Slot6: 24,
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
