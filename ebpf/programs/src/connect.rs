//! connect(2): a Service address becomes a backend, and the socket's record keeps both.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ebpf_common::lookup::Choice;
use ebpf_common::maps::TCP;
use ebpf_common::record::SocketRecord;

use crate::choice::{Draw, choice, turn_away};
use crate::datagram::forget_reply;
use crate::maps::count;
use crate::socket::{self, Family, PROCEED};

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
    match choice(context, socket::address(context, family), protocol, Draw::Random) {
        Choice::NotAService => {
            forget_service(context, family, protocol);
            PROCEED
        }
        Choice::Refused { id } => turn_away(id, None),
        Choice::Dropped { id, why } => turn_away(id, Some(why)),
        Choice::Backend { id, backend, .. } => {
            let record = SocketRecord::connected(socket::peer(context, family), backend);
            if protocol != TCP || !socket::keep_stream(context, record) {
                remember(context, record);
            }
            socket::replace(context, family, &backend);
            count(id, |counters| counters.forwarded += 1);
            PROCEED
        }
    }
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
fn forget_service(context: &SockAddrContext, family: Family, protocol: u8) {
    if protocol == TCP
        && let Some(record) = socket::stream(context)
    {
        record.disconnect();
    }
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
