//! Two nodes on one wire: every pod reaches every pod by the routes to the peers (host-gw).

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use cni::pod_network::{self, Attachment, NodeNetwork, Peer};
use tests::NetworkNamespace;

use crate::{Node, echo, tool, wire};

const RANGES: [[&str; 2]; 2] = [
    ["10.244.0.0/24", "fd00:10:244::/64"],
    ["10.244.1.0/24", "fd00:10:244:1::/64"],
];
const ADDRESSES: [[&str; 2]; 2] = [["192.0.2.1", "2001:db8::1"], ["192.0.2.2", "2001:db8::2"]];

fn peer(number: usize) -> Peer {
    Peer {
        pod_cidrs: RANGES[number].iter().map(|range| range.parse().unwrap()).collect(),
        addresses: ADDRESSES[number]
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
    }
}

fn nodes(test: &str) -> [Node; 2] {
    let mut nodes = [0, 1].map(|number| Node::new(&format!("{test}-{number}"), &RANGES[number]));
    wire(
        &nodes[0].namespace,
        &["192.0.2.1/24", "2001:db8::1/64"],
        &nodes[1].namespace,
        &["192.0.2.2/24", "2001:db8::2/64"],
    );
    for (number, node) in nodes.iter_mut().enumerate() {
        node.network.peers = vec![peer(1 - number)];
        node.network.masquerade = true;
        node.run(pod_network::prepare).unwrap();
    }
    nodes
}

/// A datagram of so many bytes with its headers, which no router may cut.
fn whole(from: &NetworkNamespace, to: (&NetworkNamespace, IpAddr), bytes: usize) -> std::io::Result<usize> {
    let headers = if to.1.is_ipv4() { 28 } else { 48 };
    let receiver = to.0.run(|| UdpSocket::bind(SocketAddr::new(to.1, 9)).unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let any = if to.1.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    from.run(|| {
        let sender = UdpSocket::bind(any).unwrap();
        // Linux sets "don't fragment" on datagrams by itself while it discovers the path's MTU.
        sender.send_to(&vec![7; bytes - headers], (to.1, 9))
    })?;
    let mut buffer = vec![0; bytes];
    receiver.recv(&mut buffer).map(|length| length + headers)
}

#[test]
fn every_pod_reaches_every_pod_of_both_nodes_under_its_own_address() {
    tests::require_root!();
    let nodes = nodes("peers");
    let pods: Vec<(NetworkNamespace, Attachment)> = nodes
        .iter()
        .flat_map(|node| ["a", "b"].map(|id| node.pod(id)))
        .collect();
    for (server, at) in &pods {
        for (client, from) in pods.iter().filter(|(_, from)| from.addresses != at.addresses) {
            for family in [0, 1] {
                assert_eq!(echo(server, at.addresses[family], client), from.addresses[family]);
                assert_eq!(whole(client, (server, at.addresses[family]), 1500).unwrap(), 1500);
            }
        }
    }
    let counters = nodes[0]
        .namespace
        .run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))
        .unwrap();
    let mut lines = counters.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|name| name == "FragCreates").unwrap();
    assert_eq!(
        values.split(' ').nth(place),
        Some("0"),
        "fragments were made: {counters}"
    );
}

#[test]
fn a_peer_that_goes_and_comes_back_is_reached_again() {
    tests::require_root!();
    let nodes = nodes("peer-back");
    let ((a, _), (b, in_b)) = (nodes[0].pod("a"), nodes[1].pod("b"));
    echo(&b, in_b.addresses[0], &a);
    tool(&nodes[1].namespace, &["ip", "link", "set", "wire0", "down"]);
    assert!(whole(&a, (&b, in_b.addresses[0]), 100).is_err(), "the wire is down");
    tool(&nodes[1].namespace, &["ip", "link", "set", "wire0", "up"]);
    // What took the link down took IPv6 addresses and all routes along; an agent that starts prepares its node.
    tool(
        &nodes[1].namespace,
        &["ip", "address", "replace", "2001:db8::2/64", "dev", "wire0", "nodad"],
    );
    for node in &nodes {
        node.run(pod_network::prepare).unwrap();
    }
    for address in in_b.addresses {
        echo(&b, address, &a);
    }
}

#[test]
fn a_peer_that_is_taken_off_the_list_loses_its_routes() {
    tests::require_root!();
    let mut node = Node::new("peer-off", &RANGES[0]);
    let outside = NetworkNamespace::new();
    wire(
        &node.namespace,
        &["192.0.2.1/24", "2001:db8::1/64"],
        &outside,
        &["192.0.2.2/24", "2001:db8::2/64"],
    );
    node.network.peers = vec![peer(1)];
    node.run(pod_network::prepare).unwrap();
    let routes = || {
        let v4 = tool(&node.namespace, &["ip", "route", "show", "proto", "112"]);
        v4 + &tool(&node.namespace, &["ip", "-6", "route", "show", "proto", "112"])
    };
    assert!(
        routes().contains("10.244.1.0/24 via 192.0.2.2") && routes().contains("fd00:10:244:1::/64 via 2001:db8::2")
    );
    let without = NodeNetwork {
        peers: Vec::new(),
        ..node.network.clone()
    };
    node.namespace.run(|| pod_network::prepare(&without)).unwrap();
    assert!(!routes().contains("via"), "{}", routes());
}
