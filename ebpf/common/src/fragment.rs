//! Packets in pieces, of which only the first has the ports. Key and value of the map `fragments`.

use crate::flow::{Tuple, Way};
use crate::plain::plain;

plain! {
    FragmentKey: 40,
    FragmentPorts: 4,
}

/// Most fragmented packets that are on their way at once; the oldest is forgotten, and its rest dropped.
pub const MAX_FRAGMENTS: u32 = 16_384;

/// Key of `fragments`: a packet that came in pieces.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey {
    source: [u32; 4],
    destination: [u32; 4],
    number: u32,
    protocol: u8,
    way: u8,
    reserved: u16,
}

impl FragmentKey {
    /// A packet by its addresses, its identification and its protocol.
    pub const fn new(packet: &Tuple, number: u32) -> Self {
        Self {
            source: packet.source,
            destination: packet.destination,
            number,
            protocol: packet.protocol(),
            way: matches!(packet.way(), Way::Leaving) as u8,
            reserved: 0,
        }
    }
}

/// Value of `fragments`: the ports, which only the first piece has.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPorts {
    /// Source port in network order.
    pub source: u16,
    /// Destination port in network order.
    pub destination: u16,
}
