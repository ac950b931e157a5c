//! The packet flows of kube-proxy's own tests (`packetFlowTest` of `pkg/proxy/nftables/proxier_test.go`, and what those of
//! `pkg/proxy/iptables/proxier_test.go` have beside them), restated: who asks which kind of address, and where that leads.
//! The choice is made on the kernel's maps; packets from outside go through the program, too. Each row says which of those
//! tests it is of; one without a name is of none.
//!
//! Not here: `masqueradeAll` and a proxy that doesn't know its pods (TestInternalExternalMasquerade), as nobody who asks from
//! the node is ever masked; a source that is the balancer's own address (TestLoadBalancer), which rules see and sockets don't
//! have; hairpin (TestClusterIPGeneral), which takes a pod (`features`, and `inside` for SCTP); and of iptables, the rules
//! that let health checks in (TestHealthCheckNodePort, TestTracePackets), as nothing keeps them out: `health` asks the port
//! itself. What is in the file beside flows is the text of rules (TestOverallNFTablesRules, TestSyncProxyRulesRepeated,
//! TestSyncProxyRulesStartup, TestBadIPs, the names of chains), what is kube-proxy's own (TestBuildServiceMap…,
//! TestUpdateEndpointsMap, TestProxier_OnServiceCIDRsChanged), or has its test elsewhere: TestLoadBalancerIngressRouteTypeProxy
//! in `features`, TestNoEndpointsMetric and TestHealthCheckNodePortWhenTerminating in `agent_core::service` (`metrics`,
//! `table`).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use agent::hands::maps::look::Question;
use ebpf_common::lookup::Choice;
use ebpf_common::maps::{SCTP, TCP, UDP};

use super::frame::Frame;
use super::{Bench, DROP, SYN, at, ip};

const POD: [&str; 2] = ["10.244.0.9:4000", "[fd00:244::9]:4000"];
const NODE: [&str; 2] = ["203.0.113.1:4000", "[2001:db8:71::1]:4000"];
const OUTSIDE: [&str; 2] = ["198.51.100.2:4000", "[2001:db8:51::2]:4000"];
/// An address of each kind, in their order.
const KINDS: [&str; 4] = ["cluster", "node port", "balancer", "external"];
const ADDRESSES: [[&str; 2]; 4] = [
    ["10.96.0.1:80", "[fd00:96::1]:80"],
    ["203.0.113.1:30080", "[2001:db8:71::1]:30080"],
    ["192.0.2.50:80", "[2001:db8:50::50]:80"],
    ["192.0.2.60:80", "[2001:db8:60::60]:80"],
];
/// Endpoints by name: the node that they are on, and their addresses.
const ENDPOINTS: [(&str, &str, [&str; 2]); 5] = [
    ("near", "here", ["10.244.0.2:8080", "[fd00:244::2]:8080"]),
    ("next", "here", ["10.244.0.3:8080", "[fd00:244::3]:8080"]),
    ("third", "here", ["10.244.0.4:8080", "[fd00:244::4]:8080"]),
    ("last", "here", ["10.244.0.5:8080", "[fd00:244::5]:8080"]),
    ("far", "there", ["10.244.1.2:8080", "[fd00:244:1::2]:8080"]),
];

const READY: &str = "ready: true";
const UNREADY: &str = "ready: false";
const GOING: &str = "ready: false, serving: true, terminating: true";
const GONE: &str = "ready: false, serving: false, terminating: true";

/// How many clients outside ask.
const FLOWS: u16 = 8;
const BOTH: &str = "near far";
/// It is no Service's.
const PASSED: &str = "passed";

