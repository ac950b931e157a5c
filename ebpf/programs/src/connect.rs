//! connect(2): a Service address becomes a backend, and the socket's record keeps both.

use aya_ebpf::helpers::bpf_jiffies64;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ebpf_common::lookup::{Choice, fresh};
use ebpf_common::record::{Peer, SocketRecord};
use ebpf_common::stream;

use crate::choice::{Draw, choice, turn_away};
use crate::datagram::forget_reply;
use crate::maps::{Streams, count};
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
    let cookie = socket::cookie(context);
    // SAFETY: the helper takes nothing and always answers.
    let number = fresh(cookie, unsafe { bpf_jiffies64() });
    let address = socket::address(context, family);
    let peer = address.with_port(socket::port(context));
    match choice(context, address, protocol, Draw::By(number)) {
        Choice::NotAService => {
            forget_service(context, &peer, cookie);
            PROCEED
        }
        Choice::Refused { id } => turn_away(id, None),
        Choice::Dropped { id, why } => turn_away(id, Some(why)),
        Choice::Backend { id, backend, .. } => {
            let record = SocketRecord::connected(peer, backend);
            if !socket::is_stream(context) || !stream::keep(&mut Streams, cookie, &record) {
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
        kept.connect(record);
    }
}

/// A socket that connects to a backend by the backend's own address is told that address from now on. Whatever else its
/// record says is told from other peers, and stays true if this connect fails.
#[inline(always)]
fn forget_service(context: &SockAddrContext, peer: &Peer, cookie: u64) {
    if socket::is_stream(context)
        && let Some(record) = stream::find(&mut Streams, cookie)
    {
        record.disconnect();
    }
    let Some(record) = socket::record(context) else {
        return;
    };
    if record.sends() {
        forget_reply(context, peer);
    }
    if record.service_of(peer).is_some() {
        record.disconnect();
    }
}
