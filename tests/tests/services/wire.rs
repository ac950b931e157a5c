//! Services of two machines on one wire: a client behind the first node, and backends on either. `cargo xtask test vm`
//! boots both ends; the first asks, the second answers until it is told that it is over.
//!
//! ```text
//! client 198.51.100.2 ── up0 [ node 192.0.2.1 ] eth0 ════ eth0 [ node 192.0.2.2 ] pod0 ── pod 10.244.1.2
//!                              └ pod0 ── pod 10.244.0.2              └ slim, 1300 bytes ── pod 10.245.1.2
//! ```

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use agent_core::service::Counters;
use tests::{NetworkNamespace, Scratch, eventually};

use super::client::Client;
use super::node::Node;
use super::outside::{forward, ip, wire};
use super::server::{Backend, sctp_witness, udp_witness, witness};

/// Says which end this is: 0 asks.
const END: &str = "ORLOP_WIRE";
const NODES: [[&str; 2]; 2] = [["192.0.2.1", "2001:db8::1"], ["192.0.2.2", "2001:db8::2"]];
const CLIENT: [&str; 2] = ["198.51.100.2", "2001:db8:51::2"];
const BALANCED: [&str; 2] = ["203.0.113.10", "2001:db8:10::10"];
/// Whose backends answer clients themselves.
const DIRECT: [&str; 2] = ["203.0.113.20", "2001:db8:10::20"];
/// Where the second end hears that it is over.
const OVER: &str = "192.0.2.2:9";
/// How long the other end may take to boot.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of the largest packet on the wire.
const MTU: usize = 1500;

