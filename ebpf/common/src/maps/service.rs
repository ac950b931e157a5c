//! Where a frontend leads: the values of `svc4` and `svc6`.

use super::{MAX_SLOTS4, MAX_SLOTS6};
use crate::plain::plain;

plain! {
    Service: 16,
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
}

impl Service {
    /// The value for a frontend.
    pub const fn new(region: Region, id: u32) -> Self {
        Self {
            region,
            id,
            affinity: 0,
        }
    }

    /// The same with a time for which clients keep their backend, in seconds.
    pub const fn keeping(self, affinity: u32) -> Self {
        Self { affinity, ..self }
    }
}
