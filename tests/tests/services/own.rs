//! SCTP of processes of the node itself: packets of raw sockets on any kernel, associations where the kernel has them.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use cni::bandwidth::Bandwidth;

use super::inside::{CLUSTER, INIT, NODE, NODE_PORT, PORT, Raw, SOON, World, exchange, serve, slowly};
use super::outside::web;
use super::remove_all;
use super::server::sctp_witness;

const LOCALHOST: [&str; 2] = ["127.0.0.1", "::1"];
/// First source port of masked clients.
const MASKS: u16 = 61_000;

impl World {
    fn raw(&self, address: &str) -> Raw {
        let address: IpAddr = address.parse().unwrap();
        self.node.run(|| Raw::open(address)).unwrap()
    }

    /// What a command says in the node's namespace.
    fn said(&self, command: &str) -> String {
        let output = self.node.run(|| Command::new("sh").args(["-c", command]).output());
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    /// Rules, routes, settings and filters that are there for the node's own SCTP.
    fn traces(&self) -> String {
        self.said(
            "ip rule show pref 132; ip -6 rule show pref 132; ip route show table 132132 2>&-; \
             ip -6 route show table 132132 2>&-; cd /proc/sys/net; \
             for of in accept_local route_localnet; do grep -x 1 ipv4/conf/lo/$of; done; \
             tc filter show dev lo ingress pref 50 2>&-",
        )
    }
}

#[test]
fn the_node_reaches_an_sctp_service() {
    tests::require_root!();
    tests::require!(tests::Need::Kernel(5, 18));
    let world = World::new("own-raw");
    let (a, b) = (world.pod("a", Bandwidth::default()), world.pod("b", slowly()));
    let mut node = world.node();
    serve(&mut node, "SCTP", &b, &[&a, &b]);
    for family in [0, 1] {
        let (client, backend) = (world.raw(NODE[family]), b.own(family));
        for (port, service) in [(4000, CLUSTER[family]), (4001, NODE_PORT[family])] {
            let seen = exchange(&client, port, service, &backend);
            let itself = SocketAddr::new(NODE[family].parse().unwrap(), port);
            assert_eq!(seen, itself, "the backend sees the node, on its own port");
            // An agent that is away is not missed.
            node.stop_agent();
            exchange(&client, port + 10, service, &backend);
            node.start_agent();
            serve(&mut node, "SCTP", &b, &[&a, &b]);
        }
        // Without a Service between them.
        client.send(4003, b.at(family, PORT), INIT);
        assert_eq!(backend.receive(INIT, SOON).map(|(from, _)| from.port()), Some(4003));
    }
}

#[test]
fn localhost_answers_a_node_port_of_sctp() {
    tests::require_root!();
    tests::require!(tests::Need::Kernel(5, 18));
    let world = World::new("own-localhost");
    let b = world.pod("b", Bandwidth::default());
    let mut node = world.node();
    node.answer_node_ports_on(&LOCALHOST);
    serve(&mut node, "SCTP", &b, &[&b]);
    for family in [0, 1] {
        let (client, backend) = (world.raw(LOCALHOST[family]), b.own(family));
        let service = SocketAddr::new(LOCALHOST[family].parse().unwrap(), 30080).to_string();
        let seen = exchange(&client, 4000, &service, &backend);
        assert_eq!(seen.ip().to_string(), NODE[family]);
        assert!(seen.port() >= MASKS, "{seen}");
    }
}

#[test]
fn nothing_is_left_when_the_last_such_service_goes() {
    tests::require_root!();
    tests::require!(tests::Need::Kernel(5, 18));
    let world = World::new("own-traces");
    let b = world.pod("b", Bandwidth::default());
    let mut node = world.node();
    let forwarding = world.said("cat /proc/sys/net/ipv[46]/conf/lo/forwarding");
    serve(&mut node, "TCP", &b, &[&b]);
    assert_eq!(world.traces(), "", "TCP is answered at sockets");
    serve(&mut node, "SCTP", &b, &[&b]);
    let traces = world.traces();
    for part in [
        "from all iif lo ipproto sctp lookup 132132",
        "nop",
        "10.96.0.1 dev lo",
        "local fd00:96::1 dev lo",
        "src 203.0.113.1",
        "src 2001:db8:71::1",
        "mtu 1500",
        "name node_arriving",
    ] {
        assert!(traces.contains(part), "{part} is not in {traces}");
    }
    // Each writing of it makes the node forget what routers told it.
    let forwarding6 = |world: &World| world.said("cat /proc/sys/net/ipv6/conf/lo/forwarding");
    assert!(forwarding.ends_with(&forwarding6(&world)));
    // Somebody else's addresses are nobody's detours.
    assert_eq!(traces.matches("dev lo proto").count(), 2, "{traces}");
    serve(&mut node, "TCP", &b, &[&b]);
    assert_eq!(world.traces(), "");
    serve(&mut node, "SCTP", &b, &[&b]);
    assert_eq!(world.traces().lines().count(), traces.lines().count());
    node.stop_agent();
    world.node.run(|| remove_all(&node.bpf_dir())).unwrap();
    assert_eq!(world.traces(), "", "without an agent");
    assert_eq!(world.said("cat /proc/sys/net/ipv[46]/conf/lo/forwarding"), forwarding);
}

/// Where the kernel has the protocol itself.
#[test]
fn associations_of_the_node_reach_an_sctp_service() {
    tests::require_root!();
    tests::require!(tests::Need::Kernel(5, 18), tests::Need::Path("/proc/sys/net/sctp"));
    let world = World::new("own-sctp");
    let (a, b) = (world.pod("a", Bandwidth::default()), world.pod("b", slowly()));
    let mut node = world.node();
    node.answer_node_ports_on(&LOCALHOST);
    serve(&mut node, "SCTP", &b, &[&a, &b]);
    let _backends = [0, 1].map(|family| b.namespace.run(sctp_witness(&b.at(family, PORT).to_string())));
    let mut client = node.client();
    for family in [0, 1] {
        let localhost = SocketAddr::new(LOCALHOST[family].parse().unwrap(), 30080).to_string();
        for service in [CLUSTER[family], NODE_PORT[family], &localhost] {
            // The kernel makes packets as large as `lo` takes of messages to the node itself.
            let most = if service == CLUSTER[family] { 20_000 } else { 1400 };
            for count in [1, 1000, most] {
                let answer = client.ask(&format!("say-sctp {service} {count}"));
                let expected = format!(" {} {count} from {service}", NODE[family]);
                assert!(answer.ends_with(&expected), "{answer} is not{expected}");
            }
        }
    }
    // Nobody is there any more: refused at once, and told so.
    node.apply_with(&web("SCTP", "  type: NodePort\n"), &[], |facts| {
        facts.slices = Default::default()
    });
    for service in [CLUSTER, NODE_PORT].concat() {
        assert_eq!(client.ask(&format!("say-sctp {service} 1")), "error ConnectionRefused");
    }
}
