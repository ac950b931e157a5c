//! Direct return: the address that a client asked, as a request carries it to the node of its backend, so that this node
//! can answer in its name. It looks as Cilium's does: an option of IPv4, or one of IPv6's destination options.

use crate::maps::MAPPED;
use crate::plain::plain;
use crate::record::Peer;

plain! {
    Carried4: 8,
    Carried6: 24,
}

/// IPv6's number of destination options.
pub const DESTINATION_OPTIONS: u8 = 60;
/// First byte of an IPv4 header without options.
pub const BARE: u8 = 0x45;
/// The same with a [`Carried4`] alone.
pub const LADEN: u8 = 0x47;
/// Bytes of the largest frame that gets an option: it still fits everywhere. Larger ones of a flow go without.
pub const MAX_LADEN: u32 = 1200;

/// What is behind an IPv4 header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried4 {
    kind: u8,
    size: u8,
    port: u16,
    address: u32,
}

impl Carried4 {
    /// Copied to all pieces, for control, and nobody else's number.
    const KIND: u8 = 0x9a;
    const SIZE: u8 = 8;

    /// The option for an address.
    #[inline(always)]
    pub const fn new(service: &Peer) -> Self {
        Self {
            kind: Self::KIND,
            size: Self::SIZE,
            port: service.port,
            address: service.address[3],
        }
    }

    /// The address, if it is this option.
    #[inline(always)]
    pub const fn service(&self) -> Option<Peer> {
        if self.kind == Self::KIND && self.size == Self::SIZE {
            Some(Peer::v4(self.address, self.port))
        } else {
            None
        }
    }
}

/// What is behind an IPv6 header: the whole extension header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried6 {
    /// What follows.
    pub next: u8,
    length: u8,
    kind: u8,
    size: u8,
    address: [u32; 4],
    port: u16,
    reserved: u16,
}

impl Carried6 {
    /// To be passed over by who does not know it.
    const KIND: u8 = 0x1b;
    /// In units of eight bytes, without the first.
    const LENGTH: u8 = 2;
    const SIZE: u8 = 20;

    /// The header for an address, before what `next` says.
    #[inline(always)]
    pub const fn new(next: u8, service: &Peer) -> Self {
        Self {
            next,
            length: Self::LENGTH,
            kind: Self::KIND,
            size: Self::SIZE,
            address: service.address,
            port: service.port,
            reserved: 0,
        }
    }

    /// The address, if it is this option alone.
    #[inline(always)]
    pub fn service(&self) -> Option<Peer> {
        let is_ours = self.length == Self::LENGTH && self.kind == Self::KIND && self.size == Self::SIZE;
        // An IPv4 address in IPv6 is nobody's here.
        let is_mapped = [self.address[0], self.address[1], self.address[2]] == MAPPED;
        (is_ours && !is_mapped).then_some(Peer::v6(self.address, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_as_they_are_on_the_wire() {
        let service = Peer::v4(u32::from_ne_bytes([192, 0, 2, 1]), 80_u16.to_be());
        let carried = Carried4::new(&service);
        assert_eq!(carried.to_bytes(), [0x9a, 8, 0, 80, 192, 0, 2, 1]);
        assert_eq!(carried.service(), Some(service));
        assert_eq!(Carried4 { size: 4, ..carried }.service(), None);
        let service = Peer::v6([1, 2, 3, 4].map(u32::to_be), 80_u16.to_be());
        let carried = Carried6::new(6, &service);
        assert_eq!(carried.to_bytes()[..4], [6, 2, 0x1b, 20]);
        assert_eq!(carried.service(), Some(service));
        assert_eq!(Carried6 { kind: 1, ..carried }.service(), None);
    }
}
