//! The choice of a backend for a socket: the kernel's maps as the pure choice sees them.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::programs::SockAddrContext;
use ebpf_common::lookup::{Caller, Choice, Drop, World, choose, stable};
use ebpf_common::maps::{Affinity, AffinityKey, Frontend4, Frontend6, Member, Service, Slot4, Slot6, Traits};

use crate::maps;
use crate::socket::{self, Address};

/// How a socket draws among backends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Draw {
    /// Anew each time.
    Random,
    /// The same as long as the backends stay: one conversation of datagrams.
    Stable,
}

struct Asking<'a> {
    context: &'a SockAddrContext,
    draw: Draw,
}

/// The choice for an address of either family.
#[inline(always)]
pub(crate) fn choice(context: &SockAddrContext, address: Address, protocol: u8, draw: Draw) -> Choice {
    let asking = Asking { context, draw };
    let port = socket::port(context);
    match address {
        Address::V4(word) => choose(&asking, &Frontend4::from_wire(word, port, protocol)),
        Address::V6(words) => choose(&asking, &Frontend6::from_wire(words, port, protocol)),
    }
}

/// Counts why there is no backend and fails the caller's system call.
#[inline(always)]
pub(crate) fn turn_away(id: u32, why: Option<Drop>) -> i32 {
    maps::count(id, |counters| match why {
        None => counters.refused += 1,
        Some(Drop::NoLocalBackend) => counters.no_local += 1,
        Some(Drop::NotAllowed) => counters.not_allowed += 1,
    });
    match why {
        None => socket::refuse(),
        Some(_) => socket::time_out(),
    }
}

impl Asking<'_> {
    #[inline(always)]
    fn caller(&self, is_v6: bool) -> Caller {
        let cookie = socket::namespace(self.context);
        let known = maps::client(cookie);
        let address = known.and_then(|client| if is_v6 { client.address6() } else { client.address4() });
        // Nobody has an address of ::/64.
        let nameless = [0, u32::from(is_v6), (cookie >> 32) as u32, cookie as u32];
        Caller {
            is_node: known.is_some_and(|client| client.is_node()),
            address,
            identity: address.unwrap_or(nameless),
        }
    }

    #[inline(always)]
    fn number(&self) -> u32 {
        match self.draw {
            // SAFETY: the helper takes nothing and always answers.
            Draw::Random => unsafe { bpf_get_prandom_u32() },
            Draw::Stable => stable(socket::cookie(self.context)),
        }
    }
}

macro_rules! world {
    ($key:ty, $slot:ty, $service:path, $read:path, $is_v6:literal) => {
        impl World<$key, $slot> for Asking<'_> {
            #[inline(always)]
            fn service(&self, frontend: &$key) -> Option<Service> {
                $service(frontend)
            }

            #[inline(always)]
            fn slot(&self, index: u32) -> Option<$slot> {
                $read(index)
            }

            #[inline(always)]
            fn caller(&self) -> Caller {
                Asking::caller(self, $is_v6)
            }

            #[inline(always)]
            fn draw(&self, _: Traits) -> u32 {
                self.number()
            }

            #[inline(always)]
            fn now(&self) -> u32 {
                maps::now()
            }

            #[inline(always)]
            fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
                maps::affinity(key)
            }

            #[inline(always)]
            fn keep(&self, key: &AffinityKey, affinity: &Affinity) {
                maps::keep(key, affinity);
            }

            #[inline(always)]
            fn is_member(&self, member: &Member) -> bool {
                maps::is_member(member)
            }

            #[inline(always)]
            fn allows(&self, id: u32, source: &[u32; 4]) -> bool {
                maps::allows(id, source)
            }
        }
    };
}

world!(Frontend4, Slot4, maps::service4, maps::slot4, false);
world!(Frontend6, Slot6, maps::service6, maps::slot6, true);
