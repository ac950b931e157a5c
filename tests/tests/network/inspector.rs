//! The eBPF program of pod links on real links: what it lets pass, what it drops, and which way packets go.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use agent::hands::inspector::Inspector;
use cni::bandwidth::{Bandwidth, Rate};
use cni::mapping::{PortMapping, Protocol};
use cni::pod_network::{self, AttachRequest};
use ebpf_common::pods::Count;
use tests::NetworkNamespace;

use crate::limits::passed;
use crate::{Node, V4, V6, connect, echo, tool};

/// A node whose pods are inspected, and limited by programs.
pub(crate) fn inspected(test: &str) -> (Node, Inspector) {
    let mut node = Node::new(test, &[V4, V6]);
    let inspector = Inspector::load().unwrap();
    node.network.inspector = Some(inspector.program());
    node.network.pacer = Some(inspector.pacer());
    (node, inspector)
}

pub(crate) fn count(inspector: &Inspector, what: Count) -> u64 {
    let counts = inspector.counts();
    counts.into_iter().find(|(count, _)| *count == what).unwrap().1
}

#[test]
fn pods_reach_one_another_at_once_and_everybody_else_as_before() {
    tests::require_root!();
    let (node, inspector) = inspected("inspect");
    let ((a, in_a), (b, in_b)) = (node.pod("a"), node.pod("b"));
    let nodes: [IpAddr; 2] = ["10.244.0.1".parse().unwrap(), "fd00:10:244::1".parse().unwrap()];
    for family in [0, 1] {
        let before = count(&inspector, Count::Crossed);
        assert_eq!(echo(&b, in_b.addresses[family], &a), in_a.addresses[family]);
        let crossed = count(&inspector, Count::Crossed) - before;
        // Three packets each way at least: the connection, the line, the end.
        assert!(crossed >= 6, "family {family}: {crossed} packets crossed");
        assert_eq!(echo(&node.namespace, nodes[family], &a), in_a.addresses[family]);
        assert_eq!(echo(&a, in_a.addresses[family], &node.namespace), nodes[family]);
    }
    let dropped: u64 = [Count::Source, Count::Mac, Count::Kind]
        .into_iter()
        .map(|why| count(&inspector, why))
        .sum();
    assert_eq!(dropped, 0, "{:?}", inspector.counts());
}

#[test]
fn a_pod_sends_under_its_own_addresses_alone() {
    tests::require_root!();
    let (node, inspector) = inspected("inspect-spoof");
    let ((a, in_a), (b, in_b)) = (node.pod("a"), node.pod("b"));
    let foreign: [IpAddr; 2] = ["10.244.0.200".parse().unwrap(), "fd00:10:244::200".parse().unwrap()];
    for family in [0, 1] {
        let prefix = if family == 0 { 32 } else { 128 };
        let own = format!("{}/{prefix}", foreign[family]);
        tool(&a, &["ip", "address", "add", &own, "dev", "eth0", "nodad"]);
        let to = SocketAddr::new(in_b.addresses[family], 9);
        let listener = b.run(|| UdpSocket::bind(to).unwrap());
        listener.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let send = |from: IpAddr| {
            a.run(|| UdpSocket::bind((from, 1)).unwrap().send_to(b"x", to).unwrap());
        };
        let before = count(&inspector, Count::Source);
        send(foreign[family]);
        listener.recv_from(&mut [0; 8]).unwrap_err();
        assert_eq!(count(&inspector, Count::Source), before + 1);
        send(in_a.addresses[family]);
        listener.recv_from(&mut [0; 8]).unwrap();
        let before = count(&inspector, Count::Mac);
        change_mac(&a, "02:00:00:00:00:09");
        send(in_a.addresses[family]);
        listener.recv_from(&mut [0; 8]).unwrap_err();
        assert_eq!(count(&inspector, Count::Mac), before + 1);
        let mac = in_a.mac.map(|byte| format!("{byte:02x}")).join(":");
        change_mac(&a, &mac);
    }
}

/// What was found out for a pod's own packets is not held to be true of others.
#[test]
fn a_pod_that_takes_another_mac_is_not_believed_for_what_it_sent_before() {
    tests::require_root!();
    let (node, inspector) = inspected("inspect-soon");
    let ((a, in_a), (b, in_b)) = (node.pod("a"), node.pod("b"));
    let to = SocketAddr::new(in_b.addresses[0], 9);
    let listener = b.run(|| UdpSocket::bind(to).unwrap());
    listener.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let sender = a.run(|| UdpSocket::bind((in_a.addresses[0], 1)).unwrap());
    let mac = in_a.mac.map(|byte| format!("{byte:02x}")).join(":");
    let before = count(&inspector, Count::Mac);
    for _ in 0..TRIES {
        sender.send_to(b"own", to).unwrap();
        change_mac(&a, "02:00:00:00:00:09");
        sender.send_to(b"foreign", to).unwrap();
        change_mac(&a, &mac);
    }
    let mut bytes = [0; 8];
    let received = std::iter::from_fn(|| listener.recv(&mut bytes).ok()).collect::<Vec<_>>();
    assert_eq!(received, vec![3; TRIES]);
    assert_eq!(count(&inspector, Count::Mac), before + TRIES as u64);
}

