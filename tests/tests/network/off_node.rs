//! Pods and what lies beyond their node: under which address they go there, how large their packets are, and what of it
//! the node lets pass.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cni::pod_network::{self, NodeNetwork};
use tests::NetworkNamespace;

use crate::{Node, V4, V6, connect, echo, tool, wire};

const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// A node with a wire to a namespace that knows nothing of pods.
fn node_and_outside(test: &str, masquerade: bool) -> (Node, NetworkNamespace) {
    let mut node = Node::new(test, &[V4, V6]);
    let outside = NetworkNamespace::new();
    wire(
        &node.namespace,
        &["192.0.2.1/24", "2001:db8::1/64"],
        &outside,
        &["192.0.2.2/24", "2001:db8::2/64"],
    );
    node.network.masquerade = masquerade;
    node.run(pod_network::prepare).unwrap();
    (node, outside)
}

#[test]
fn pods_leave_the_node_under_its_address() {
    tests::require_root!();
    let (node, outside) = node_and_outside("masquerade", true);
    let (pod, _) = node.pod("a");
    for family in [0, 1] {
        let seen = echo(&outside, OUTSIDE[family].parse().unwrap(), &pod);
        assert_eq!(seen, NODE[family].parse::<IpAddr>().unwrap());
    }
}

#[test]
fn pods_keep_their_address_towards_those_who_know_it_and_one_another() {
    tests::require_root!();
    let (mut node, outside) = node_and_outside("known", true);
    node.network.reached_as_pod = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/64".parse().unwrap()];
    node.run(pod_network::prepare).unwrap();
    let ((a, in_a), (b, in_b)) = (node.pod("a"), node.pod("b"));
    for (range, via) in [(V4, NODE[0]), (V6, NODE[1])] {
        tool(&outside, &["ip", "route", "add", range, "via", via]);
    }
    for family in [0, 1] {
        assert_eq!(
            echo(&outside, OUTSIDE[family].parse().unwrap(), &a),
            in_a.addresses[family]
        );
        assert_eq!(echo(&b, in_b.addresses[family], &a), in_a.addresses[family]);
    }
}

/// The control of the tests above: without masquerading the outside has no way back.
#[test]
fn without_masquerading_the_outside_does_not_answer() {
    tests::require_root!();
    let (node, outside) = node_and_outside("unknown", false);
    let (pod, _) = node.pod("a");
    node.namespace
        .run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))
        .unwrap();
    let listener = outside.run(|| std::net::TcpListener::bind((OUTSIDE[0], 7)).unwrap());
    let to = listener.local_addr().unwrap();
    let error = pod.run(|| std::net::TcpStream::connect_timeout(&to, Duration::from_millis(300)));
    assert!(error.is_err(), "the outside knows the way to a pod");
}

#[test]
fn a_table_of_another_form_is_mended() {
    tests::require_root!();
    let (mut node, outside) = node_and_outside("mended", false);
    let (pod, _) = node.pod("a");
    node.network.masquerade = true;
    node.run(pod_network::prepare).unwrap();
    echo(&outside, OUTSIDE[0].parse().unwrap(), &pod);
    node.run(pod_network::prepare).unwrap();
    echo(&outside, OUTSIDE[1].parse().unwrap(), &pod);
}

#[test]
fn packets_of_pods_are_as_large_as_the_way_off_the_node_takes() {
    tests::require_root!();
    let (node, _outside) = node_and_outside("mtu", true);
    let mtu = |id: &str| {
        let (pod, attachment) = node.pod(id);
        let shown = tool(&pod, &["ip", "link", "show", "eth0"]);
        assert!(shown.contains(&format!("mtu {} ", attachment.mtu)), "{shown}");
        attachment.mtu
    };
    assert_eq!(mtu("alone"), 1500);
    tool(&node.namespace, &["ip", "route", "add", "default", "via", OUTSIDE[0]]);
    tool(&node.namespace, &["ip", "link", "set", "wire0", "mtu", "1400"]);
    assert_eq!(mtu("smaller"), 1400);
    tool(&node.namespace, &["ip", "link", "set", "wire0", "mtu", "9000"]);
    assert_eq!(mtu("larger"), 9000);
}

/// IPv6 has no reverse-path filter of its own.
#[test]
fn a_pod_cannot_send_as_another_by_ipv6() {
    tests::require_root!();
    let node = Node::new("spoof6", &[V4, V6]);
    let ((a, in_a), (b, in_b)) = (node.pod("a"), node.pod("b"));
    tool(
        &a,
        &["ip", "address", "add", "fd00:10:244::200/128", "dev", "eth0", "nodad"],
    );
    let listener = b.run(|| UdpSocket::bind(SocketAddr::new(in_b.addresses[1], 9)).unwrap());
    listener.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let send = |from: IpAddr| {
        a.run(|| {
            UdpSocket::bind((from, 1))
                .unwrap()
                .send_to(b"x", (in_b.addresses[1], 9))
                .unwrap()
        });
    };
    send("fd00:10:244::200".parse().unwrap());
    assert!(
        listener.recv_from(&mut [0; 8]).is_err(),
        "a packet with a foreign source got through"
    );
    send(in_a.addresses[1]);
    listener.recv_from(&mut [0; 8]).unwrap();
}

