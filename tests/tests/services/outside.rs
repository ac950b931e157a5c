//! Clients outside of the node: packets through a real uplink, to a pod on the node and to one on another node.
//!
//! ```text
//! client 198.51.100.2 ── up0 [ node ] pod0 ── pod 10.244.0.2
//!                               └ up1 ── other node 203.0.113.2, pod 10.244.1.2, which knows no way to the client
//! ```

use std::process::Command;
use std::sync::Arc;

use agent_core::service::Counters;
use agent_core::service::slice::Slice;
use tests::{NetworkNamespace, Scratch};

use super::client::Client;
use super::node::Node;
use super::server::{Backend, tcp, udp_witness, witness};

pub(crate) struct World {
    scratch: Scratch,
    client: NetworkNamespace,
    node: NetworkNamespace,
    pod: NetworkNamespace,
    other: NetworkNamespace,
}

/// Addresses by which the node is reached, and by which other nodes know it.
const FOUR: &str = "203.0.113.1";
const SIX: &str = "2001:db8:71::1";
const CLIENT4: &str = "198.51.100.2";
const CLIENT6: &str = "2001:db8:51::2";

impl World {
    pub(crate) fn new(name: &str) -> Self {
        let world = Self {
            scratch: Scratch::new(name),
            client: NetworkNamespace::new(),
            node: NetworkNamespace::new(),
            pod: NetworkNamespace::new(),
            other: NetworkNamespace::new(),
        };
        wire(&world.node, "up0", &world.client, "198.51.100", "2001:db8:51:");
        wire(&world.node, "pod0", &world.pod, "10.244.0", "fd00:244:0:");
        wire(&world.node, "up1", &world.other, "203.0.113", "2001:db8:71:");
        for namespace in [&world.client, &world.pod] {
            let (four, six) = if std::ptr::eq(namespace, &world.client) {
                ("198.51.100.1", "2001:db8:51::1")
            } else {
                ("10.244.0.1", "fd00:244:0::1")
            };
            ip(namespace, &format!("route add default via {four}"));
            ip(namespace, &format!("-6 route add default via {six}"));
        }
        ip(&world.other, "address add 10.244.1.2/32 dev lo");
        ip(&world.other, "address add fd00:244:1::2/128 dev lo nodad");
        ip(&world.node, "route add 10.244.1.0/24 via 203.0.113.2");
        ip(&world.node, "-6 route add fd00:244:1::/64 via 2001:db8:71::2");
        forward(&world.node);
        world
    }

    pub(crate) fn node(&self) -> Node<'_> {
        Node::with_uplinks(&self.scratch, &self.node, &["up0", "up1"], &[FOUR, SIX])
    }

    pub(crate) fn client(&self) -> Client {
        self.client.run(Client::start_outside)
    }

    /// A client in the pod, within the node's cgroup.
    pub(crate) fn client_of_pod(&self, node: &Node<'_>) -> Client {
        node.client_in(&self.pod)
    }

    pub(crate) fn here(&self, server: impl FnOnce() -> Backend + Send) -> Backend {
        self.pod.run(server)
    }

    fn there(&self, server: impl FnOnce() -> Backend + Send) -> Backend {
        self.other.run(server)
    }
}

/// A link from the node to a namespace, the node's end with the address 1, the other with 2.
pub(crate) fn wire(node: &NetworkNamespace, name: &str, to: &NetworkNamespace, four: &str, six: &str) {
    let path = to.path();
    ip(
        node,
        &format!("link add {name} type veth peer name eth0 netns {}", path.display()),
    );
    for (namespace, link, last) in [(node, name, 1), (to, "eth0", 2)] {
        ip(namespace, &format!("address add {four}.{last}/24 dev {link}"));
        ip(namespace, &format!("address add {six}:{last}/64 dev {link} nodad"));
        ip(namespace, &format!("link set {link} up"));
    }
}

/// Lets a namespace pass on what is not for itself.
pub(crate) fn forward(namespace: &NetworkNamespace) {
    shell(
        namespace,
        "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
    );
}

#[track_caller]
pub(crate) fn ip(namespace: &NetworkNamespace, arguments: &str) {
    shell(namespace, &format!("ip {arguments}"));
}

