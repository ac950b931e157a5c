//! Packets of clients outside of the node, at the links that lead there. What arrives for a Service gets a backend as its
//! destination, what leaves gets back the address that was asked; in between the kernel routes them as any other packet.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ebpf_common::flow::{Flow, Role, Tuple, Way};
use ebpf_common::lookup::{Decision, decide};
use ebpf_common::maps::{Frontend4, Frontend6, Traits};
use ebpf_common::record::Peer;

use crate::carry;
use crate::flows::{DROP, PASS, Sight, done, explain, fresh, known, put, put_reply, to_node, unreadable};
use crate::maps;
use crate::packet::{self, Found, Packet, has_ports};
use crate::world::Maps;

#[classifier]
fn outside_arriving(context: TcContext) -> i32 {
    match carry::take_out(&context) {
        Ok(None) => {}
        Ok(Some((is_v6, service))) => return answer_for(&context, is_v6, &service),
        Err(()) => return DROP,
    }
    match packet::read(&context, Way::Arriving, has_ports) {
        Found::Transport(packet) => arrive(&context, &packet),
        Found::Error(error) => explain(&context, &error, Way::Arriving, |_, _| true),
        Found::Other => PASS,
        Found::Unreadable => unreadable(),
    }
}

#[classifier]
fn outside_leaving(context: TcContext) -> i32 {
    match packet::read(&context, Way::Leaving, has_ports) {
        Found::Transport(packet) => leave(&context, &packet),
        Found::Error(error) => explain(&context, &error, Way::Leaving, |_, _| true),
        // What can't be read here was made here, or was passed on as it came.
        Found::Other | Found::Unreadable => PASS,
    }
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
        Some((_, Role::ReplyToNode)) => return to_node(context),
        Some((becomes, _)) => becomes,
        None => match fresh(packet, &decision(packet), |_, traits| sight(context, packet, traits)) {
            Ok(becomes) => becomes,
            Err(verdict) => return verdict,
        },
    };
    done(packet.rewrite(context, &becomes))
}

#[inline(always)]
fn sight(context: &TcContext, packet: &Packet, traits: Traits) -> Sight {
    if traits.has(Traits::DIRECT) && !traits.has(Traits::LOCAL) && packet.may_carry(context) {
        Sight::Direct
    } else if traits.has(Traits::LOCAL) {
        Sight::Client
    } else {
        Sight::Node
    }
}

#[inline(always)]
fn decision(packet: &Packet) -> Decision {
    let (to, protocol) = (packet.tuple.to(), packet.tuple.protocol());
    if packet.is_v6() {
        decide(
            &Maps(packet),
            &Frontend6::from_wire(to.address, to.port, protocol).from_outside(),
        )
    } else {
        decide(
            &Maps(packet),
            &Frontend4::from_wire(to.address[3], to.port, protocol).from_outside(),
        )
    }
}
