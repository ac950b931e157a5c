//! Flows: each entry of one knows the whole, and what one makes of a packet the next one takes back.

extern crate std;

use core::net::Ipv4Addr;
use std::collections::BTreeSet;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::maps::{SCTP, Slot4, TCP, UDP};

fn peer(last: u8, port: u16) -> Peer {
    let slot = Slot4::new(Ipv4Addr::new(192, 0, 2, last), port);
    Peer::v4(slot.address, slot.port)
}

fn flow(mask: Option<Peer>) -> Flow {
    let request = Tuple::new(&peer(1, 5000), &peer(2, 80), TCP, Way::Arriving);
    Flow {
        mask: mask.unwrap_or(NOBODY),
        ..Flow::new(&request, &peer(3, 8080), 7)
    }
}

/// The same of a process of the node, which the backend sees as it is or masked.
fn of_node(mask: Option<Peer>) -> Flow {
    let request = Tuple::new(&peer(1, 5000), &peer(2, 80), SCTP, Way::Arriving);
    Flow {
        mask: mask.unwrap_or(request.from()),
        ..Flow::of_node(&request, &peer(3, 8080), 7)
    }
}

/// A packet as it stands after an entry was applied.
fn translate(key: &Tuple, entry: &Entry) -> Tuple {
    let (from, to) = match key.way() {
        Way::Arriving => (key.from(), entry.becomes()),
        Way::Leaving => (entry.becomes(), key.to()),
    };
    Tuple::new(&from, &to, key.protocol(), key.way())
}

#[test]
fn a_request_and_its_reply_meet_each_other() {
    for flow in [flow(None), flow(Some(peer(9, 61_001)))] {
        let mut packet = flow.key(Role::Request);
        packet = translate(&packet, &flow.entry(Role::Request, 0));
        if flow.is_masked() {
            let key = flow.key(Role::MaskedRequest);
            assert_eq!((packet.from(), packet.to()), (key.from(), key.to()));
            packet = translate(&key, &flow.entry(Role::MaskedRequest, 0));
            let reply = packet.answer(Way::Arriving);
            assert_eq!(reply, flow.key(Role::ReplyToMask));
            packet = translate(&reply, &flow.entry(Role::ReplyToMask, 0)).answer(Way::Arriving);
        }
        let reply = packet.answer(Way::Leaving);
        assert_eq!(reply, flow.key(Role::Reply));
        let seen = translate(&reply, &flow.entry(Role::Reply, 0));
        assert_eq!((seen.from(), seen.to()), (flow.service, flow.client));
    }
}

#[test]
fn a_request_of_the_node_and_its_reply_meet_each_other() {
    let both =
        |key: &Tuple, entry: &Entry| Tuple::new(&entry.source_becomes(), &entry.becomes(), key.protocol(), key.way());
    for flow in [of_node(None), of_node(Some(peer(9, 61_001)))] {
        let request = flow.key(Role::NodeRequest);
        assert_eq!((request.from(), request.to()), (flow.client, flow.service));
        let sent = both(&request, &flow.entry(Role::NodeRequest, 0));
        assert_eq!((sent.from(), sent.to()), (flow.mask, flow.backend));
        let reply = sent.answer(Way::Arriving);
        assert_eq!(reply, flow.key(Role::ReplyToNode));
        let heard = both(&reply, &flow.entry(Role::ReplyToNode, 0));
        assert_eq!((heard.from(), heard.to()), (flow.service, flow.client));
    }
}

#[test]
fn every_entry_knows_the_whole_flow() {
    let carried = [peer(2, 80), peer(3, 8080)].map(|mask| flow(Some(mask)));
    let of_node = [of_node(None), of_node(Some(peer(9, 61_001)))];
    let all = [flow(None), flow(Some(peer(9, 61_001)))];
    for flow in all.into_iter().chain(carried).chain(of_node) {
        for role in flow.roles() {
            assert_eq!(flow.entry(*role, 5).flow(&flow.key(*role)), flow);
        }
        let keys: BTreeSet<Tuple> = flow.roles().iter().map(|role| flow.key(*role)).collect();
        assert_eq!(keys.len(), flow.roles().len());
    }
}

#[test]
fn lifetimes_follow_what_was_seen() {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let row = |requests: &[u8], replies: &[u8]| {
        let all = |flags: &[u8]| {
            flags
                .iter()
                .fold(Seen::NOTHING, |seen, flags| seen.and(Seen::of(*flags)))
        };
        lifetime(TCP, all(requests), all(replies))
    };
    assert_eq!(row(&[SYN], &[]), 60);
    assert_eq!(row(&[SYN], &[SYN | ACK]), 60);
    assert_eq!(row(&[SYN, ACK], &[SYN | ACK]), 86_400);
    assert_eq!(row(&[SYN, ACK, ACK | 1], &[SYN | ACK]), 3_600);
    assert_eq!(row(&[SYN, ACK | 1], &[SYN | ACK, ACK | 1]), 120);
    assert_eq!(row(&[SYN], &[4]), 10);
    assert_eq!(
        row(&[ACK], &[]),
        60,
        "a flood of packets that nobody answers is soon forgotten"
    );
    let associated = Seen::of(flags_of_chunk(10));
    assert_eq!(lifetime(SCTP, associated, Seen::of(flags_of_chunk(2))), 210);
    assert_eq!(lifetime(SCTP, associated, Seen::of(flags_of_chunk(6))), 10, "aborted");
    assert_eq!(lifetime(UDP, Seen::PACKET, Seen::NOTHING), 30);
    assert_eq!(lifetime(UDP, Seen::PACKET, Seen::PACKET), 120);
}

#[test]
fn flows_spread_over_a_table() {
    let mut hits = [0_u32; 7];
    for port in 1024..8024 {
        let hash = Tuple::new(&peer(1, port), &peer(2, 80), TCP, Way::Arriving).hash();
        hits[((u64::from(hash) * 7) >> 32) as usize] += 1;
    }
    assert!(hits.iter().all(|hits| (850..=1150).contains(hits)), "{hits:?}");
}

proptest! {
    #[test]
    fn masks_have_ports_of_their_own(draw: u32) {
        prop_assert!(u16::from_be(mask_port(draw)) >= FIRST_MASK_PORT);
    }

    #[test]
    fn bytes_are_whole(a in 1..250_u8, b in 1..250_u8, port: u16) {
        let key = Tuple::new(&peer(a, port), &peer(b, 80), UDP, Way::Leaving);
        prop_assert_eq!(Tuple::from_bytes(key.to_bytes()), key);
        let bytes: Vec<u8> = key.to_bytes().into();
        prop_assert_eq!(bytes.len(), 40);
    }
}
