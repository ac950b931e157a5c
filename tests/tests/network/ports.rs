//! Ports of the node that lead to pods: from outside, from the node, from pods, and from the pod itself.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use cni::mapping::{PortMapping, Protocol};
use cni::pod_network::{self, AttachRequest, Attachment, NetworkError};
use tests::{LeakAudit, NetworkNamespace};

use crate::{Node, V4, V6, accept, connect, wire};

/// A node with an outside, and a pod with these ports.
struct World {
    node: Node,
    outside: NetworkNamespace,
    pod: NetworkNamespace,
    attachment: Attachment,
}

impl World {
    fn new(test: &str, ports: &[PortMapping]) -> Self {
        let node = Node::new(test, &[V4, V6]);
        let (outside, pod) = (NetworkNamespace::new(), NetworkNamespace::new());
        wire(
            &node.namespace,
            &["192.0.2.1/24", "2001:db8::1/64"],
            &outside,
            &["192.0.2.2/24", "2001:db8::2/64"],
        );
        let attachment = attach(&node, &pod, "a", ports).unwrap();
        Self {
            node,
            outside,
            pod,
            attachment,
        }
    }
}

fn attach(node: &Node, pod: &NetworkNamespace, id: &str, ports: &[PortMapping]) -> Result<Attachment, NetworkError> {
    let netns = pod.path();
    let request = AttachRequest {
        ports,
        ..AttachRequest::new(&netns, id, "eth0")
    };
    node.run(|network| pod_network::attach(network, &request))
}

fn port(protocol: Protocol, host_address: Option<&str>, host_port: u16, pod_port: u16) -> PortMapping {
    PortMapping {
        protocol,
        host_address: host_address.map(|address| address.parse().unwrap()),
        host_port,
        pod_port,
    }
}

/// A byte goes from `client` to whoever answers at `to`, which has to be the server; answers who the server saw.
fn by_tcp(client: &NetworkNamespace, to: &str, server: &TcpListener) -> IpAddr {
    let to: SocketAddr = to.parse().unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, peer) = accept(server);
            stream.write_all(b"!").unwrap();
            peer.ip()
        });
        client.run(|| {
            let mut stream = connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream.read_exact(&mut [0]).unwrap();
        });
        server.join().unwrap()
    })
}

#[test]
fn a_port_of_the_node_leads_to_the_pod_from_everywhere() {
    tests::require_root!();
    let world = World::new("port-tcp", &[port(Protocol::Tcp, None, 8080, 80)]);
    let other = world.node.pod("b").0;
    let server = world.pod.run(|| TcpListener::bind("[::]:80").unwrap());
    let unmapped = |seen: IpAddr| seen.to_canonical();
    for (to, outside) in [("192.0.2.1:8080", "192.0.2.2"), ("[2001:db8::1]:8080", "2001:db8::2")] {
        let seen = by_tcp(&world.outside, to, &server);
        assert_eq!(unmapped(seen), outside.parse::<IpAddr>().unwrap(), "{to}");
        for client in [&world.node.namespace, &other, &world.pod] {
            by_tcp(client, to, &server);
        }
    }
    by_tcp(&world.node.namespace, "127.0.0.1:8080", &server);
    by_tcp(&world.node.namespace, "10.244.0.1:8080", &server);
    world.node.detach("a");
    let to = "192.0.2.1:8080".parse().unwrap();
    world.outside.run(|| connect(to)).unwrap_err();
    assert_eq!(world.attachment.container_id, "a");
}

#[test]
fn a_port_of_one_address_leads_from_that_one_alone() {
    tests::require_root!();
    let ports = [
        port(Protocol::Tcp, Some("192.0.2.1"), 8081, 80),
        port(Protocol::Tcp, Some("2001:db8::1"), 8082, 80),
        port(Protocol::Tcp, Some("127.0.0.1"), 8083, 80),
        port(Protocol::Tcp, Some("0.0.0.0"), 8084, 80),
    ];
    let world = World::new("port-address", &ports);
    let server = world.pod.run(|| TcpListener::bind("[::]:80").unwrap());
    for to in ["192.0.2.1:8081", "[2001:db8::1]:8082", "192.0.2.1:8084"] {
        by_tcp(&world.outside, to, &server);
    }
    by_tcp(&world.node.namespace, "127.0.0.1:8083", &server);
    for to in [
        "192.0.2.1:8083",
        "192.0.2.1:8082",
        "[2001:db8::1]:8081",
        "[2001:db8::1]:8084",
    ] {
        let error = world.outside.run(|| connect(to.parse().unwrap())).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
    }
}

