//! The choice of a backend. The eBPF programs run this function on the kernel's maps; tests, fuzzing and `trace` run it on
//! theirs. It decides only: rewriting an address and remembering it is the programs'.

use crate::maps::{Affinity, AffinityKey, Frontend4, Frontend6, Member, Region, Service, Slot4, Slot6, Traits};
use crate::record::Peer;

/// How often a lookup is repeated when the value changes under it. Each time takes two updates of other Services within
/// the same few nanoseconds, so that once is rare and four times does not happen.
const ATTEMPTS: u32 = 4;

/// The maps of one family, frontends of type `K` and slots of type `S`, and what is known of who connects.
pub trait World<K, S> {
    /// The value of a frontend. Its region has to be read as one word, before and after the rest; where the two differ,
    /// the check of the one that is returned must be wrong.
    fn service(&self, frontend: &K) -> Option<Service>;
    /// One slot; `None` beyond the end.
    fn slot(&self, index: u32) -> Option<S>;
    /// Who connects. Asked for only where a frontend makes a difference between clients.
    fn caller(&self) -> Caller;
    /// An evenly spread number: [`fresh`] for another choice each time, [`stable`] for the same choice as long as the
    /// backends stay, a hash of the flow for a Maglev table.
    fn draw(&self, traits: Traits) -> u32;
    /// Seconds since the machine started.
    fn now(&self) -> u32;
    /// The backend that a client keeps to.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// Lets a client keep to a backend from now on.
    fn keep(&self, key: &AffinityKey, affinity: &Affinity);
    /// Whether a client may keep to a backend.
    fn is_member(&self, member: &Member) -> bool;
    /// Whether an address, IPv4 ones mapped, is in one of the source ranges of the Service port `id`.
    fn allows(&self, id: u32, source: &[u32; 4]) -> bool;
}

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whether it is in the node's own network namespace.
    pub is_node: bool,
    /// The address that it is heard from, IPv4 ones mapped, if that is known.
    pub address: Option<[u32; 4]>,
    /// What tells it from other clients: its address, or the cookie of its network namespace.
    pub identity: [u32; 4],
}

/// A key of `svc4` or `svc6`.
pub trait Frontend {
    /// Sixteen bits that tell this frontend from others, kept in its [`Region`].
    fn check(&self) -> u16;
}

/// A value of `slots4` or `slots6`.
pub trait Slot {
    /// The backend that it holds.
    fn peer(&self) -> Peer;
}

/// What becomes of a new connection or datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The address is no Service's: it goes where it wants to go.
    NotAService,
    /// A Service without a backend.
    Refused {
        /// Id of the Service port.
        id: u32,
    },
    /// A Service that has backends, but not for this client.
    Dropped {
        /// Id of the Service port.
        id: u32,
        /// Why not.
        why: Drop,
    },
    /// A backend.
    Backend {
        /// Id of the Service port.
        id: u32,
        /// The chosen backend.
        backend: Peer,
        /// Traits of the frontend.
        traits: Traits,
    },
}

/// Why a client gets none of the backends that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// The policy is `Local` and no backend is on this node.
    NoLocalBackend,
    /// Its address is in none of the Service's source ranges.
    NotAllowed,
}

/// A [`Choice`] with every field of each, zero where it has none. A program that goes on with all kinds of them may have
/// to copy a field before it knows the kind, and the kernel takes no copy of what was never written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which choice.
    pub outcome: Outcome,
    /// Id of the Service port.
    pub id: u32,
    /// The chosen backend.
    pub backend: Peer,
    /// Traits of the frontend.
    pub traits: Traits,
}

/// Which [`Choice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// [`Choice::NotAService`].
    NotAService,
    /// [`Choice::Refused`].
    Refused,
    /// [`Drop::NoLocalBackend`].
    NoLocalBackend,
    /// [`Drop::NotAllowed`].
    NotAllowed,
    /// [`Choice::Backend`].
    Backend,
}

impl Decision {
    const fn without_backend(outcome: Outcome, id: u32) -> Self {
        Self {
            outcome,
            id,
            backend: Peer::v6([0; 4], 0),
            traits: Traits::NONE,
        }
    }

    const fn on(backend: Peer, id: u32, traits: Traits) -> Self {
        Self {
            outcome: Outcome::Backend,
            id,
            backend,
            traits,
        }
    }
}

/// Chooses a backend.
#[inline(always)]
pub fn choose<K: Frontend, S: Slot>(world: &impl World<K, S>, frontend: &K) -> Choice {
    let Decision {
        outcome,
        id,
        backend,
        traits,
    } = decide(world, frontend);
    match outcome {
        Outcome::NotAService => Choice::NotAService,
        Outcome::Refused => Choice::Refused { id },
        Outcome::NoLocalBackend => Choice::Dropped {
            id,
            why: Drop::NoLocalBackend,
        },
        Outcome::NotAllowed => Choice::Dropped {
            id,
            why: Drop::NotAllowed,
        },
        Outcome::Backend => Choice::Backend { id, backend, traits },
    }
}