/// A Service: what is in its spec, the conditions of its endpoints by their names, and where each kind of address leads
/// those inside (pods and the node alike) and outside. Cluster addresses lead both to the same.
struct Row {
    name: &'static str,
    spec: &'static str,
    endpoints: &'static [(&'static str, &'static str)],
    inside: [&'static str; 4],
    outside: [&'static str; 4],
}

const CLUSTER: &str = "externalTrafficPolicy: Cluster";
const LOCAL: &str = "externalTrafficPolicy: Local";
const INTERNAL: &str = "internalTrafficPolicy: Local";
const BOTH_LOCAL: &str = "internalTrafficPolicy: Local\n  externalTrafficPolicy: Local";

const ROWS: [Row; 22] = [
    // TestNodePorts, TestExternalTrafficPolicyCluster, TestInternalExternalMasquerade, TestInternalTrafficPolicy.
    row(
        "both ready",
        CLUSTER,
        &[("near", READY), ("far", READY)],
        [BOTH; 4],
        [BOTH; 3],
    ),
    // TestNoEndpointsReject; TestInternalTrafficPolicy and both of terminating endpoints, when their slice is deleted.
    row("none", CLUSTER, &[], ["refused"; 4], ["refused"; 3]),
    row(
        "one not ready",
        CLUSTER,
        &[("near", UNREADY), ("far", READY)],
        ["far"; 4],
        ["far"; 3],
    ),
    row(
        "none ready",
        CLUSTER,
        &[("near", UNREADY), ("far", UNREADY)],
        ["refused"; 4],
        ["refused"; 3],
    ),
    // TestTerminatingEndpointsTrafficPolicyCluster.
    row(
        "ready ones here and there, others about to go and gone",
        CLUSTER,
        &[("near", READY), ("next", GOING), ("last", GONE), ("far", READY)],
        [BOTH; 4],
        [BOTH; 3],
    ),
    row(
        "one about to go",
        CLUSTER,
        &[("near", GOING), ("far", READY)],
        ["far"; 4],
        ["far"; 3],
    ),
    row(
        "both about to go, one gone",
        CLUSTER,
        &[("near", GOING), ("last", GONE), ("far", GOING)],
        [BOTH; 4],
        [BOTH; 3],
    ),
    row(
        "about to go elsewhere",
        CLUSTER,
        &[("far", GOING)],
        ["far"; 4],
        ["far"; 3],
    ),
    row(
        "both gone",
        CLUSTER,
        &[("near", GONE), ("far", GONE)],
        ["refused"; 4],
        ["refused"; 3],
    ),
    // TestExternalTrafficPolicyLocal, TestInternalExternalMasquerade.
    row(
        "local, both ready",
        LOCAL,
        &[("near", READY), ("far", READY)],
        [BOTH; 4],
        ["near"; 3],
    ),
    row("local, none here", LOCAL, &[("far", READY)], ["far"; 4], ["dropped"; 3]),
    // TestTerminatingEndpointsTrafficPolicyLocal.
    row(
        "local, two ready, one about to go, one gone, one elsewhere",
        LOCAL,
        &[
            ("near", READY),
            ("next", READY),
            ("third", GOING),
            ("last", GONE),
            ("far", READY),
        ],
        ["near next far"; 4],
        ["near next"; 3],
    ),
    row(
        "local, those here about to go or gone",
        LOCAL,
        &[("near", GOING), ("next", GOING), ("last", GONE), ("far", READY)],
        ["far"; 4],
        ["near next"; 3],
    ),
    row(
        "local, about to go elsewhere",
        LOCAL,
        &[("far", GOING)],
        ["far"; 4],
        ["dropped"; 3],
    ),
    row(
        "local, both gone",
        LOCAL,
        &[("near", GONE), ("far", GONE)],
        ["refused"; 4],
        ["refused"; 3],
    ),
    row("local, none at all", LOCAL, &[], ["refused"; 4], ["refused"; 3]),
    // TestInternalTrafficPolicy, TestInternalExternalMasquerade.
    row(
        "internal, both ready",
        INTERNAL,
        &[("near", READY), ("far", READY)],
        ["near", BOTH, BOTH, BOTH],
        [BOTH; 3],
    ),
    row(
        "internal, two here",
        INTERNAL,
        &[("near", READY), ("next", READY), ("far", READY)],
        ["near next", "near next far", "near next far", "near next far"],
        ["near next far"; 3],
    ),
    row(
        "internal, none here",
        INTERNAL,
        &[("far", READY)],
        ["dropped", "far", "far", "far"],
        ["far"; 3],
    ),
    // TestNoEndpointsMetric has both policies without a flow.
    row(
        "both policies, none here",
        BOTH_LOCAL,
        &[("far", READY)],
        ["dropped", "far", "far", "far"],
        ["dropped"; 3],
    ),
    row(
        "both policies, none at all",
        BOTH_LOCAL,
        &[],
        ["refused"; 4],
        ["refused"; 3],
    ),
    // TestLoadBalancer: who is blocked.
    row(
        "source ranges",
        "loadBalancerSourceRanges: [192.0.2.0/24, \"2001:db8:2::/64\"]",
        &[("near", READY), ("far", READY)],
        [BOTH, BOTH, "dropped", BOTH],
        [BOTH, "dropped", BOTH],
    ),
];

const fn row(
    name: &'static str,
    spec: &'static str,
    endpoints: &'static [(&'static str, &'static str)],
    inside: [&'static str; 4],
    [node_port, balancer, external]: [&'static str; 3],
) -> Row {
    Row {
        name,
        spec,
        endpoints,
        inside,
        outside: [inside[0], node_port, balancer, external],
    }
}

#[test]
fn flows_go_where_upstreams_tests_have_them_go() {
    tests::require_root!();
    tests::require!(tests::Need::Kernel(5, 18));
    let mut bench = Bench::new("fr-upstream", "");
    bench.facts.cluster_ips_outside = true;
    for row in &ROWS {
        bench.set(&manifest(row));
        for family in [0, 1] {
            for (kind, addresses) in ADDRESSES.iter().enumerate() {
                let to = at(addresses[family]);
                let told = |who: &str| format!("{}: {who} to {}, {to}", row.name, KINDS[kind]);
                for (who, from) in [("pod", POD), ("node", NODE)] {
                    let found = looked(&bench, at(from[family]), to);
                    assert_eq!(found, row.inside[kind], "{}", told(who));
                }
                // Each kind has client ports of its own: two flows of one to the same backend are another test's affair.
                let mut from = at(OUTSIDE[family]);
                from.set_port(from.port() + FLOWS * u16::try_from(kind).unwrap());
                let found = looked(&bench, from, to);
                assert_eq!(found, row.outside[kind], "{}", told("outside"));
                sent(&mut bench, from, to, row.outside[kind], &told("outside"));
            }
        }
    }
}

/// Ports of a protocol and addresses of the same kind are told apart: TestClusterIPGeneral, TestLoadBalancer, TestNodePorts.
#[test]
fn ports_and_addresses_are_told_apart_as_upstreams_tests_tell_them() {
    tests::require_root!();
    tests::require!(tests::Need::Kernel(5, 18));
    let mut bench = Bench::new("fr-upstream-ports", APART);
    for (name, from, to, protocol, expected) in &ASKED {
        for family in [0, 1] {
            let found = chosen(&bench, at(from[family]), at(to[family]), *protocol);
            let ports = found.map(|slots| slots.iter().map(SocketAddr::port).collect::<Vec<u16>>());
            let expected = expected.map(|port| vec![port; 2]);
            assert_eq!(ports, expected, "{name}, IPv{}", [4, 6][family]);
        }
    }
    // TestNodePorts with `--nodeport-addresses` that have the second address in them, too; of iptables', localhost.
    let more = SECOND_NODE_ADDRESS.iter().chain(&LOCALHOST_NODE_PORT);
    let more = more.map(|address| at(address).ip());
    bench.facts.node_port_addresses.extend(more);
    bench.set(APART);
    let second = OUTSIDE.iter().chain(&BLOCKED).zip(SECOND_NODE_ADDRESS.iter().cycle());
    for (from, to) in second.chain(LOCALHOST.iter().zip(&LOCALHOST_NODE_PORT)) {
        let found = chosen(&bench, at(from), at(to), TCP);
        assert_eq!(found.map(|slots| slots.len()), Ok(2), "{from} to {to}");
    }
}

/// Who asks which address by which protocol, and the port of both endpoints that it leads to, or why to none.
type Asked = (
    &'static str,
    [&'static str; 2],
    [&'static str; 2],
    u8,
    Result<u16, &'static str>,
);

const BLOCKED: [&str; 2] = ["198.51.100.130:4000", "[2001:db8:51:8000::2]:4000"];
const SECOND_BALANCER: [&str; 2] = ["192.0.2.51:80", "[2001:db8:50::51]:80"];
const LOCALHOST: [&str; 2] = ["127.0.0.1:4000", "[::1]:4000"];
const LOCALHOST_NODE_PORT: [&str; 2] = ["127.0.0.1:30080", "[::1]:30080"];
const SECOND_NODE_ADDRESS: [&str; 2] = ["203.0.113.77:30080", "[2001:db8:71::77]:30080"];

const ASKED: [Asked; 24] = [
    ("cluster address", POD, ADDRESSES[0], TCP, Ok(8080)),
    (
        "another Service's",
        POD,
        ["10.96.0.2:80", "[fd00:96::2]:80"],
        TCP,
        Ok(8080),
    ),
    (
        "a target port",
        POD,
        ["10.96.0.1:443", "[fd00:96::1]:443"],
        TCP,
        Ok(8443),
    ),
    ("one port, TCP", POD, ["10.96.0.1:53", "[fd00:96::1]:53"], TCP, Ok(5353)),
    ("one port, UDP", POD, ["10.96.0.1:53", "[fd00:96::1]:53"], UDP, Ok(53)),
    (
        "one port, SCTP",
        POD,
        ["10.96.0.1:53", "[fd00:96::1]:53"],
        SCTP,
        Ok(5399),
    ),
    (
        "one port, SCTP, from outside",
        OUTSIDE,
        ["192.0.2.50:53", "[2001:db8:50::50]:53"],
        SCTP,
        Ok(5399),
    ),
    // What is no Service's is refused or dropped by kube-proxy's nftables, and passed on by its iptables, as here.
    ("a port of TCP by UDP", POD, ADDRESSES[0], UDP, Err(PASSED)),
    (
        "a port of another Service",
        POD,
        ["10.96.0.2:443", "[fd00:96::2]:443"],
        TCP,
        Err(PASSED),
    ),
    (
        "an address of nobody",
        POD,
        ["10.96.0.50:80", "[fd00:96::50]:80"],
        TCP,
        Err(PASSED),
    ),
    (
        "cluster address, from outside without --service-cluster-ips-outside",
        OUTSIDE,
        ADDRESSES[0],
        TCP,
        Err(PASSED),
    ),
    ("balancer, allowed", OUTSIDE, ADDRESSES[2], TCP, Ok(8080)),
    ("second balancer, allowed", OUTSIDE, SECOND_BALANCER, TCP, Ok(8080)),
    ("balancer, blocked", BLOCKED, ADDRESSES[2], TCP, Err("dropped")),
    (
        "second balancer, blocked",
        BLOCKED,
        SECOND_BALANCER,
        TCP,
        Err("dropped"),
    ),
    ("balancer, a pod", POD, ADDRESSES[2], TCP, Err("dropped")),
    ("second balancer, a pod", POD, SECOND_BALANCER, TCP, Err("dropped")),
    ("balancer, the node", NODE, ADDRESSES[2], TCP, Ok(8080)),
    ("second balancer, the node", NODE, SECOND_BALANCER, TCP, Ok(8080)),
    ("node port, whoever is blocked", BLOCKED, ADDRESSES[1], TCP, Ok(8080)),
    ("node port, the node", NODE, ADDRESSES[1], TCP, Ok(8080)),
    // TestNodePorts of the iptables file.
    (
        "localhost without --nodeport-addresses of it",
        LOCALHOST,
        LOCALHOST_NODE_PORT,
        TCP,
        Err(PASSED),
    ),
    // TestTracePackets of the iptables file.
    (
        "another pod",
        POD,
        ["10.244.0.2:80", "[fd00:244::2]:80"],
        TCP,
        Err(PASSED),
    ),
    (
        "an address that has no node ports",
        OUTSIDE,
        SECOND_NODE_ADDRESS,
        TCP,
        Err(PASSED),
    ),
];

/// Two Services, the first with many ports and source ranges that have the node in them.
const APART: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd00:96::1"]
  loadBalancerSourceRanges: [203.0.113.0/24, 198.51.100.0/25, "2001:db8:71::/64", "2001:db8:51::/64"]
  ports:
  - {name: http, port: 80, nodePort: 30080}
  - {name: https, port: 443, nodePort: 30443}
  - {name: dns-tcp, port: 53, nodePort: 30053}
  - {name: dns-udp, port: 53, nodePort: 30054, protocol: UDP}
  - {name: dns-sctp, port: 53, nodePort: 30055, protocol: SCTP}
status:
  loadBalancer: {ingress: [{ip: 192.0.2.50}, {ip: 192.0.2.51}, {ip: "2001:db8:50::50"}, {ip: "2001:db8:50::51"}]}
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec:
  ipFamilyPolicy: PreferDualStack
  clusterIP: 10.96.0.2
  clusterIPs: [10.96.0.2, "fd00:96::2"]
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports:
- {name: http, port: 8080}
- {name: https, port: 8443}
- {name: dns-tcp, port: 5353}
- {name: dns-udp, port: 53, protocol: UDP}
- {name: dns-sctp, port: 5399, protocol: SCTP}
endpoints: [{addresses: [10.244.0.2], nodeName: here}, {addresses: [10.244.1.2], nodeName: there}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports:
- {name: http, port: 8080}
- {name: https, port: 8443}
- {name: dns-tcp, port: 5353}
- {name: dns-udp, port: 53, protocol: UDP}
- {name: dns-sctp, port: 5399, protocol: SCTP}
endpoints: [{addresses: ["fd00:244::2"], nodeName: here}, {addresses: ["fd00:244:1::2"], nodeName: there}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: other-4, labels: {kubernetes.io/service-name: other}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.0.2], nodeName: here}, {addresses: [10.244.1.2], nodeName: there}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: other-6, labels: {kubernetes.io/service-name: other}}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints: [{addresses: ["fd00:244::2"], nodeName: here}, {addresses: ["fd00:244:1::2"], nodeName: there}]
"#;

/// Where the choice on the kernel's maps leads, by the names of the endpoints.
fn looked(bench: &Bench, from: SocketAddr, to: SocketAddr) -> String {
    match chosen(bench, from, to, TCP) {
        Err(why) => why.into(),
        Ok(slots) => {
            let is_there = |addresses: &[&str; 2]| addresses.iter().any(|address| slots.contains(&at(address)));
            let names = ENDPOINTS.iter().filter(|(_, _, addresses)| is_there(addresses));
            names.map(|(name, ..)| *name).collect::<Vec<_>>().join(" ")
        }
    }
}

/// The backends among which the choice on the kernel's maps falls, or why on none.
fn chosen(bench: &Bench, from: SocketAddr, to: SocketAddr, protocol: u8) -> Result<BTreeSet<SocketAddr>, &'static str> {
    let question = Question {
        source: from.ip(),
        destination: to,
        protocol,
    };
    let finding = bench.maps.look(&question, 0).unwrap();
    match finding.choice {
        Choice::NotAService => Err(PASSED),
        Choice::Refused { .. } => Err("refused"),
        Choice::Dropped { .. } => Err("dropped"),
        Choice::Backend { .. } => Ok(finding.slots.into_iter().collect()),
    }
}

/// What the program makes of a client's packets: who is here sees the client, who is elsewhere the node.
#[track_caller]
fn sent(bench: &mut Bench, from: SocketAddr, to: SocketAddr, expected: &str, told: &str) {
    // One client port through two addresses to one backend is another test's affair.
    for port in from.port()..from.port() + FLOWS {
        let from = SocketAddr::new(from.ip(), port);
        let request = Frame::tcp(from, to, SYN);
        let (verdict, bytes) = bench.arrive(&request);
        match expected {
            "dropped" => assert_eq!(verdict, DROP, "{told}"),
            "refused" => assert_eq!(Frame::parse(&bytes).to.port(), 0, "{told}"),
            _ => {
                let arrived = Frame::parse(&bytes);
                let (name, ..) = ENDPOINTS
                    .iter()
                    .find(|(_, _, all)| all.iter().any(|address| at(address) == arrived.to))
                    .unwrap();
                assert!(expected.split(' ').any(|one| one == *name), "{told}: {name}");
                assert_eq!(arrived.from, from, "{told}");
                if *name == "far" {
                    let node = if from.is_ipv4() {
                        "203.0.113.1"
                    } else {
                        "2001:db8:71::1"
                    };
                    assert_eq!(bench.left(&arrived).from.ip(), ip(node), "{told}");
                }
            }
        }
    }
}

fn manifest(row: &Row) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  type: LoadBalancer\n  \
         ipFamilyPolicy: PreferDualStack\n  clusterIP: 10.96.0.1\n  clusterIPs: [10.96.0.1, \"fd00:96::1\"]\n  \
         externalIPs: [192.0.2.60, \"2001:db8:60::60\"]\n  {}\n  ports: [{{port: 80, nodePort: 30080}}]\n\
         status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.50}}, {{ip: \"2001:db8:50::50\"}}]}}}}\n",
        row.spec
    );
    for (name, conditions) in row.endpoints {
        let (_, node, addresses) = ENDPOINTS.iter().find(|(known, ..)| known == name).unwrap();
        for (family, address) in ["IPv4", "IPv6"].iter().zip(addresses) {
            text += &format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{name: {name}-{}, labels: {{kubernetes.io/service-name: web}}}}\naddressType: {family}\n\
                 ports: [{{port: 8080}}]\n\
                 endpoints: [{{addresses: [\"{}\"], nodeName: {node}, conditions: {{{}}}}}]\n",
                family.to_lowercase(),
                at(address).ip(),
                conditions,
            );
        }
    }
    text
}