/// Between a packet and the next passes one process, not always less than a program takes its word for.
const TRIES: usize = 20;

/// The kernel forgets neighbours, permanent ones too, when a link's own address changes. One process does it all, soon.
fn change_mac(pod: &NetworkNamespace, mac: &str) {
    let gateway = |address| format!("neighbour replace {address} lladdr 02:6f:72:6c:6f:70 dev eth0 nud permanent");
    let [v4, v6] = ["169.254.1.1", "fe80::1"].map(gateway);
    let batch = format!("printf 'link set eth0 address {mac}\\n{v4}\\n{v6}\\n' | ip -batch -");
    tool(pod, &["sh", "-c", &batch]);
}

#[test]
fn what_goes_to_a_limited_pod_goes_through_its_queue() {
    tests::require_root!();
    let (node, inspector) = inspected("inspect-limit");
    let (a, _) = node.pod("a");
    let limited = NetworkNamespace::new();
    let netns = limited.path();
    let request = AttachRequest {
        bandwidth: Bandwidth {
            ingress: Some(Rate {
                bits_per_second: 80_000_000,
                burst_bits: 8 << 20,
            }),
            egress: None,
        },
        ..AttachRequest::new(&netns, "limited", "eth0")
    };
    let attachment = node.run(|network| pod_network::attach(network, &request)).unwrap();
    let queue = || {
        let words = ["tc", "-s", "qdisc", "show", "dev", &attachment.host_link, "root"];
        passed(&tool(&node.namespace, &words))
    };
    let (before, crossed) = (queue(), count(&inspector, Count::Crossed));
    echo(&limited, attachment.addresses[0], &a);
    assert!(queue() > before, "nothing went through the queue");
    // The answers cross: the other pod has no limit.
    assert!(count(&inspector, Count::Crossed) > crossed);
}

/// The answer of the second pod must find its way back through the translation that the question went by.
#[test]
fn a_port_of_the_node_works_from_pod_to_pod() {
    tests::require_root!();
    let (node, _inspector) = inspected("inspect-port");
    let (client, _) = node.pod("client");
    let pod = NetworkNamespace::new();
    let netns = pod.path();
    let ports = [PortMapping {
        protocol: Protocol::Tcp,
        host_address: None,
        host_port: 8080,
        pod_port: 80,
    }];
    let request = AttachRequest {
        ports: &ports,
        ..AttachRequest::new(&netns, "server", "eth0")
    };
    node.run(|network| pod_network::attach(network, &request)).unwrap();
    let _server = pod.run(|| TcpListener::bind("[::]:80").unwrap());
    for to in ["10.244.0.1:8080", "[fd00:10:244::1]:8080"] {
        for from in [&client, &pod] {
            from.run(|| connect(to.parse().unwrap()))
                .unwrap_or_else(|error| panic!("{to}: {error}"));
        }
    }
}

#[test]
fn links_of_an_agent_before_get_the_program_of_the_next() {
    tests::require_root!();
    let (mut node, first) = inspected("inspect-again");
    let ((a, _), (b, in_b)) = (node.pod("a"), node.pod("b"));
    drop(first);
    echo(&b, in_b.addresses[0], &a);
    let second = Inspector::load().unwrap();
    node.network.inspector = Some(second.program());
    node.run(pod_network::inspect_again).unwrap();
    echo(&b, in_b.addresses[0], &a);
    assert!(count(&second, Count::Crossed) >= 6);
}

/// A change that makes the verifier's work explode must not go unnoticed.
#[test]
fn the_verifier_goes_through_few_instructions() {
    tests::require_root!();
    const MOST: u32 = 10_000;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    for (program, count) in Inspector::load().unwrap().verified_instructions() {
        // Those that pace are not loaded where the kernel lacks their queue.
        let Some(count) = count else { continue };
        println!("NOTE: verified instructions: {} {program} {count}", release.trim());
        assert!(count <= MOST, "{program}: {count}");
    }
}

#[test]
fn the_program_knows_the_hardware_address_that_links_are_given() {
    assert_eq!(ebpf_common::pods::HOST_MAC, cni::plan::HOST_MAC);
}
