//! SCTP of processes of the node itself, whose sockets meet no hook of the cgroup: at `lo`, by which it comes in for an
//! address of the node, and by a route of the agent's for any other address of a Service.
//!
//! A request is met twice, the first of a flow three times. At first it has a route, to the Service's address, and gets a
//! backend; without that route it comes in by `lo` once more, and goes on to the backend. An answer comes in by the link of the
//! backend, whose program has it come in by `lo`, and gets back the Service's address here.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_fib_lookup as Lookup;
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect_neigh};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ebpf_common::flow::{Entry, Flow, Role, Seen, Tuple, Way};
use ebpf_common::lookup::{Caller, Decision, decide};
use ebpf_common::maps::{Frontend4, Frontend6, MAPPED, SCTP, Traits};
use ebpf_common::record::Peer;

use crate::flows::{
    DROP, OVER, PASS, backend_of, begun, done, forget, is_one, mask, node_address, put, stands, to_node, unreadable,
};
use crate::maps::{self, FLOWS};
use crate::packet::{self, Error, Found, Packet};
use crate::world::{Asker, Maps};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_FIB_LKUP_RET_SUCCESS`, `BPF_FIB_LKUP_RET_NO_NEIGH`.
const FOUND: i64 = 0;
const NO_NEIGHBOUR: i64 = 7;

/// Sees what comes in by `lo`.
#[classifier]
fn node_arriving(context: TcContext) -> i32 {
    match packet::read(&context, Way::Arriving, |protocol| protocol == SCTP) {
        Found::Transport(packet) => arrive(&context, &packet),
        Found::Error(error) => explain(&context, &error),
        Found::Other => PASS,
        Found::Unreadable => unreadable(),
    }
}

#[inline(always)]
fn arrive(context: &TcContext, packet: &Packet) -> i32 {
    let Some(entry) = seen(packet) else {
        if is_on_its_way(&packet.tuple) {
            return send(context, packet);
        }
        // What has begun is seen when it comes in again. The verifier would go through the translation once more here.
        return match begin(packet) {
            Ok(()) => to_node(context),
            Err(verdict) => verdict,
        };
    };
    let translated = packet.rewrite_both(context, &entry.source_becomes(), &entry.becomes());
    match entry.role() {
        Role::NodeRequest if translated.is_some() => ask(context, packet),
        _ => done(translated),
    }
}

/// A backend that knew other addresses of the node would try them, and the node would tell it that it knows nothing of that.
/// They are hidden last of all: what stood behind it the verifier would go through for each of them.
#[inline(always)]
fn ask(context: &TcContext, packet: &Packet) -> i32 {
    if packet.is_opening() && packet.hide_addresses(context).is_none() {
        return DROP;
    }
    to_node(context)
}

/// The entry of a known flow of the node. A client that opens an association where the last one was closed begins a new
/// flow; not where it was refused, as what has just begun looks so, too.
#[inline(always)]
fn seen(packet: &Packet) -> Option<Entry> {
    let entry = FLOWS.get_ptr_mut(packet.tuple)?;
    // SAFETY: as in `flows::known`.
    let entry = unsafe { &mut *entry };
    match entry.role() {
        Role::NodeRequest if packet.is_opening() && entry.seen().has(OVER) => return None,
        Role::NodeRequest | Role::ReplyToNode => {}
        _ => return None,
    }
    entry.note(Seen::of(packet.flags), maps::now());
    Some(*entry)
}

/// Whether it is a request that has its backend.
#[inline(always)]
fn is_on_its_way(packet: &Tuple) -> bool {
    let answer = FLOWS.get_ptr(packet.answer(Way::Arriving));
    // SAFETY: a lookup returned the pointer.
    answer.is_some_and(|entry| matches!(unsafe { (*entry).role() }, Role::ReplyToNode))
}

/// To the link that leads to the backend. What is for the node itself, has no way, or is too large for it is the kernel's,
/// which says so to the sender.
#[inline(always)]
fn send(context: &TcContext, packet: &Packet) -> i32 {
    let mut lookup = question(packet);
    let length = size_of::<Lookup>() as i32;
    // SAFETY: the context is this call's own, and the kernel writes at most `length` bytes to `lookup`.
    let answer = unsafe { bpf_fib_lookup(context.as_ptr(), (&raw mut lookup).cast(), length, 0) };
    if !matches!(answer, FOUND | NO_NEIGHBOUR) {
        return PASS;
    }
    // SAFETY: the helper takes numbers, and no next hop: the kernel finds it.
    let verdict = unsafe { bpf_redirect_neigh(lookup.ifindex, core::ptr::null_mut(), 0, 0) };
    verdict as i32
}

#[inline(always)]
fn question(packet: &Packet) -> Lookup {
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut lookup: Lookup = unsafe { core::mem::zeroed() };
    let (from, to) = (&packet.tuple.source, &packet.tuple.destination);
    lookup.ifindex = crate::flows::LOOPBACK;
    if packet.is_v6() {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = *from;
        lookup.__bindgen_anon_4.ipv6_dst = *to;
    } else {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = from[3];
        lookup.__bindgen_anon_4.ipv4_dst = to[3];
    }
    lookup
}

/// Begins a flow, if it is for a Service.
#[inline(always)]
fn begin(packet: &Packet) -> Result<(), i32> {
    let decision = decision(packet);
    let backend = backend_of(packet, &decision)?;
    let asked = packet.tuple.to();
    // A backend that is asked by its own address has the packet already: translated, it would come in again for ever.
    if is_one(&backend.address, &asked.address) && backend.port == asked.port {
        return Err(PASS);
    }
    begun(remember(packet, &backend, decision.id), &backend, decision.id)
}

/// Remembers a new flow. `None` when there is no room for it.
#[inline(always)]
fn remember(packet: &Packet, backend: &Peer, id: u32) -> Option<()> {
    let now = maps::now();
    let mut flow = Flow::of_node(&packet.tuple, backend, id);
    if is_loopback(&packet.tuple.source) {
        flow.mask = mask(&mut flow, Role::ReplyToNode, node_address(packet)?, now)?;
    } else if !put_reply(&flow, now) {
        return None;
    }
    if put(&flow, Role::NodeRequest, now, true) {
        return Some(());
    }
    forget(&flow, Role::ReplyToNode);
    None
}

/// The entry for the replies, unless somebody else hears this backend there.
#[inline(always)]
fn put_reply(flow: &Flow, now: u32) -> bool {
    if let Some(entry) = FLOWS.get_ptr(flow.key(Role::ReplyToNode)) {
        // SAFETY: a lookup returned the pointer.
        let entry: Entry = unsafe { *entry };
        let is_same = matches!(entry.role(), Role::ReplyToNode) && entry.source_becomes() == flow.service;
        if !is_same && stands(&entry, now) {
            return false;
        }
    }
    put(flow, Role::ReplyToNode, now, true)
}

/// An ICMP error about a request, told in the name of the Service.
#[inline(always)]
fn explain(context: &TcContext, error: &Error) -> i32 {
    let Some(entry) = FLOWS.get_ptr(error.key(Way::Arriving)) else {
        return PASS;
    };
    // SAFETY: a lookup returned the pointer; what an entry says of addresses does not change.
    let entry: Entry = unsafe { *entry };
    if !matches!(entry.role(), Role::ReplyToNode) {
        return PASS;
    }
    let client = error.rewrite(context, Way::Arriving, &entry.becomes());
    done(client.and_then(|()| error.rewrite(context, Way::Leaving, &entry.source_becomes())))
}

#[inline(always)]
fn is_loopback([a, b, c, d]: &[u32; 4]) -> bool {
    const ONE: u32 = 1_u32.to_be();
    let is_mapped = (a ^ MAPPED[0]) | (b ^ MAPPED[1]) | (c ^ MAPPED[2]) == 0;
    is_mapped && u32::from_be(*d) >> 24 == 127 || a | b | c | (d ^ ONE) == 0
}

#[inline(always)]
fn decision(packet: &Packet) -> Decision {
    let (to, protocol) = (packet.tuple.to(), packet.tuple.protocol());
    let node = Node(packet);
    if packet.is_v6() {
        decide(&Maps(&node), &Frontend6::from_wire(to.address, to.port, protocol))
    } else {
        decide(&Maps(&node), &Frontend4::from_wire(to.address[3], to.port, protocol))
    }
}

/// A packet of a process of the node.
struct Node<'a>(&'a Packet);

impl Asker for Node<'_> {
    #[inline(always)]
    fn caller(&self, _: bool) -> Caller {
        let address = node_address(self.0);
        Caller {
            is_node: true,
            address,
            identity: address.unwrap_or(self.0.tuple.source),
        }
    }

    #[inline(always)]
    fn draw(&self, traits: Traits) -> u32 {
        self.0.draw(traits)
    }
}
