//! The packet flows of kube-proxy's own tests (`packetFlowTest` of its proxiers), restated: who asks which kind of address,
//! and where that leads. The choice is made on the kernel's maps; packets from outside go through the program, too.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use agent::hands::maps::look::Question;
use ebpf_common::lookup::Choice;
use ebpf_common::maps::TCP;

use super::frame::Frame;
use super::{Bench, DROP, PASS, SYN, at, ip};

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
const ENDPOINTS: [(&str, &str, [&str; 2]); 2] = [
    ("near", "here", ["10.244.0.2:8080", "[fd00:244::2]:8080"]),
    ("far", "there", ["10.244.1.2:8080", "[fd00:244:1::2]:8080"]),
];

const READY: &str = "ready: true";
const UNREADY: &str = "ready: false";
const GOING: &str = "ready: false, serving: true, terminating: true";
const GONE: &str = "ready: false, serving: false, terminating: true";

/// How many clients outside ask.
const FLOWS: u16 = 8;
const BOTH: &str = "near far";
/// A cluster address is answered inside of the cluster alone: kube-proxy answers and masquerades what is routed to it.
const PASSED: &str = "passed";

/// A Service: what is in its spec, the conditions of the endpoint on this node and of the one on another, and where each
/// kind of address leads those inside (pods and the node alike) and outside.
struct Row {
    name: &'static str,
    spec: &'static str,
    near: Option<&'static str>,
    far: Option<&'static str>,
    inside: [&'static str; 4],
    outside: [&'static str; 4],
}

const CLUSTER: &str = "externalTrafficPolicy: Cluster";
const LOCAL: &str = "externalTrafficPolicy: Local";
const INTERNAL: &str = "internalTrafficPolicy: Local";

const ROWS: [Row; 14] = [
    row("both ready", CLUSTER, Some(READY), Some(READY), [BOTH; 4], [BOTH; 3]),
    row("none", CLUSTER, None, None, ["refused"; 4], ["refused"; 3]),
    row(
        "one not ready",
        CLUSTER,
        Some(UNREADY),
        Some(READY),
        ["far"; 4],
        ["far"; 3],
    ),
    row(
        "none ready",
        CLUSTER,
        Some(UNREADY),
        Some(UNREADY),
        ["refused"; 4],
        ["refused"; 3],
    ),
    row(
        "one about to go",
        CLUSTER,
        Some(GOING),
        Some(READY),
        ["far"; 4],
        ["far"; 3],
    ),
    row(
        "both about to go",
        CLUSTER,
        Some(GOING),
        Some(GOING),
        [BOTH; 4],
        [BOTH; 3],
    ),
    row(
        "both gone",
        CLUSTER,
        Some(GONE),
        Some(GONE),
        ["refused"; 4],
        ["refused"; 3],
    ),
    row(
        "local, both ready",
        LOCAL,
        Some(READY),
        Some(READY),
        [BOTH; 4],
        ["near"; 3],
    ),
    row("local, none here", LOCAL, None, Some(READY), ["far"; 4], ["dropped"; 3]),
    row(
        "local, the one here about to go",
        LOCAL,
        Some(GOING),
        Some(READY),
        ["far"; 4],
        ["near"; 3],
    ),
    row("local, none at all", LOCAL, None, None, ["refused"; 4], ["refused"; 3]),
    row(
        "internal, both ready",
        INTERNAL,
        Some(READY),
        Some(READY),
        ["near", BOTH, BOTH, BOTH],
        [BOTH; 3],
    ),
    row(
        "internal, none here",
        INTERNAL,
        None,
        Some(READY),
        ["dropped", "far", "far", "far"],
        ["far"; 3],
    ),
    row(
        "source ranges",
        "loadBalancerSourceRanges: [192.0.2.0/24, \"2001:db8:2::/64\"]",
        Some(READY),
        Some(READY),
        [BOTH, BOTH, "dropped", BOTH],
        [BOTH, "dropped", BOTH],
    ),
];

const fn row(
    name: &'static str,
    spec: &'static str,
    near: Option<&'static str>,
    far: Option<&'static str>,
    inside: [&'static str; 4],
    [node_port, balancer, external]: [&'static str; 3],
) -> Row {
    Row {
        name,
        spec,
        near,
        far,
        inside,
        outside: [PASSED, node_port, balancer, external],
    }
}

#[test]
fn flows_go_where_upstreams_tests_have_them_go() {
    tests::require_root!();
    tests::require!(tests::Need::Kernel(5, 18));
    let mut bench = Bench::new("fr-upstream", "");
    for row in &ROWS {
        bench.set(&manifest(row));
        for family in [0, 1] {
            for (kind, addresses) in ADDRESSES.iter().enumerate() {
                let to = at(addresses[family]);
                let told = |who: &str| format!("{}: {who} to {}, {to}", row.name, KINDS[kind]);
                for (who, from) in [("pod", POD), ("node", NODE)] {
                    assert_eq!(looked(&bench, at(from[family]), to), row.inside[kind], "{}", told(who));
                }
                // Each kind has client ports of its own: two flows of one to the same backend are another test's affair.
                let mut from = at(OUTSIDE[family]);
                from.set_port(from.port() + FLOWS * u16::try_from(kind).unwrap());
                assert_eq!(looked(&bench, from, to), row.outside[kind], "{}", told("outside"));
                sent(&mut bench, from, to, row.outside[kind], &told("outside"));
            }
        }
    }
}

/// Where the choice on the kernel's maps leads.
fn looked(bench: &Bench, from: SocketAddr, to: SocketAddr) -> String {
    let question = Question {
        source: from.ip(),
        destination: to,
        protocol: TCP,
    };
    let finding = bench.maps.look(&question, 0).unwrap();
    match finding.choice {
        Choice::NotAService => PASSED.into(),
        Choice::Refused { .. } => "refused".into(),
        Choice::Dropped { .. } => "dropped".into(),
        Choice::Backend { .. } => {
            let slots: BTreeSet<SocketAddr> = finding.slots.into_iter().collect();
            let names = ENDPOINTS
                .iter()
                .filter(|(_, _, all)| all.iter().any(|address| slots.contains(&at(address))));
            names.map(|(name, ..)| *name).collect::<Vec<_>>().join(" ")
        }
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
            PASSED => assert_eq!((verdict, bytes), (PASS, request.bytes()), "{told}"),
            "refused" => assert_eq!(Frame::parse(&bytes).to.port(), 0, "{told}"),
            _ => {
                let arrived = Frame::parse(&bytes);
                let (name, ..) = ENDPOINTS
                    .iter()
                    .find(|(_, _, all)| all.iter().any(|address| at(address) == arrived.to))
                    .unwrap();
                assert!(expected.contains(name), "{told}: {name}");
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
    for ((name, node, addresses), conditions) in ENDPOINTS.iter().zip([row.near, row.far]) {
        let Some(conditions) = conditions else { continue };
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
