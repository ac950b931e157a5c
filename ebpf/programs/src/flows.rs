//! Flows at links: how one begins, and what becomes of the packets of one that is known, whichever link they come by.

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_redirect};
use aya_ebpf::programs::TcContext;
use ebpf_common::flow::{Entry, Flow, MASK_ATTEMPTS, Role, Seen, Tuple, Way, mask_port};
use ebpf_common::lookup::{Caller, Decision, Outcome};
use ebpf_common::maps::{Counters, NODE, Traits};
use ebpf_common::record::Peer;

use crate::maps::{self, FLOWS};
use crate::packet::{self, Error, Packet};
use crate::world::Asker;

/// Go on to the next program, or to the kernel.
pub(crate) const PASS: i32 = TC_ACT_UNSPEC;
pub(crate) const DROP: i32 = TC_ACT_SHOT;
/// How long an answer to another Service's client stands in the way of a new flow, in seconds after its last packet.
const STANDS: u32 = 10;

/// What ends a connection.
pub(crate) const OVER: Seen = Seen::FIN.and(Seen::RST);
/// Index of `lo` in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// Whom a backend sees in the client's place.
pub(crate) enum Sight {
    /// The client itself.
    Client,
    /// The client, whom it answers without this node: requests carry the Service there.
    Direct,
    /// The node.
    Node,
}

/// What can't be read may be meant for anybody, the node itself included: the kernel sorts it out.
#[inline(always)]
pub(crate) fn unreadable() -> i32 {
    maps::count(0, |counters| counters.unreadable += 1);
    PASS
}

/// Whom a packet of no known flow gets to, or what becomes of it otherwise.
#[inline(always)]
pub(crate) fn fresh(packet: &Packet, decision: &Decision, sight: impl Fn(&Peer, Traits) -> Sight) -> Result<Peer, i32> {
    let backend = backend_of(packet, decision)?;
    let sight = match decision.outcome {
        Outcome::Backend => sight(&backend, decision.traits),
        _ => Sight::Client,
    };
    begun(begin(packet, &backend, decision.id, sight), &backend, decision.id)
}

/// Who is to answer for a decision; or what becomes of the packet without anybody.
#[inline(always)]
pub(crate) fn backend_of(packet: &Packet, decision: &Decision) -> Result<Peer, i32> {
    match decision.outcome {
        Outcome::NotAService => Err(PASS),
        Outcome::NoLocalBackend | Outcome::NotAllowed => Err(dropped(decision)),
        Outcome::Refused => {
            maps::count(decision.id, |counters| counters.refused += 1);
            // The kernel refuses what comes for a port that nobody can have, in the name of the Service.
            let address = node_address(packet).ok_or(DROP)?;
            Ok(Peer::v6(address, 0))
        }
        Outcome::Backend => Ok(decision.backend),
    }
}

/// Counts a flow that has begun, or that there was no room for.
#[inline(always)]
pub(crate) fn begun<T>(flow: Option<T>, backend: &Peer, id: u32) -> Result<T, i32> {
    let Some(flow) = flow else {
        maps::count(id, |counters| counters.no_room += 1);
        return Err(DROP);
    };
    if backend.port != 0 {
        maps::count(id, |counters| counters.forwarded += 1);
    }
    Ok(flow)
}

