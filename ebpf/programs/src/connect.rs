//! connect(2): a Service address becomes a backend, and the socket's record keeps both.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ebpf_common::lookup::{Choice, choose};
use ebpf_common::maps::{Frontend4, Frontend6, Peer, SocketRecord};

use crate::datagram::forget_reply;
use crate::maps::{Kernel, count};
use crate::socket::{self, Address, Family, PROCEED};

#[cgroup_sock_addr(connect4)]
fn service_connect4(context: SockAddrContext) -> i32 {
    connect(&context, Family::V4)
}

#[cgroup_sock_addr(connect6)]
fn service_connect6(context: SockAddrContext) -> i32 {
    connect(&context, Family::V6)
}

#[inline(always)]
fn connect(context: &SockAddrContext, family: Family) -> i32 {
    let Some(protocol) = socket::protocol(context) else {
        return PROCEED;
    };
    match choice(
        socket::address(context, family),
        socket::port(context),
        protocol,
        random,
    ) {
        Choice::NotAService => {
            forget_service(context, family);
            PROCEED
        }
        Choice::Refused { id } => {
            count(id, |counters| counters.refused += 1);
            socket::refuse()
        }
        Choice::Backend { id, slot } => {
            remember(context, SocketRecord::connected(socket::peer(context, family), slot));
            socket::replace(context, family, &slot);
            count(id, |counters| counters.forwarded += 1);
            PROCEED
        }
    }
}

/// The choice for an address of either family.
#[inline(always)]
pub(crate) fn choice(address: Address, port: u16, protocol: u8, draw: impl Fn() -> u32) -> Choice<Peer> {
    match address {
        Address::V4(word) => {
            let choice = choose(&Kernel, &Frontend4::from_wire(word, port, protocol), draw);
            choice.map(|slot| Peer::v4(slot.address, slot.port))
        }
        Address::V6(words) => {
            let choice = choose(&Kernel, &Frontend6::from_wire(words, port, protocol), draw);
            choice.map(|slot| Peer::v6(slot.address, slot.port))
        }
    }
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: the helper takes nothing and always answers.
    unsafe { bpf_get_prandom_u32() }
}

#[inline(always)]
fn remember(context: &SockAddrContext, record: SocketRecord) {
    if let Some(kept) = socket::record_or(context, record) {
        let sends = kept.sends();
        *kept = record;
        if sends {
            kept.set_sends();
        }
    }
}

/// A socket that connects to a backend by the backend's own address is told that address from now on. Whatever else its
/// record says is told from other peers, and stays true if this connect fails.
#[inline(always)]
fn forget_service(context: &SockAddrContext, family: Family) {
    let Some(record) = socket::record(context) else {
        return;
    };
    let peer = socket::peer(context, family);
    if record.sends() {
        forget_reply(context, &peer);
    }
    if record.service_of(&peer).is_some() {
        record.disconnect();
    }
}
