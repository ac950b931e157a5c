//! sendto(2) and recvfrom(2) of datagrams: a Service address becomes a backend on the way out, and the backend becomes the
//! Service on the way in. A socket keeps to one backend of a Service as long as the backends stay.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ebpf_common::lookup::Choice;
use ebpf_common::maps::UDP;
use ebpf_common::record::{Peer, ReplyKey, ReplyValue, SocketRecord};

use crate::choice::{Draw, choice, turn_away};
use crate::maps::{REPLIES, count};
use crate::socket::{self, Family, PROCEED};

#[cgroup_sock_addr(sendmsg4)]
fn service_sendmsg4(context: SockAddrContext) -> i32 {
    send(&context, Family::V4)
}

#[cgroup_sock_addr(sendmsg6)]
fn service_sendmsg6(context: SockAddrContext) -> i32 {
    send(&context, Family::V6)
}

#[cgroup_sock_addr(recvmsg4)]
fn service_recvmsg4(context: SockAddrContext) -> i32 {
    receive(&context, Family::V4)
}

#[cgroup_sock_addr(recvmsg6)]
fn service_recvmsg6(context: SockAddrContext) -> i32 {
    receive(&context, Family::V6)
}

#[inline(always)]
fn send(context: &SockAddrContext, family: Family) -> i32 {
    match choice(context, socket::address(context, family), UDP, Draw::Stable) {
        Choice::NotAService => {
            if socket::record(context).is_some_and(|record| record.sends()) {
                forget_reply(context, &socket::peer(context, family));
            }
            PROCEED
        }
        Choice::Refused { id } => turn_away(id, None),
        Choice::Dropped { id, why } => turn_away(id, Some(why)),
        Choice::Backend { id, backend, .. } => {
            let service = socket::peer(context, family);
            match connected_backend(context, &service) {
                Some(first) => socket::replace(context, family, &first),
                None => {
                    expect_reply(context, &service, &backend, id);
                    socket::replace(context, family, &backend);
                }
            }
            PROCEED
        }
    }
}

/// The backend of a socket that is connected to the Service it sends to: the only one whose replies it takes.
#[inline(always)]
fn connected_backend(context: &SockAddrContext, service: &Peer) -> Option<Peer> {
    if !socket::is_connected(context) {
        return None;
    }
    socket::record(context)?.backend_of(service)
}

/// Notes what a reply of `backend` has to look like, once for each socket and backend.
#[inline(always)]
fn expect_reply(context: &SockAddrContext, service: &Peer, backend: &Peer, id: u32) {
    let key = ReplyKey::new(socket::cookie(context), backend);
    let value = ReplyValue::new(service);
    // SAFETY: the value is compared at once; if it changes meanwhile, it is written again.
    if unsafe { REPLIES.get(key) } == Some(&value) {
        return;
    }
    if let Some(record) = socket::record_or(context, SocketRecord::sending()) {
        record.set_sends();
    }
    // A full table gives up its least recently used entry; a failure leaves the reply with the backend's address.
    let _ = REPLIES.insert(key, value, 0);
    count(id, |counters| counters.forwarded += 1);
}

/// A socket that now sends to a backend by the backend's own address expects replies from that address.
#[inline(always)]
pub(crate) fn forget_reply(context: &SockAddrContext, peer: &Peer) {
    // No entry is the usual case.
    let _ = REPLIES.remove(ReplyKey::new(socket::cookie(context), peer));
}

#[inline(always)]
fn receive(context: &SockAddrContext, family: Family) -> i32 {
    let Some(record) = socket::record(context) else {
        return PROCEED;
    };
    let peer = socket::peer(context, family);
    if let Some(service) = record.service_of(&peer) {
        socket::replace(context, family, &service);
    } else if record.sends() {
        restore(context, family, &peer);
    }
    PROCEED
}

#[inline(always)]
fn restore(context: &SockAddrContext, family: Family, peer: &Peer) {
    let key = ReplyKey::new(socket::cookie(context), peer);
    // SAFETY: the value is copied at once; only this socket's own sends replace it.
    if let Some(value) = unsafe { REPLIES.get(key) } {
        socket::replace(context, family, &value.service());
    }
}
