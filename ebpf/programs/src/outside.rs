//! Packets of clients outside of the node, at the links that lead there. What arrives for a Service gets a backend as its
//! destination, what leaves gets back the address that was asked; in between the kernel routes them as any other packet.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ebpf_common::flow::{Entry, Flow, MASK_ATTEMPTS, Role, Seen, Tuple, Way, mask_port};
use ebpf_common::lookup::{Caller, Choice, Drop, choose};
use ebpf_common::maps::{Counters, Frontend4, Frontend6, NODE, Traits};
use ebpf_common::record::Peer;

use crate::carry;
use crate::maps::{self, FLOWS};
use crate::packet::{self, Error, Found, Packet};
use crate::world::{Asker, Maps};

/// Go on to the next program, or to the kernel.
const PASS: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT;
/// How long an answer to another Service's client stands in the way of a new flow, in seconds after its last packet.
const STANDS: u32 = 10;

#[classifier]
fn outside_arriving(context: TcContext) -> i32 {
    match carry::take_out(&context) {
        Ok(None) => {}
        Ok(Some((is_v6, service))) => return answer_for(&context, is_v6, &service),
        Err(()) => return DROP,
    }
    match packet::read(&context, Way::Arriving) {
        Found::Transport(packet) => arrive(&context, &packet),
        Found::Error(error) => explain(&context, &error, Way::Arriving),
        Found::Other => PASS,
        Found::Unreadable => unreadable(),
    }
}

#[classifier]
fn outside_leaving(context: TcContext) -> i32 {
    match packet::read(&context, Way::Leaving) {
        Found::Transport(packet) => leave(&context, &packet),
        Found::Error(error) => explain(&context, &error, Way::Leaving),
        // What can't be read here was made here, or was passed on as it came.
        Found::Other | Found::Unreadable => PASS,
    }
}

/// What can't be read may be meant for anybody, the node itself included: the kernel sorts it out.
#[inline(always)]
fn unreadable() -> i32 {
    maps::count(0, |counters| counters.unreadable += 1);
    PASS
}

#[inline(always)]
fn leave(context: &TcContext, packet: &Packet) -> i32 {
    match known(&packet.tuple, packet) {
        Some((becomes, Role::CarryingRequest)) if packet.may_carry(context) => {
            done(carry::put_in(context, packet.is_v6(), &becomes))
        }
        None | Some((_, Role::CarryingRequest)) => PASS,
        Some((becomes, _)) => done(packet.rewrite(context, &becomes)),
    }
}

/// A client of another node is answered from here in the name of the Service that its request carries. What nobody asks
/// for that way passes as any other packet.
#[inline(always)]
fn answer_for(context: &TcContext, is_v6: bool, service: &Peer) -> i32 {
    let Some(request) = packet::read_bare(context, is_v6, Way::Arriving) else {
        return PASS;
    };
    let Some(id) = direct_service(&request, is_v6, service) else {
        return PASS;
    };
    let (flow, now) = (Flow::carried(&request, service, id), maps::now());
    if put_reply(&flow, now) && put(&flow, Role::CarriedRequest, now, true) {
        return PASS;
    }
    maps::count(id, |counters| counters.no_room += 1);
    DROP
}

/// The id of a Service whose backends answer for it, by one of its addresses; or by its node port, as the address may be
/// another node's.
#[inline(always)]
fn direct_service(request: &Tuple, is_v6: bool, service: &Peer) -> Option<u32> {
    let (port, protocol) = (service.port, request.protocol());
    let found = if is_v6 {
        let named = |address| Frontend6::from_wire(address, port, protocol);
        maps::service6(&named(service.address).from_outside()).or_else(|| maps::service6(&named([0; 4])))
    } else {
        let named = |address| Frontend4::from_wire(address, port, protocol);
        maps::service4(&named(service.address[3]).from_outside()).or_else(|| maps::service4(&named(0)))
    };
    let found = found.filter(|found| found.region.traits().has(Traits::DIRECT));
    found.map(|found| found.id)
}

#[inline(always)]
fn arrive(context: &TcContext, packet: &Packet) -> i32 {
    let becomes = match known(&packet.tuple, packet) {
        Some((becomes, _)) => becomes,
        None => match fresh(context, packet) {
            Ok(becomes) => becomes,
            Err(verdict) => return verdict,
        },
    };
    done(packet.rewrite(context, &becomes))
}

/// Whom a packet of no known flow gets to, or what becomes of it otherwise.
#[inline(always)]
fn fresh(context: &TcContext, packet: &Packet) -> Result<Peer, i32> {
    let (id, backend, traits) = match choice(packet) {
        Choice::NotAService => return Err(PASS),
        Choice::Dropped { id, why } => return Err(dropped(id, why)),
        Choice::Refused { id } => {
            maps::count(id, |counters| counters.refused += 1);
            // The kernel refuses what comes for a port that nobody can have, in the name of the Service.
            let address = node_address(packet).ok_or(DROP)?;
            (id, Peer::v6(address, 0), Traits::LOCAL)
        }
        Choice::Backend { id, backend, traits } => (id, backend, traits),
    };
    let Some(becomes) = begin(context, packet, &backend, id, traits) else {
        maps::count(id, |counters| counters.no_room += 1);
        return Err(DROP);
    };
    if backend.port != 0 {
        maps::count(id, |counters| counters.forwarded += 1);
    }
    Ok(becomes)
}