/// Whether two addresses are one, without a branch for each word: older kernels follow every branch on its own.
#[inline(always)]
pub(crate) fn is_one([a, b, c, d]: &[u32; 4], [e, f, g, h]: &[u32; 4]) -> bool {
    (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
}

/// A half-written packet goes nowhere.
#[inline(always)]
pub(crate) fn done(written: Option<()>) -> i32 {
    if written.is_some() { PASS } else { DROP }
}

#[inline(always)]
fn dropped(decision: &Decision) -> i32 {
    maps::count(decision.id, |counters: &mut Counters| {
        if matches!(decision.outcome, Outcome::NotAllowed) {
            counters.not_allowed += 1;
        } else {
            counters.no_local += 1;
        }
    });
    DROP
}

/// What becomes of a packet of a flow that is known. A client that opens a connection where the last one was closed begins
/// a new flow.
#[inline(always)]
pub(crate) fn known(key: &Tuple, packet: &Packet) -> Option<(Peer, Role)> {
    let entry = FLOWS.get_ptr_mut(key)?;
    // SAFETY: a lookup returned the pointer. Packets of one flow on two CPUs may each forget what the other has seen;
    // the next packet shows it again.
    let entry = unsafe { &mut *entry };
    if packet.is_opening() && matches!(entry.role(), Role::Request) && is_over(entry) {
        return None;
    }
    entry.note(Seen::of(packet.flags), maps::now());
    Some((entry.becomes(), entry.role()))
}

/// Whether who opens a connection once more, from the same port, gets a backend anew: the last one was closed, or refused.
#[inline(always)]
fn is_over(entry: &Entry) -> bool {
    entry.seen().has(OVER) || entry.becomes().port == 0
}

/// An ICMP error about a packet of a known flow, translated both ways as the packet was, if the entry for it is one that
/// holds here.
#[inline(always)]
pub(crate) fn explain(context: &TcContext, error: &Error, way: Way, holds: impl Fn(&Tuple, Role) -> bool) -> i32 {
    let key = error.key(way);
    let Some(entry) = FLOWS.get_ptr(key) else {
        return PASS;
    };
    // SAFETY: a lookup returned the pointer; the address of an entry does not change.
    let (becomes, role) = unsafe { ((*entry).becomes(), (*entry).role()) };
    if !holds(&key, role) {
        return PASS;
    }
    if matches!(role, Role::ReplyToNode) {
        return to_node(context);
    }
    done(error.rewrite(context, way, &becomes))
}

/// Remembers a new flow. `None` when there is no room for it.
#[inline(always)]
fn begin(packet: &Packet, backend: &Peer, id: u32, sight: Sight) -> Option<Peer> {
    let now = maps::now();
    let mut flow = Flow::new(&packet.tuple, backend, id);
    let mut leaving = Role::MaskedRequest;
    match sight {
        Sight::Client => {}
        Sight::Direct => {
            flow.mask = flow.service;
            leaving = Role::CarryingRequest;
        }
        Sight::Node => {
            if let Some(address) = node_address(packet) {
                flow.mask = mask(&mut flow, Role::ReplyToMask, address, now)?;
            }
        }
    }
    let leaves = flow.mask.port != 0;
    if !put_reply(&flow, now) {
        if leaves {
            forget(&flow, Role::ReplyToMask);
        }
        return None;
    }
    if put(&flow, Role::Request, now, true) && (!leaves || put(&flow, leaving, now, true)) {
        // The first packet counts: TCP's opening is what its lifetime begins with.
        return known_request(&flow, packet, now);
    }
    forget(&flow, Role::Reply);
    forget(&flow, Role::Request);
    if leaves {
        forget(&flow, Role::ReplyToMask);
    }
    None
}

/// Has a packet come in by `lo`, whose program has it for a process of the node, as one that nobody has routed yet.
#[inline(always)]
pub(crate) fn to_node(context: &TcContext) -> i32 {
    // What is for the hardware address of another link is for somebody else there; `lo` has none.
    if packet::store(context.skb.skb, 0, &[0_u16; 3]).is_none() {
        return DROP;
    }
    // SAFETY: the helper takes numbers only.
    let verdict = unsafe { bpf_redirect(LOOPBACK, u64::from(BPF_F_INGRESS)) };
    verdict as i32
}

#[inline(always)]
pub(crate) fn forget(flow: &Flow, role: Role) {
    // What was not put is not there.
    let _ = FLOWS.remove(flow.key(role));
}

#[inline(always)]
fn known_request(flow: &Flow, packet: &Packet, now: u32) -> Option<Peer> {
    if let Some(entry) = FLOWS.get_ptr_mut(flow.key(Role::Request)) {
        // SAFETY: as in `known`.
        unsafe { (*entry).note(Seen::of(packet.flags), now) };
    }
    Some(flow.backend)
}

/// A source port of the node that no other flow has towards this backend. The entry for the replies is made at once, so
/// that nobody else gets it.
#[inline(always)]
pub(crate) fn mask(flow: &mut Flow, replies: Role, address: [u32; 4], now: u32) -> Option<Peer> {
    for _ in 0..MASK_ATTEMPTS {
        flow.mask = Peer::v6(address, mask_port(random()));
        if put(flow, replies, now, false) {
            return Some(flow.mask);
        }
    }
    None
}

#[inline(always)]
pub(crate) fn put(flow: &Flow, role: Role, now: u32, replace: bool) -> bool {
    const NOEXIST: u64 = 1;
    let flags = if replace { 0 } else { NOEXIST };
    FLOWS.insert(flow.key(role), flow.entry(role, now), flags).is_ok()
}

/// The entry for the replies, unless a client talks to the same backend from the same port through another Service: that
/// flow goes on, and the new one has to try another port.
#[inline(always)]
pub(crate) fn put_reply(flow: &Flow, now: u32) -> bool {
    if let Some(entry) = FLOWS.get_ptr(flow.key(Role::Reply)) {
        // SAFETY: a lookup returned the pointer.
        let entry: Entry = unsafe { *entry };
        if entry.becomes() != flow.service && stands(&entry, now) {
            return false;
        }
    }
    put(flow, Role::Reply, now, true)
}

/// Whether the flow of an entry is in the way of another one.
#[inline(always)]
pub(crate) fn stands(entry: &Entry, now: u32) -> bool {
    !entry.seen().has(OVER) && now.wrapping_sub(entry.last) <= STANDS
}

#[inline(always)]
pub(crate) fn node_address(packet: &Packet) -> Option<[u32; 4]> {
    let node = maps::client(NODE)?;
    if packet.is_v6() {
        node.address6()
    } else {
        node.address4()
    }
}

#[inline(always)]
pub(crate) fn random() -> u32 {
    // SAFETY: the helper takes nothing and always answers.
    unsafe { bpf_get_prandom_u32() }
}

impl Asker for Packet {
    #[inline(always)]
    fn caller(&self, _: bool) -> Caller {
        Caller {
            is_node: false,
            address: Some(self.tuple.source),
            identity: self.tuple.source,
        }
    }

    #[inline(always)]
    fn draw(&self, traits: Traits) -> u32 {
        if traits.has(Traits::MAGLEV) {
            self.tuple.hash()
        } else {
            random()
        }
    }
}
