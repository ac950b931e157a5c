//! Where a TCP socket's Service is remembered.

use aya::maps::{Array, Map, MapData};
use ebpf_common::stream::{MAX_STREAMS, MAX_TAKEN, StreamRecord, Taken};

use super::node::Node;
use super::node_of_test;
use super::server::echo;

#[test]
fn a_tcp_socket_has_a_place_until_it_is_closed_or_a_storage_where_that_is_taken() {
    node_of_test!("streams", node);
    let backend = node.serve(echo("127.0.0.1:0"));
    node.set("10.96.0.1 TCP 80", &[&backend]);
    let mut client = node.client();
    assert_eq!(client.ask("hold-tcp 10.96.0.1:80"), backend.label);
    assert_eq!(client.ask("held-peer"), "10.96.0.1:80");
    let mut places = places(&node);
    assert_eq!(taken(&places), 1);
    assert_eq!(client.ask("tcp 127.0.0.1:1"), "error ConnectionRefused");
    assert_eq!(client.ask("hold-tcp 10.96.0.1:80"), backend.label);
    assert_eq!(taken(&places), 1, "the first is closed");
    // Somebody else's cookie in every place.
    let foreign = StreamRecord {
        cookie: u64::MAX,
        ..StreamRecord::default()
    };
    for place in 0..MAX_STREAMS {
        places.set(place, foreign.to_bytes(), 0).unwrap();
    }
    let mut marks = marks(&node);
    for index in 0..MAX_TAKEN {
        marks.set(index, Taken::all(true).to_bytes(), 0).unwrap();
    }
    assert_eq!(client.ask("hold-tcp 10.96.0.1:80"), backend.label);
    assert_eq!(client.ask("held-peer"), "10.96.0.1:80", "remembered elsewhere");
    assert_eq!(taken(&places), MAX_STREAMS as usize, "and nobody else's place is freed");
}

fn places(node: &Node<'_>) -> Array<MapData, [u8; 48]> {
    let map = MapData::from_pin(node.bpf_dir().join("v3/maps/streams")).unwrap();
    Array::try_from(Map::Array(map)).unwrap()
}

fn marks(node: &Node<'_>) -> Array<MapData, [u8; 64]> {
    let map = MapData::from_pin(node.bpf_dir().join("v3/maps/taken")).unwrap();
    Array::try_from(Map::Array(map)).unwrap()
}

fn taken(places: &Array<MapData, [u8; 48]>) -> usize {
    let records = places.iter().map(|bytes| StreamRecord::from_bytes(bytes.unwrap()));
    records.filter(|record| record.cookie != 0).count()
}