#[track_caller]
pub(crate) fn shell(namespace: &NetworkNamespace, command: &str) {
    let output = namespace
        .run(|| Command::new("sh").args(["-c", command]).output())
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A dual-stack Service `web`, port 80 and node port 30080, with more of its spec as YAML lines.
pub(crate) fn web(protocol: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  ipFamilyPolicy: PreferDualStack\n  \
         clusterIPs: [10.96.0.1, \"fd00:96::1\"]\n  clusterIP: 10.96.0.1\n  \
         ports: [{{port: 80, nodePort: 30080, protocol: {protocol}}}]\n{more}"
    )
}

pub(crate) const NODE_PORT: &str = "  type: NodePort\n";

/// One endpoint each; those whose address is the pod's are on this node.
fn slices(backends: &[&Backend]) -> Vec<Arc<Slice>> {
    let slice = |backend: &&Backend| {
        let (address, port) = (backend.address.ip(), backend.address.port());
        let is_here = ["10.244.0.2", "fd00:244::2"]
            .iter()
            .any(|own| own.parse() == Ok(address));
        let object = serde_json::from_value(serde_json::json!({
            "metadata": {"name": backend.label, "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": if address.is_ipv6() { "IPv6" } else { "IPv4" },
            "ports": [{"port": port, "protocol": backend.protocol.to_string()}],
            "endpoints": [{"addresses": [address], "nodeName": if is_here { "here" } else { "there" }}],
        }));
        Arc::new(Slice::of(&object.unwrap()))
    };
    backends.iter().map(slice).collect()
}

#[track_caller]
pub(crate) fn set(node: &mut Node<'_>, manifest: &str, backends: &[&Backend]) {
    node.apply_with(manifest, &[], |facts| {
        facts.slices = slices(backends).into_iter().collect()
    });
}

macro_rules! world {
    ($name:literal, $world:ident, $node:ident) => {
        tests::require_root!();
        tests::require!(tests::Need::Kernel(5, 18));
        let $world = World::new($name);
        let mut $node = $world.node();
    };
}
pub(crate) use world;

const NODE_PORTS: [(&str, &str, &str); 2] = [
    ("203.0.113.1:30080", CLIENT4, FOUR),
    ("[2001:db8:71::1]:30080", CLIENT6, SIX),
];

#[test]
fn a_pod_on_the_node_sees_the_client_itself() {
    world!("out-local", world, node);
    let pods = [
        world.here(witness("10.244.0.2:8080")),
        world.here(witness("[fd00:244::2]:8080")),
    ];
    let mut client = world.client();
    for policy in ["Cluster", "Local"] {
        let spec = format!("{NODE_PORT}  externalTrafficPolicy: {policy}\n");
        set(&mut node, &web("TCP", &spec), &[&pods[0], &pods[1]]);
        for ((address, own, _), pod) in NODE_PORTS.iter().zip(&pods) {
            let answer = client.ask(&format!("say {address} 5000"));
            assert_eq!(answer, format!("{} {own} 5000 from {address}", pod.label), "{policy}");
        }
    }
    assert_eq!(node.counters("web").forwarded, 4);
}

#[test]
fn a_pod_on_another_node_answers_through_this_one() {
    world!("out-remote", world, node);
    let pods = [
        world.there(witness("10.244.1.2:8080")),
        world.there(witness("[fd00:244:1::2]:8080")),
    ];
    set(&mut node, &web("TCP", NODE_PORT), &[&pods[0], &pods[1]]);
    let mut client = world.client();
    for ((address, _, mask), pod) in NODE_PORTS.iter().zip(&pods) {
        for count in [1, 200_000] {
            let answer = client.ask(&format!("say {address} {count}"));
            assert_eq!(answer, format!("{} {mask} {count} from {address}", pod.label));
        }
    }
}

#[test]
fn datagrams_are_answered_whole_and_in_pieces() {
    world!("out-udp", world, node);
    let here = [
        world.here(udp_witness("10.244.0.2:5353")),
        world.here(udp_witness("[fd00:244::2]:5353")),
    ];
    let there = [
        world.there(udp_witness("10.244.1.2:5353")),
        world.there(udp_witness("[fd00:244:1::2]:5353")),
    ];
    let mut client = world.client();
    for (pods, is_here) in [(&here, true), (&there, false)] {
        set(&mut node, &web("UDP", NODE_PORT), &[&pods[0], &pods[1]]);
        for ((address, own, mask), pod) in NODE_PORTS.iter().zip(pods) {
            for count in [30, 1400, 1473, 9000] {
                let answer = client.ask(&format!("say-udp {address} {count}"));
                let seen = if is_here { own } else { mask };
                assert_eq!(answer, format!("{} {seen} {count}", pod.label), "{count} bytes");
            }
        }
    }
}

#[test]
fn without_an_endpoint_on_the_node_packets_are_dropped_and_without_any_refused() {
    world!("out-none", world, node);
    let there = world.there(witness("10.244.1.2:8080"));
    let local = format!("{NODE_PORT}  externalTrafficPolicy: Local\n");
    set(&mut node, &web("TCP", &local), &[&there]);
    let mut client = world.client();
    assert_eq!(client.ask("say 203.0.113.1:30080 1"), "error TimedOut");
    let counted = node.counters("web");
    assert!(counted.no_local > 0 && counted.forwarded == 0, "{counted:?}");
    set(&mut node, &web("TCP", &local), &[]);
    assert_eq!(client.ask("say 203.0.113.1:30080 1"), "error ConnectionRefused");
    assert_eq!(client.ask("say [2001:db8:71::1]:30080 1"), "error ConnectionRefused");
    set(&mut node, &web("UDP", &local), &[]);
    assert_eq!(client.ask("say-udp 203.0.113.1:30080 1"), "error ConnectionRefused");
    assert_eq!(
        client.ask("say-udp [2001:db8:71::1]:30080 1"),
        "error ConnectionRefused"
    );
}

#[test]
fn addresses_that_are_not_the_nodes_own_are_served_and_guarded() {
    world!("out-lb", world, node);
    let (here, there) = (
        world.here(witness("10.244.0.2:8080")),
        world.there(witness("[fd00:244:1::2]:8080")),
    );
    let manifest = |ranges: &str| {
        let spec = format!("  type: LoadBalancer\n  externalIPs: [192.0.2.60]\n{ranges}");
        let status = "status: {loadBalancer: {ingress: [{ip: 192.0.2.50}, {ip: \"2001:db8:50::50\"}]}}\n";
        format!("{}{status}", web("TCP", &spec))
    };
    set(&mut node, &manifest(""), &[&here, &there]);
    let mut client = world.client();
    for (address, pod, seen) in [
        ("192.0.2.50:80", &here, CLIENT4),
        ("192.0.2.60:80", &here, CLIENT4),
        ("[2001:db8:50::50]:80", &there, SIX),
    ] {
        let answer = client.ask(&format!("say {address} 10"));
        assert_eq!(answer, format!("{} {seen} 10 from {address}", pod.label));
    }
    let ranges = |ranges: &str| manifest(&format!("  loadBalancerSourceRanges: [{ranges}]\n"));
    set(
        &mut node,
        &ranges("198.51.100.0/30, \"2001:db8:51::/64\""),
        &[&here, &there],
    );
    assert!(client.ask("say 192.0.2.50:80 10").starts_with(&here.label));
    assert!(client.ask("say [2001:db8:50::50]:80 10").starts_with(&there.label));
    set(
        &mut node,
        &ranges("198.51.100.4/30, \"2001:db8:52::/64\""),
        &[&here, &there],
    );
    assert_eq!(client.ask("say 192.0.2.50:80 10"), "error TimedOut");
    assert_eq!(client.ask("say [2001:db8:50::50]:80 10"), "error TimedOut");
    assert!(
        client.ask("say 192.0.2.60:80 10").starts_with(&here.label),
        "an external address is not guarded"
    );
    let counted = node.counters("web");
    assert!(counted.not_allowed >= 2, "{counted:?}");
    set(&mut node, &manifest(""), &[]);
    assert_eq!(client.ask("say 192.0.2.50:80 10"), "error ConnectionRefused");
}

#[test]
fn a_narrow_link_behind_the_node_is_told_to_the_client() {
    world!("out-mtu", world, node);
    ip(&world.node, "link set pod0 mtu 1300");
    ip(&world.node, "route change 10.244.1.0/24 via 203.0.113.2 mtu lock 1300");
    let here = [
        world.here(witness("10.244.0.2:8080")),
        world.here(witness("[fd00:244::2]:8080")),
    ];
    let there = world.there(witness("10.244.1.2:8080"));
    let mut client = world.client();
    set(&mut node, &web("TCP", NODE_PORT), &[&here[0], &here[1]]);
    for ((address, own, _), pod) in NODE_PORTS.iter().zip(&here) {
        let answer = client.ask(&format!("say {address} 100000"));
        assert_eq!(answer, format!("{} {own} 100000 from {address}", pod.label));
    }
    set(&mut node, &web("TCP", NODE_PORT), &[&there]);
    let answer = client.ask("say 203.0.113.1:30080 100000");
    assert_eq!(answer, format!("{} {FOUR} 100000 from 203.0.113.1:30080", there.label));
}

#[test]
fn a_client_outside_keeps_to_its_backend() {
    world!("out-sticky", world, node);
    let pods: Vec<Backend> = (0..4).map(|_| world.here(tcp("10.244.0.2:0"))).collect();
    let sticky = format!("{NODE_PORT}  sessionAffinity: ClientIP\n");
    set(&mut node, &web("TCP", &sticky), &pods.iter().collect::<Vec<_>>());
    let counts = world.client().burst("203.0.113.1:30080", 30);
    assert_eq!((counts.failed, counts.by_label.len()), (0, 1), "{counts:?}");
    let free = web("TCP", NODE_PORT);
    set(&mut node, &free, &pods.iter().collect::<Vec<_>>());
    let counts = world.client().burst("203.0.113.1:30080", 100);
    assert_eq!((counts.failed, counts.by_label.len()), (0, 4), "{counts:?}");
}

#[test]
fn flows_from_outside_go_on_while_the_agent_is_replaced() {
    world!("out-restart", world, node);
    let pods = [world.here(tcp("10.244.0.2:8080")), world.there(tcp("10.244.1.2:8080"))];
    let manifest = web("TCP", NODE_PORT);
    set(&mut node, &manifest, &[&pods[0], &pods[1]]);
    let mut client = world.client();
    client.start_burst("203.0.113.1:30080");
    for _ in 0..5 {
        node.stop_agent();
        node.start_agent();
        set(&mut node, &manifest, &[&pods[0], &pods[1]]);
    }
    let counts = client.stop_burst();
    assert_eq!(counts.failed, 0, "of {}", counts.total());
    assert_eq!(counts.by_label.len(), 2, "{counts:?}");
}

/// Before Linux 6.6 it is filters that hold the programs, which are of no layout.
#[test]
fn uplinks_are_served_by_an_agent_that_finds_maps_of_another_layout() {
    world!("out-layout", world, node);
    let pod = world.here(tcp("10.244.0.2:8080"));
    node.stop_agent();
    let other = node.bpf_dir().join("v0");
    std::fs::create_dir_all(other.join("links")).unwrap();
    node.start_agent();
    set(&mut node, &web("TCP", NODE_PORT), &[&pod]);
    assert!(!other.exists());
    assert_eq!(
        world.client().ask("tcp 203.0.113.1:30080"),
        format!("{} 203.0.113.1:30080", pod.label)
    );
}

#[test]
fn what_is_no_services_passes_as_it_came() {
    world!("out-other", world, node);
    let own = world.node.run(witness("203.0.113.1:9090"));
    let routed = world.here(witness("10.244.0.2:9091"));
    let pod = world.here(witness("10.244.0.2:8080"));
    set(&mut node, &web("TCP", NODE_PORT), &[&pod]);
    let mut client = world.client();
    for (address, server) in [("203.0.113.1:9090", &own), ("10.244.0.2:9091", &routed)] {
        assert_eq!(
            client.ask(&format!("say {address} 3000")),
            format!("{} {CLIENT4} 3000 from {address}", server.label)
        );
    }
    let nothing = Counters::default();
    assert_eq!(node.counters("web"), nothing);
}
