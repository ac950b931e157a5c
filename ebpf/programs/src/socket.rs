//! The socket a hook was called for: the address in the call, its protocol, its record.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use ebpf_common::maps::{MAPPED, TCP, UDP};
use ebpf_common::record::{Peer, SocketRecord};

use crate::maps::SOCKETS;

/// Verdict of a hook: go on.
pub(crate) const PROCEED: i32 = 1;
const REFUSE: i32 = 0;
const EADDRINUSE: i32 = 98;
const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;
const MPTCP: u32 = 262;
/// `TCP_ESTABLISHED` of the kernel, which is also the state of a connected UDP socket.
const ESTABLISHED: u32 = 1;

/// Fails the caller's system call with ECONNREFUSED: nobody is there.
#[inline(always)]
pub(crate) fn refuse() -> i32 {
    fail(ECONNREFUSED)
}

/// Fails the caller's system call with ETIMEDOUT, which is what a connection ends with whose packets are dropped; there
/// is no need to wait for it.
#[inline(always)]
pub(crate) fn time_out() -> i32 {
    fail(ETIMEDOUT)
}

/// Fails the caller's system call with EADDRINUSE.
#[inline(always)]
pub(crate) fn in_use() -> i32 {
    fail(EADDRINUSE)
}

#[inline(always)]
fn fail(errno: i32) -> i32 {
    // SAFETY: the helper takes a plain number and is allowed in this kind of program since Linux 5.18. If it fails, the
    // kernel answers EPERM.
    unsafe { bpf_set_retval(-errno) };
    REFUSE
}

/// The protocol as Services know it.
#[inline(always)]
pub(crate) fn protocol(context: &SockAddrContext) -> Option<u8> {
    named(number(context))
}

/// Whether the socket is a TCP one, of those that have a [`protocol`]. Asked for anew where it is needed, so that the verifier
/// need not go through what lies between once for each answer.
#[inline(always)]
pub(crate) fn is_stream(context: &SockAddrContext) -> bool {
    number(context) != u32::from(UDP)
}

#[inline(always)]
fn number(context: &SockAddrContext) -> u32 {
    // SAFETY: the kernel passes a valid context. Volatile, so that each reading is one.
    unsafe { (&raw const (*context.sock_addr).protocol).read_volatile() }
}

/// The protocol that a socket's number stands for.
#[inline(always)]
pub(crate) fn named(number: u32) -> Option<u8> {
    match number {
        number if number == u32::from(TCP) || number == MPTCP => Some(TCP),
        number if number == u32::from(UDP) => Some(UDP),
        _ => None,
    }
}

/// The address in the caller's system call, of either family. An IPv4 address in an IPv6 socket is an IPv4 one.
#[derive(Clone, Copy)]
pub(crate) enum Address {
    V4(u32),
    V6([u32; 4]),
}

/// Which hook of a pair was called; it tells where in the context the address is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

#[inline(always)]
pub(crate) fn address(context: &SockAddrContext, family: Family) -> Address {
    let call = context.sock_addr;
    match family {
        Family::V4 => Address::V4(word4(call)),
        Family::V6 => {
            let words = words6(call);
            if [words[0], words[1], words[2]] == MAPPED {
                Address::V4(words[3])
            } else {
                Address::V6(words)
            }
        }
    }
}

#[inline(always)]
pub(crate) fn port(context: &SockAddrContext) -> u16 {
    // SAFETY: the kernel passes a valid context.
    unsafe { (*context.sock_addr).user_port as u16 }
}

/// Address and port of the caller's system call.
#[inline(always)]
pub(crate) fn peer(context: &SockAddrContext, family: Family) -> Peer {
    address(context, family).with_port(port(context))
}

impl Address {
    #[inline(always)]
    pub(crate) fn with_port(self, port: u16) -> Peer {
        match self {
            Address::V4(word) => Peer::v4(word, port),
            Address::V6(words) => Peer::v6(words, port),
        }
    }
}

/// Puts another address of the same kind in the place of the one in the call.
#[inline(always)]
pub(crate) fn replace(context: &SockAddrContext, family: Family, peer: &Peer) {
    let call = context.sock_addr;
    match family {
        // SAFETY: the kernel passes a valid context, and these fields may be written in every hook that we attach to.
        Family::V4 => unsafe { (&raw mut (*call).user_ip4).write_volatile(peer.address[3]) },
        Family::V6 => write6(call, peer.address),
    }
    // SAFETY: as above.
    unsafe { (&raw mut (*call).user_port).write_volatile(u32::from(peer.port)) };
}

#[inline(always)]
fn word4(call: *const bpf_sock_addr) -> u32 {
    // SAFETY: the kernel passes a valid context. Volatile keeps the access one word wide, as the verifier asks.
    unsafe { (&raw const (*call).user_ip4).read_volatile() }
}

#[inline(always)]
fn words6(call: *const bpf_sock_addr) -> [u32; 4] {
    // SAFETY: the kernel passes a valid context.
    let words: *const u32 = unsafe { (&raw const (*call).user_ip6).cast() };
    // SAFETY: four words lie there. Volatile keeps each access one word wide, as the verifier asks.
    let word = |index: usize| unsafe { words.add(index).read_volatile() };
    [word(0), word(1), word(2), word(3)]
}

#[inline(always)]
fn write6(call: *mut bpf_sock_addr, address: [u32; 4]) {
    // SAFETY: the kernel passes a valid context.
    let words: *mut u32 = unsafe { (&raw mut (*call).user_ip6).cast() };
    // SAFETY: four words lie there. Volatile keeps each access one word wide, as the verifier asks.
    let write = |index: usize| unsafe { words.add(index).write_volatile(address[index]) };
    write(0);
    write(1);
    write(2);
    write(3);
}

/// The socket's cookie: unique among all sockets since boot.
#[inline(always)]
pub(crate) fn cookie(context: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the context of this kind of program.
    unsafe { bpf_get_socket_cookie(context.as_ptr()) }
}

/// The cookie of the socket's network namespace: unique among all namespaces since boot.
#[inline(always)]
pub(crate) fn namespace(context: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the context of this kind of program.
    unsafe { bpf_get_netns_cookie(context.as_ptr()) }
}

/// Whether a datagram socket is connected.
#[inline(always)]
pub(crate) fn is_connected(context: &SockAddrContext) -> bool {
    // SAFETY: the kernel passes a valid context with its socket.
    let socket = unsafe { (*context.sock_addr).__bindgen_anon_1.sk };
    // SAFETY: as above; the verifier checks the socket for null where it can be null.
    !socket.is_null() && unsafe { (*socket).state } == ESTABLISHED
}

/// The socket's record, if it has one.
#[inline(always)]
pub(crate) fn record(context: &SockAddrContext) -> Option<&mut SocketRecord> {
    // SAFETY: the kernel passes a valid context with its socket.
    let record = unsafe { SOCKETS.get_ptr_mut(context) };
    // SAFETY: the record lives as long as the socket, and the program runs on the socket's behalf. Two threads that
    // connect one socket at the same time may mix their records; then neither matches the peer.
    unsafe { record.as_mut() }
}

/// The socket's record, made of `fresh` if it has none. `None` when the kernel has no memory for it: the connection is
/// served, and its peer shows as the backend.
#[inline(always)]
pub(crate) fn record_or(context: &SockAddrContext, mut fresh: SocketRecord) -> Option<&mut SocketRecord> {
    // SAFETY: the kernel passes a valid context with its socket.
    let record = unsafe { SOCKETS.get_or_insert_ptr_mut(context, Some(&mut fresh)) };
    // SAFETY: as for `record`.
    unsafe { record.as_mut() }
}