/// A Service: its name, protocol, node port, policy for traffic from outside, and its pods by end and name.
struct Row {
    name: &'static str,
    protocol: &'static str,
    node_port: u16,
    policy: &'static str,
    end: usize,
    pod: [&'static str; 2],
    /// Its load balancer's addresses.
    balanced: Option<[&'static str; 2]>,
    annotations: &'static str,
}

const POD: [[&str; 2]; 2] = [["10.244.0.2", "fd00:244:0::2"], ["10.244.1.2", "fd00:244:1::2"]];
const SLIM: [&str; 2] = ["10.245.1.2", "fd00:245:1::2"];

const fn row(name: &'static str, protocol: &'static str, node_port: u16, end: usize) -> Row {
    Row {
        name,
        protocol,
        node_port,
        policy: "Cluster",
        end,
        pod: POD[end],
        balanced: None,
        annotations: "",
    }
}

const fn direct(name: &'static str, protocol: &'static str, node_port: u16) -> Row {
    Row {
        balanced: Some(DIRECT),
        annotations: "orlop.dev/forward: direct",
        ..row(name, protocol, node_port, 1)
    }
}

/// The Services of both nodes.
const ROWS: [Row; 11] = [
    Row {
        balanced: Some(BALANCED),
        ..row("far", "TCP", 30_080, 1)
    },
    Row {
        policy: "Local",
        ..row("far-local", "TCP", 30_081, 1)
    },
    row("near", "TCP", 30_082, 0),
    row("far-datagrams", "UDP", 30_083, 1),
    Row {
        pod: SLIM,
        ..row("slim", "TCP", 30_084, 1)
    },
    Row {
        pod: SLIM,
        ..row("slim-datagrams", "UDP", 30_085, 1)
    },
    row("far-associations", "SCTP", 30_086, 1),
    Row {
        policy: "Local",
        ..row("far-local-associations", "SCTP", 30_087, 1)
    },
    direct("direct", "TCP", 30_088),
    direct("direct-datagrams", "UDP", 30_089),
    direct("direct-associations", "SCTP", 30_090),
];
/// The port of a Service's backends.
const fn backend_port(row: &Row) -> u16 {
    row.node_port - 22_000
}

#[test]
fn services_reach_across_the_wire() {
    let Ok(end) = std::env::var(END) else {
        eprintln!("SKIP: services::wire needs two machines, which `cargo xtask test vm wire` boots");
        return;
    };
    let end: usize = end.parse().unwrap();
    let world = World::new(end);
    let mut node = Node::with_uplinks(&world.scratch, &world.node, &["eth0", "up0"], &NODES[end]);
    let _backends: Vec<Backend> = ROWS
        .iter()
        .filter(|row| row.end == end)
        .flat_map(|row| world.backends(row))
        .collect();
    let manifests: Vec<String> = ROWS.iter().map(|row| manifest(row, end)).collect();
    node.apply(&manifests.join("---\n"), &[]);
    if end == 1 {
        world
            .node
            .run(|| TcpListener::bind(OVER).and_then(|listener| listener.accept()))
            .unwrap();
        return;
    }
    ask(&world, &node);
    world.node.run(|| TcpStream::connect(OVER)).unwrap();
}

fn ask(world: &World, node: &Node<'_>) {
    let mut client = world.client.run(Client::start_outside);
    for family in [0, 1] {
        let (own, far) = (NODES[0][family], NODES[1][family]);
        eventually(PATIENCE, "the other end answers", || {
            let answer = client.ask(&say(&at(far, 30_080), 1));
            if answer.contains("from") { Ok(()) } else { Err(answer) }
        });
        across(&mut client, family);
        by_policy(&mut client, node, family);
        // A process of the node reaches the other node's ports by packets, and its own by its sockets.
        let mut inside = node.client();
        assert_eq!(seen(&mut inside, &at(far, 30_080), 10), (own.into(), 10));
        assert_eq!(seen(&mut inside, &at(own, 30_081), 10), (own.into(), 10));
        datagrams(&mut client, family);
        associations(&mut client, family);
        directly(&mut client, node, family);
        narrow(&mut client, family);
    }
}

/// A backend on the other node sees the node that was asked in the place of the client, wherever it is itself.
fn across(client: &mut Client, family: usize) {
    let (own, far) = (NODES[0][family], NODES[1][family]);
    let balanced = at(BALANCED[family], 80);
    for count in [1, 200_000] {
        assert_eq!(seen(client, &at(own, 30_080), count), (own.into(), count));
        assert_eq!(seen(client, &balanced, count), (own.into(), count));
        assert_eq!(seen(client, &at(far, 30_082), count), (far.into(), count));
    }
    // Where the backend is on the node that was asked, it sees the client.
    assert_eq!(seen(client, &at(far, 30_080), 10), (CLIENT[family].into(), 10));
    assert_eq!(seen(client, &at(own, 30_082), 10), (CLIENT[family].into(), 10));
}

/// With the policy `Local` only the node of the backend answers.
fn by_policy(client: &mut Client, node: &Node<'_>, family: usize) {
    let before = node.counters("far-local");
    let (own, far) = (NODES[0][family], NODES[1][family]);
    assert_eq!(seen(client, &at(far, 30_081), 10), (CLIENT[family].into(), 10));
    assert_eq!(client.ask(&say(&at(own, 30_081), 10)), "error TimedOut");
    let Counters {
        no_local, forwarded, ..
    } = node.counters("far-local");
    assert!(no_local > before.no_local && forwarded == before.forwarded);
}

/// Datagrams of one packet as large as the wire takes, and in pieces.
fn datagrams(client: &mut Client, family: usize) {
    let (own, far) = (NODES[0][family], NODES[1][family]);
    let whole = MTU - if family == 0 { 28 } else { 48 };
    for count in [30, whole, whole + 1, 9000, 40_000] {
        for (asked, sees) in [(own, own), (far, CLIENT[family])] {
            let answer = client.ask(&format!("say-udp {} {count}", at(asked, 30_083)));
            let words: Vec<&str> = answer.split(' ').skip(1).collect();
            assert_eq!(words, [sees, &count.to_string()], "{count} bytes to {asked}: {answer}");
        }
    }
}

/// Associations of SCTP, whose checksum covers the ports.
fn associations(client: &mut Client, family: usize) {
    let (own, far) = (NODES[0][family], NODES[1][family]);
    for (asked, sees) in [(own, own), (far, CLIENT[family])] {
        for count in [1, 1000, 20_000] {
            let address = at(asked, 30_086);
            let answer = client.ask(&format!("say-sctp {address} {count}"));
            let expected = format!(" {sees} {count} from {address}");
            assert!(answer.ends_with(&expected), "{answer} is not{expected}");
        }
    }
    let answer = client.ask(&format!("say-sctp {} 1", at(far, 30_087)));
    assert!(answer.contains(CLIENT[family]), "{answer}");
    let answer = client.ask(&format!("say-sctp {} 1", at(own, 30_087)));
    assert!(answer.starts_with("error "), "{answer}");
}

/// The backend's node answers in the name of the address that the first one was asked by.
fn directly(client: &mut Client, node: &Node<'_>, family: usize) {
    let address = at(DIRECT[family], 80);
    let own = CLIENT[family];
    for count in [1, 200_000] {
        assert_eq!(seen(client, &address, count), (own.into(), count));
    }
    let answer = client.ask(&format!("say-sctp {address} 5000"));
    assert!(answer.ends_with(&format!(" {own} 5000 from {address}")), "{answer}");
    let answer = client.ask(&format!("say-udp {address} 1000"));
    assert!(answer.ends_with(&format!(" {own} 1000")), "{answer}");
    // What does not fit on the wire with the address in it goes through the first node.
    let answer = client.ask(&format!("say-udp {address} 9000"));
    assert!(answer.ends_with(&format!(" {} 9000", NODES[0][family])), "{answer}");
    assert!(node.counters("direct").forwarded > 0);
}

/// Behind the other node a link is too narrow for the client's packets: the client hears of it and sends smaller ones.
fn narrow(client: &mut Client, family: usize) {
    let (own, far) = (NODES[0][family], NODES[1][family]);
    for (asked, sees) in [(own, own), (far, CLIENT[family])] {
        assert_eq!(seen(client, &at(asked, 30_084), 100_000), (sees.into(), 100_000));
        // The first one is lost.
        eventually(
            PATIENCE,
            "a datagram that is told to be too big is sent in pieces",
            || {
                let answer = client.ask(&format!("say-udp {} 1400", at(asked, 30_085)));
                if answer.ends_with(&format!("{sees} 1400")) {
                    Ok(())
                } else {
                    Err(answer)
                }
            },
        );
    }
}

fn say(address: &str, count: usize) -> String {
    format!("say {address} {count}")
}

/// Whom the backend saw, and how many bytes; the answer comes from where it was asked for.
#[track_caller]
fn seen(client: &mut Client, address: &str, count: usize) -> (String, usize) {
    let answer = client.ask(&say(address, count));
    match answer.split(' ').collect::<Vec<_>>()[..] {
        [_, who, count, "from", from] if from == address => (who.to_owned(), count.parse().unwrap()),
        _ => panic!("{address}: {answer}"),
    }
}

fn at(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// The Service and its slices as this end knows them.
fn manifest(row: &Row, end: usize) -> String {
    let Row {
        name,
        protocol,
        node_port,
        policy,
        annotations,
        ..
    } = row;
    let node = if row.end == end { "here" } else { "there" };
    let number = node_port - 30_080;
    let (status, kind) = match row.balanced {
        Some([four, six]) => (
            format!("status: {{loadBalancer: {{ingress: [{{ip: {four}}}, {{ip: \"{six}\"}}]}}}}\n"),
            "LoadBalancer",
        ),
        None => (String::new(), "NodePort"),
    };
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec:\n  type: {kind}\n  \
         ipFamilyPolicy: PreferDualStack\n  clusterIPs: [10.96.0.{0}, \"fd00:96::{0}\"]\n  clusterIP: 10.96.0.{0}\n  \
         externalTrafficPolicy: {policy}\n  ports: [{{port: 80, nodePort: {node_port}, protocol: {protocol}}}]\n{status}",
        number + 1
    );
    let port = backend_port(row);
    for (family, address) in ["IPv4", "IPv6"].iter().zip(row.pod) {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-{}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: {family}\n\
             ports: [{{port: {port}, protocol: {protocol}}}]\nendpoints: [{{addresses: [\"{address}\"], nodeName: {node}}}]\n",
            family.to_lowercase()
        );
    }
    text
}

/// One end.
struct World {
    scratch: Scratch,
    node: NetworkNamespace,
    pod: NetworkNamespace,
    slim: NetworkNamespace,
    client: NetworkNamespace,
}

impl World {
    fn new(end: usize) -> Self {
        let world = Self {
            scratch: Scratch::new("wire-services"),
            node: NetworkNamespace::new(),
            pod: NetworkNamespace::new(),
            slim: NetworkNamespace::new(),
            client: NetworkNamespace::new(),
        };
        let node = &world.node;
        forward(node);
        plug_in(node, NODES[end]);
        let other = 1 - end;
        for (name, to, four, six) in [
            ("pod0", &world.pod, format!("10.244.{end}"), format!("fd00:244:{end}:")),
            ("slim", &world.slim, format!("10.245.{end}"), format!("fd00:245:{end}:")),
            (
                "up0",
                &world.client,
                ["198.51.100", "198.51.101"][end].to_owned(),
                ["2001:db8:51:", "2001:db8:52:"][end].to_owned(),
            ),
        ] {
            wire(node, name, to, &four, &six);
            ip(to, &format!("route add default via {four}.1"));
            ip(to, &format!("-6 route add default via {six}:1"));
        }
        let [four, six] = NODES[other];
        for route in [
            format!("10.245.{end}.2 dev slim mtu lock 1300"),
            format!("fd00:245:{end}::2 dev slim mtu lock 1300"),
            format!("10.244.{other}.0/24 via {four}"),
            format!("10.245.{other}.0/24 via {four}"),
            format!("{} via {four}", ["198.51.100.0/24", "198.51.101.0/24"][other]),
            format!("fd00:244:{other}::/64 via {six}"),
            format!("fd00:245:{other}::/64 via {six}"),
            format!("{} via {six}", ["2001:db8:51::/64", "2001:db8:52::/64"][other]),
        ] {
            ip(node, &format!("route add {route}"));
        }
        world
    }

    /// The backends of a Service on this end.
    fn backends(&self, row: &Row) -> Vec<Backend> {
        let namespace = if row.pod == SLIM { &self.slim } else { &self.pod };
        row.pod
            .iter()
            .map(|address| {
                let address = at(address, backend_port(row));
                match row.protocol {
                    "UDP" => namespace.run(udp_witness(&address)),
                    "SCTP" => namespace.run(sctp_witness(&address)),
                    _ => namespace.run(witness(&address)),
                }
            })
            .collect()
    }
}

/// The machine's only link becomes the node's.
fn plug_in(node: &NetworkNamespace, [four, six]: [&str; 2]) {
    let path = node.path();
    let moved = Command::new("ip")
        .args(["link", "set", "eth0", "netns"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(moved.status.success(), "{moved:?}");
    for arguments in [
        format!("address add {four}/24 dev eth0"),
        format!("address add {six}/64 dev eth0 nodad"),
        "link set eth0 up".to_owned(),
    ] {
        ip(node, &arguments);
    }
}
