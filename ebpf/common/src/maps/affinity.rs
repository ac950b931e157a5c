//! Clients that keep to a backend: `members` and `affinities`.

use core::net::IpAddr;

use super::{Traits, address};
use crate::plain::plain;
use crate::record::Peer;

plain! {
    Member: 28,
    AffinityKey: 20,
    Affinity: 24,
}

/// Key of `members`: a backend that clients of a Service port may keep to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    id: u32,
    address: [u32; 4],
    port: u16,
    /// One: among the backends of this node alone.
    scope: u16,
    reserved: u32,
}

impl Member {
    /// A backend of the Service port `id`, of all its backends or of those of this node.
    pub const fn new(id: u32, backend: &Peer, traits: Traits) -> Self {
        Self {
            id,
            address: backend.address,
            port: backend.port,
            scope: traits.has(Traits::LOCAL) as u16,
            reserved: 0,
        }
    }

    /// Id of the Service port.
    pub const fn id(&self) -> u32 {
        self.id
    }
}

/// Key of `affinities`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityKey {
    client: [u32; 4],
    id: u32,
}

impl AffinityKey {
    /// A client, see [`Client::identity`], of the Service port `id`.
    pub const fn new(client: [u32; 4], id: u32) -> Self {
        Self { client, id }
    }

    /// Id of the Service port.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// The client's address.
    pub const fn client(&self) -> IpAddr {
        address(self.client).to_canonical()
    }
}

/// Value of `affinities`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    address: [u32; 4],
    port: u16,
    reserved: u16,
    /// When the client was last heard of, in seconds since the machine started.
    pub last: u32,
}

impl Affinity {
    /// A client that was given `backend` at `now`.
    pub const fn new(backend: &Peer, now: u32) -> Self {
        Self {
            address: backend.address,
            port: backend.port,
            reserved: 0,
            last: now,
        }
    }

    /// The backend.
    pub const fn backend(&self) -> Peer {
        Peer::v6(self.address, self.port)
    }
}