#[test]
fn udp_ports_answer_from_the_address_that_was_asked() {
    tests::require_root!();
    let world = World::new("port-udp", &[port(Protocol::Udp, None, 5300, 53)]);
    let server = world.pod.run(|| UdpSocket::bind("[::]:53").unwrap());
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for (from, to) in [
        (&world.outside, "192.0.2.1:5300"),
        (&world.outside, "[2001:db8::1]:5300"),
        (&world.node.namespace, "127.0.0.1:5300"),
        (&world.pod, "192.0.2.1:5300"),
    ] {
        let to: SocketAddr = to.parse().unwrap();
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let client = from.run(|| UdpSocket::bind(any).unwrap());
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.connect(to).unwrap();
        client.send(b"?").unwrap();
        let (_, peer) = server
            .recv_from(&mut [0; 8])
            .unwrap_or_else(|error| panic!("{to}: {error}"));
        server.send_to(b"!", peer).unwrap();
        client.recv(&mut [0; 8]).unwrap_or_else(|error| panic!("{to}: {error}"));
    }
}

#[test]
fn a_port_has_one_pod_and_that_of_a_dead_one_is_taken_over() {
    tests::require_root!();
    let ports = [port(Protocol::Tcp, None, 8080, 80)];
    let world = World::new("port-conflict", &ports);
    let other = NetworkNamespace::new();
    let audit = LeakAudit::begin(&world.node.scratch, &[&world.node.namespace, &other]);
    let error = attach(&world.node, &other, "b", &ports).unwrap_err();
    assert_eq!(error.to_string(), "port 8080/tcp of the node leads to another pod");
    audit.finish();
    // Again for the same pod changes nothing, and another protocol is another port.
    assert_eq!(attach(&world.node, &world.pod, "a", &ports).unwrap(), world.attachment);
    attach(&world.node, &other, "b", &[port(Protocol::Udp, None, 8080, 80)]).unwrap();
    world.node.detach("b");
    drop(world.pod);
    tests::eventually(Duration::from_secs(10), "the link goes with its namespace", || {
        world.node.list().is_empty()
    });
    attach(&world.node, &other, "b", &ports).unwrap();
    let server = other.run(|| TcpListener::bind("[::]:80").unwrap());
    by_tcp(&world.outside, "192.0.2.1:8080", &server);
}

/// The ways by loopback addresses are open for the node alone: a pod that sends to them reaches nobody.
#[test]
fn a_pod_does_not_reach_the_nodes_loopback() {
    tests::require_root!();
    let world = World::new("port-loopback", &[port(Protocol::Tcp, None, 8080, 80)]);
    let secret = world.node.namespace.run(|| UdpSocket::bind("127.0.0.1:99").unwrap());
    secret.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    world
        .pod
        .run(|| std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1"))
        .unwrap();
    for command in [
        &["ip", "address", "del", "127.0.0.1/8", "dev", "lo"][..],
        &["ip", "route", "del", "table", "local", "127.0.0.0/8", "dev", "lo"],
        &["ip", "route", "add", "127.0.0.1", "via", "169.254.1.1", "dev", "eth0"],
    ] {
        world.pod.run(|| {
            let _ = std::process::Command::new(command[0]).args(&command[1..]).output();
        });
    }
    let address = world.attachment.addresses[0];
    world.pod.run(|| {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        let _ = socket.send_to(b"x", "127.0.0.1:99");
    });
    assert!(
        secret.recv_from(&mut [0; 8]).is_err(),
        "the node's loopback was reached"
    );
}