/// A half-written packet goes nowhere.
#[inline(always)]
fn done(written: Option<()>) -> i32 {
    if written.is_some() { PASS } else { DROP }
}

#[inline(always)]
fn dropped(id: u32, why: Drop) -> i32 {
    maps::count(id, |counters: &mut Counters| match why {
        Drop::NoLocalBackend => counters.no_local += 1,
        Drop::NotAllowed => counters.not_allowed += 1,
    });
    DROP
}

/// What becomes of a packet of a flow that is known. A client that opens a connection where the last one was closed begins
/// a new flow.
#[inline(always)]
fn known(key: &Tuple, packet: &Packet) -> Option<(Peer, Role)> {
    let entry = FLOWS.get_ptr_mut(key)?;
    // SAFETY: a lookup returned the pointer. Packets of one flow on two CPUs may each forget what the other has seen;
    // the next packet shows it again.
    let entry = unsafe { &mut *entry };
    let over = Seen::FIN.and(Seen::RST);
    if packet.is_opening() && entry.seen().has(over) && matches!(entry.role(), Role::Request) {
        return None;
    }
    entry.note(Seen::of(packet.flags), maps::now());
    Some((entry.becomes(), entry.role()))
}

/// An ICMP error about a packet of a known flow, translated both ways as the packet was.
#[inline(always)]
fn explain(context: &TcContext, error: &Error, way: Way) -> i32 {
    let Some(entry) = FLOWS.get_ptr(error.key(way)) else {
        return PASS;
    };
    // SAFETY: a lookup returned the pointer; the address of an entry does not change.
    let becomes = unsafe { (*entry).becomes() };
    done(error.rewrite(context, way, &becomes))
}

/// Remembers a new flow. `None` when there is no room for it.
#[inline(always)]
fn begin(context: &TcContext, packet: &Packet, backend: &Peer, id: u32, traits: Traits) -> Option<Peer> {
    let now = maps::now();
    let mut flow = Flow::new(&packet.tuple, backend, id);
    let mut leaving = Role::MaskedRequest;
    if traits.has(Traits::DIRECT) && !traits.has(Traits::LOCAL) && packet.may_carry(context) {
        flow.mask = flow.service;
        leaving = Role::CarryingRequest;
    } else if !traits.has(Traits::LOCAL)
        && let Some(address) = node_address(packet)
    {
        flow.mask = mask(&mut flow, address, now)?;
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

#[inline(always)]
fn forget(flow: &Flow, role: Role) {
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
fn mask(flow: &mut Flow, address: [u32; 4], now: u32) -> Option<Peer> {
    for _ in 0..MASK_ATTEMPTS {
        flow.mask = Peer::v6(address, mask_port(random()));
        if put(flow, Role::ReplyToMask, now, false) {
            return Some(flow.mask);
        }
    }
    None
}

#[inline(always)]
fn put(flow: &Flow, role: Role, now: u32, replace: bool) -> bool {
    const NOEXIST: u64 = 1;
    let flags = if replace { 0 } else { NOEXIST };
    FLOWS.insert(flow.key(role), flow.entry(role, now), flags).is_ok()
}

/// The entry for the replies, unless a client talks to the same backend from the same port through another Service: that
/// flow goes on, and the new one has to try another port.
#[inline(always)]
fn put_reply(flow: &Flow, now: u32) -> bool {
    if let Some(entry) = FLOWS.get_ptr(flow.key(Role::Reply)) {
        // SAFETY: a lookup returned the pointer.
        let entry: Entry = unsafe { *entry };
        let is_over = entry.seen().has(Seen::FIN.and(Seen::RST)) || now.wrapping_sub(entry.last) > STANDS;
        if entry.becomes() != flow.service && !is_over {
            return false;
        }
    }
    put(flow, Role::Reply, now, true)
}

#[inline(always)]
fn node_address(packet: &Packet) -> Option<[u32; 4]> {
    let node = maps::client(NODE)?;
    if packet.is_v6() {
        node.address6()
    } else {
        node.address4()
    }
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: the helper takes nothing and always answers.
    unsafe { bpf_get_prandom_u32() }
}

#[inline(always)]
fn choice(packet: &Packet) -> Choice {
    let (to, protocol) = (packet.tuple.to(), packet.tuple.protocol());
    if packet.is_v6() {
        choose(
            &Maps(packet),
            &Frontend6::from_wire(to.address, to.port, protocol).from_outside(),
        )
    } else {
        choose(
            &Maps(packet),
            &Frontend4::from_wire(to.address[3], to.port, protocol).from_outside(),
        )
    }
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