/// Such a pod's link is one of IPv6, too; what comes in by it has no source that is routed to it.
#[test]
fn a_pod_without_ipv6_reaches_nobody_by_it_and_gives_the_node_no_routes() {
    tests::require_root!();
    let node = Node::new("none6", &[V4]);
    let (pod, made) = node.pod("a");
    let of_node: IpAddr = "fd00:66::1".parse().unwrap();
    tool(
        &node.namespace,
        &["ip", "address", "add", "fd00:66::1/128", "dev", "lo"],
    );
    let host_mac = made.host_mac.map(|byte| format!("{byte:02x}")).join(":");
    for command in [
        "address add fd00:66::2/128 dev eth0 nodad",
        &format!("neighbour add fd00:66::1 lladdr {host_mac} dev eth0"),
        "route add fd00:66::1/128 dev eth0",
    ] {
        let words: Vec<&str> = ["ip", "-6"].into_iter().chain(command.split(' ')).collect();
        tool(&pod, &words);
    }
    let listener = node.namespace.run(|| UdpSocket::bind((of_node, 9)).unwrap());
    listener.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    pod.run(|| {
        let from: IpAddr = "fd00:66::2".parse().unwrap();
        UdpSocket::bind((from, 1)).unwrap().send_to(b"x", (of_node, 9)).unwrap()
    });
    assert!(listener.recv_from(&mut [0; 8]).is_err(), "the node took a packet");
    let setting = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", made.host_link);
    let accepts = node.namespace.run(|| std::fs::read_to_string(setting).unwrap());
    assert_eq!(accepts.trim(), "0");
}

#[test]
fn ipv6_alone_leaves_the_node_too() {
    tests::require_root!();
    let mut node = Node::new("v6-only", &[V6]);
    let outside = NetworkNamespace::new();
    wire(&node.namespace, &["2001:db8::1/64"], &outside, &["2001:db8::2/64"]);
    node.network.masquerade = true;
    node.run(pod_network::prepare).unwrap();
    let (pod, _) = node.pod("a");
    echo(&outside, OUTSIDE[1].parse().unwrap(), &pod);
    let error = pod.run(|| connect("192.0.2.2:7".parse().unwrap())).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NetworkUnreachable);
}

/// The machine's settings, by the files that they are in.
fn settings(dir: &Path) -> BTreeMap<PathBuf, String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let values = entries.flat_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return settings(&path);
        }
        let value = std::fs::read_to_string(&path).unwrap_or_default();
        BTreeMap::from([(path, value)])
    });
    values.collect()
}

#[test]
fn the_node_forwards_as_before_when_the_last_network_is_removed() {
    tests::require_root!();
    let node = Node::new("settings", &[V4, V6]);
    node.run(pod_network::teardown).unwrap();
    let outside = NetworkNamespace::new();
    wire(&node.namespace, &["192.0.2.1/24"], &outside, &["192.0.2.2/24"]);
    let all = || {
        node.namespace.run(|| {
            [
                settings(Path::new("/proc/sys/net/ipv4")),
                settings(Path::new("/proc/sys/net/ipv6")),
            ]
        })
    };
    let is_forwarding = |family: &str| {
        let path = format!("/proc/sys/net/{family}/conf/wire0/forwarding");
        node.namespace.run(|| std::fs::read_to_string(path).unwrap()).trim() == "1"
    };
    node.namespace.run(|| {
        for (setting, value) in [
            ("ipv4/ip_forward", "0"),
            ("ipv6/conf/all/forwarding", "0"),
            ("ipv4/conf/all/accept_redirects", "0"),
            ("ipv4/conf/wire0/forwarding", "1"),
            ("ipv6/conf/wire0/accept_ra", "1"),
        ] {
            std::fs::write(Path::new("/proc/sys/net").join(setting), value).unwrap();
        }
    });
    let before = all();

    let masquerading = NodeNetwork {
        masquerade: true,
        ..node.network.clone()
    };
    let other = NodeNetwork::new(
        "other",
        &["10.245.0.0/24".parse().unwrap()],
        &node.scratch.path("other"),
    );
    let pod = NetworkNamespace::new();
    let netns = pod.path();
    let request = pod_network::AttachRequest::new(&netns, "a", "eth0");
    node.namespace.run(|| {
        pod_network::prepare(&masquerading).unwrap();
        pod_network::prepare(&masquerading).unwrap();
        pod_network::prepare(&other).unwrap();
        pod_network::attach(&other, &request).unwrap();
    });
    assert!(is_forwarding("ipv4") && is_forwarding("ipv6"));

    node.namespace.run(|| pod_network::teardown(&masquerading)).unwrap();
    assert!(is_forwarding("ipv4"), "a pod of another network is cut off");

    node.namespace.run(|| pod_network::teardown(&other)).unwrap();
    node.namespace.run(|| pod_network::teardown(&masquerading)).unwrap();
    let after = all();
    for (before, after) in before.iter().zip(&after) {
        let changed: Vec<_> = before
            .iter()
            .filter(|(path, value)| after.get(*path) != Some(value))
            .collect();
        assert!(changed.is_empty(), "these were: {changed:?}");
    }
}
