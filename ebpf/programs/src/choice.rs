//! The choice of a backend for a socket.

use aya_ebpf::programs::SockAddrContext;
use ebpf_common::lookup::{Caller, Choice, Drop, choose, stable};
use ebpf_common::maps::{Frontend4, Frontend6, Traits};

use crate::maps;
use crate::socket::{self, Address};
use crate::world::{Asker, Maps};

/// How a socket draws among backends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Draw {
    /// By this number, another one each time.
    By(u32),
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
        Address::V4(word) => choose(&Maps(&asking), &Frontend4::from_wire(word, port, protocol)),
        Address::V6(words) => choose(&Maps(&asking), &Frontend6::from_wire(words, port, protocol)),
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

impl Asker for Asking<'_> {
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
    fn draw(&self, _: Traits) -> u32 {
        match self.draw {
            Draw::By(number) => number,
            Draw::Stable => stable(socket::cookie(self.context)),
        }
    }
}
