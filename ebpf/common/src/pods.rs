//! What the programs of pod links and the agent have to say to each other.

pub use crate::limit::{ENTRY_BYTES, Limit, LimitKey, MAX_LIMITS, Side};

/// Hardware address of the host's end of a pod's link, by which the program knows it; spells "orlop". The pod network
/// library gives it (`cni::plan::HOST_MAC`), and a test holds the two together.
pub const HOST_MAC: [u8; 6] = [0x02, b'o', b'r', b'l', b'o', b'p'];

/// What is counted, by its place in the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Dropped: the source is not the pod's.
    Source,
    /// Dropped: the hardware address is not the pod's.
    Mac,
    /// Dropped: neither IP nor ARP.
    Kind,
    /// Went to another pod of the node at once.
    Crossed,
    /// Dropped: more than the pod's limit lets wait.
    Limit,
}

impl Count {
    /// All of them, in the order of their places.
    pub const ALL: [Self; 5] = [Self::Source, Self::Mac, Self::Kind, Self::Crossed, Self::Limit];

    /// In a few words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "foreign-source",
            Self::Mac => "foreign-mac",
            Self::Kind => "not-ip",
            Self::Crossed => "crossed",
            Self::Limit => "over-limit",
        }
    }
}
