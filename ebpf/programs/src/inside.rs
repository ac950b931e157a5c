//! SCTP of clients in pods, at the host's ends of their links: its sockets meet no hook of the cgroup. What a pod sends to a
//! Service gets a backend as its destination, and what goes to a pod gets back the address that was asked. The backend sees
//! the client itself, unless it is the client: then it sees the node.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ebpf_common::flow::{Role, Tuple, Way};
use ebpf_common::lookup::{Decision, decide};
use ebpf_common::maps::{Frontend4, Frontend6, SCTP};

use crate::flows::{PASS, Sight, done, explain, fresh, is_one, known, to_node, unreadable};
use crate::packet::{self, Found, Packet};
use crate::world::Maps;

/// Sees what a pod sends, after it has been made sure that the pod may.
#[classifier]
fn inside_arriving(context: TcContext) -> i32 {
    match packet::read(&context, Way::Arriving, is_association) {
        Found::Transport(packet) => ask(&context, &packet),
        Found::Error(error) => explain(&context, &error, Way::Arriving, |_, _| true),
        Found::Other => PASS,
        Found::Unreadable => unreadable(),
    }
}

/// Sees what goes to a pod.
#[classifier]
fn inside_leaving(context: TcContext) -> i32 {
    match packet::read(&context, Way::Leaving, is_association) {
        Found::Transport(packet) => match known(&packet.tuple, &packet) {
            Some((becomes, role)) if is_answer(&packet.tuple, role) => done(packet.rewrite(&context, &becomes)),
            Some(_) | None => PASS,
        },
        Found::Error(error) => explain(&context, &error, Way::Leaving, is_answer),
        Found::Other | Found::Unreadable => PASS,
    }
}

#[inline(always)]
fn is_association(protocol: u8) -> bool {
    protocol == SCTP
}

/// Whether an entry holds for what goes to a pod: an answer from a Service, or the request of a pod that is its own
/// backend. A client outside is masked at the uplinks alone.
#[inline(always)]
fn is_answer(packet: &Tuple, role: Role) -> bool {
    match role {
        Role::Reply => true,
        Role::MaskedRequest => is_one(&packet.source, &packet.destination),
        Role::Request | Role::ReplyToMask | Role::CarryingRequest | Role::CarriedRequest => false,
        // Both arrive.
        Role::NodeRequest | Role::ReplyToNode => false,
    }
}

#[inline(always)]
fn ask(context: &TcContext, packet: &Packet) -> i32 {
    // Of those that are from nowhere yet nobody has made sure.
    if is_one(&packet.tuple.source, &[0; 4]) {
        return PASS;
    }
    let becomes = match known(&packet.tuple, packet) {
        Some((_, Role::ReplyToNode)) => return to_node(context),
        Some((becomes, _)) => becomes,
        None => match fresh(packet, &decision(packet), |backend, _| {
            if is_one(&backend.address, &packet.tuple.source) {
                Sight::Node
            } else {
                Sight::Client
            }
        }) {
            Ok(becomes) => becomes,
            Err(verdict) => return verdict,
        },
    };
    done(packet.rewrite(context, &becomes))
}

#[inline(always)]
fn decision(packet: &Packet) -> Decision {
    let (to, protocol) = (packet.tuple.to(), packet.tuple.protocol());
    if packet.is_v6() {
        decide(&Maps(packet), &Frontend6::from_wire(to.address, to.port, protocol))
    } else {
        decide(&Maps(packet), &Frontend4::from_wire(to.address[3], to.port, protocol))
    }
}