/// Chooses a backend.
#[inline(always)]
pub fn decide<K: Frontend, S: Slot>(world: &impl World<K, S>, frontend: &K) -> Decision {
    for _ in 0..ATTEMPTS {
        let Some(service) = world.service(frontend) else {
            return Decision::without_backend(Outcome::NotAService, 0);
        };
        if service.region.check() == frontend.check() {
            return pick(world, service);
        }
    }
    // The frontend is a Service's all right, though not one that can be read. A client that is refused tries again.
    Decision::without_backend(Outcome::Refused, 0)
}

#[inline(always)]
fn pick<K, S: Slot>(world: &impl World<K, S>, service: Service) -> Decision {
    let (id, traits) = (service.id, service.region.traits());
    if traits.has(Traits::NODE_ONLY.and(Traits::GUARDED).and(Traits::STICKY)) {
        let caller = world.caller();
        if traits.has(Traits::NODE_ONLY) && !caller.is_node {
            return Decision::without_backend(Outcome::NotAService, 0);
        }
        if traits.has(Traits::GUARDED) && !caller.address.is_some_and(|source| world.allows(id, &source)) {
            return Decision::without_backend(Outcome::NotAllowed, id);
        }
        if traits.has(Traits::STICKY) {
            return stick(world, service, &caller);
        }
    }
    drawn(world, service)
}

/// The backend that the client had before, if that is still one and the client was heard of lately; or another one, which
/// it keeps to from now on.
#[inline(always)]
fn stick<K, S: Slot>(world: &impl World<K, S>, service: Service, caller: &Caller) -> Decision {
    let (id, traits) = (service.id, service.region.traits());
    let (key, now) = (AffinityKey::new(caller.identity, id), world.now());
    if let Some(known) = world.affinity(&key)
        && now.wrapping_sub(known.last) <= service.affinity
    {
        let backend = known.backend();
        if world.is_member(&Member::new(id, &backend, traits)) {
            if known.last != now {
                world.keep(&key, &Affinity::new(&backend, now));
            }
            return Decision::on(backend, id, traits);
        }
    }
    let decision = drawn(world, service);
    if matches!(decision.outcome, Outcome::Backend) {
        world.keep(&key, &Affinity::new(&decision.backend, now));
    }
    decision
}

#[inline(always)]
fn drawn<K, S: Slot>(world: &impl World<K, S>, service: Service) -> Decision {
    let (id, traits) = (service.id, service.region.traits());
    let slot = match service.region.count() {
        0 => None,
        _ => index(service.region, world.draw(traits)).and_then(|index| world.slot(index)),
    };
    match slot {
        Some(slot) => Decision::on(slot.peer(), id, traits),
        None if traits.has(Traits::DROPS) => Decision::without_backend(Outcome::NoLocalBackend, id),
        None => Decision::without_backend(Outcome::Refused, id),
    }
}

/// The slot that a number falls on; `None` in an empty region.
#[inline(always)]
pub fn index(region: Region, draw: u32) -> Option<u32> {
    if region.count() == 0 {
        return None;
    }
    // The upper word of the product is spread like the number, without a division.
    let offset = (u64::from(draw) * u64::from(region.count())) >> 32;
    Some(region.base().wrapping_add(offset as u32))
}

/// An evenly spread number of a socket's cookie. Cookies count upwards; a multiple of the golden ratio spreads any run of
/// them evenly, so that many sockets use all backends alike.
#[inline(always)]
pub fn stable(cookie: u64) -> u32 {
    (cookie.wrapping_mul(GOLDEN) >> 32) as u32
}

/// An evenly spread number of a socket's cookie that is another one at another time, for a socket that connects again
/// where nobody answered. It spreads like the kernel's random numbers and costs a few instructions instead of a call.
/// Sockets of one client may be any regular choice of all that are made; each bit of a cookie therefore changes every bit
/// of the number (the last steps of MurmurHash3).
#[inline(always)]
pub fn fresh(cookie: u64, tick: u64) -> u32 {
    let mut word = cookie ^ tick.rotate_left(32);
    word = (word ^ word >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    word = (word ^ word >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (word >> 32) as u32
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Frontend for Frontend4 {
    #[inline(always)]
    fn check(&self) -> u16 {
        let word = u64::from_ne_bytes(self.to_bytes());
        (word.wrapping_mul(GOLDEN) >> 48) as u16
    }
}

impl Frontend for Frontend6 {
    #[inline(always)]
    fn check(&self) -> u16 {
        let [a, b, c, d] = self.wire_address();
        let upper = u64::from(a) << 32 | u64::from(b);
        let lower = u64::from(c) << 32 | u64::from(d);
        let scope = u64::from(self.is_from_outside()) << 24;
        let rest = scope | u64::from(self.port()) << 8 | u64::from(self.protocol());
        let mixed = (upper.wrapping_mul(GOLDEN) ^ lower).wrapping_mul(GOLDEN) ^ rest;
        (mixed.wrapping_mul(GOLDEN) >> 48) as u16
    }
}

impl Slot for Slot4 {
    #[inline(always)]
    fn peer(&self) -> Peer {
        Peer::v4(self.address, self.port)
    }
}

impl Slot for Slot6 {
    #[inline(always)]
    fn peer(&self) -> Peer {
        Peer::v6(self.address, self.port)
    }
}

#[cfg(test)]
mod tests;
