//! What Services have beside a cluster address, on live sockets: the rows of `ebpf/FEATURES.md`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agent_core::service::slice::Slice;
use agent_core::service::{Counters, ReadyPod};
use ebpf_common::maps::SCTP;
use tests::NetworkNamespace;

use super::client::Client;
use super::node::{Node, client_pod};
use super::node_of_test;
use super::server::{Backend, tcp, udp};

/// A Service `web` with one port 80, dual-stack; more of its spec comes as YAML lines of two spaces.
fn web(more: &str) -> String {
    named("web", more)
}

fn named(name: &str, more: &str) -> String {
    let head = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: web}}\n");
    format!("{head}  ipFamilyPolicy: PreferDualStack\n{more}")
}

const CLUSTER: &str = "  clusterIPs: [10.96.0.1, \"fd00:96::1\"]\n  clusterIP: 10.96.0.1\n";
const PORTS: &str = "  ports: [{port: 80, targetPort: serves}]\n";
const NODE_PORTS: &str = "  type: NodePort\n  ports: [{port: 80, targetPort: serves, nodePort: 30080}]\n";

/// Servers on both families.
fn both(node: &Node<'_>, count: usize) -> Vec<Backend> {
    let of = |address: &'static str| (0..count).map(move |_| address);
    let addresses = of("127.0.0.1:0").chain(of("[::1]:0"));
    addresses.map(|address| node.serve(tcp(address))).collect()
}

fn all(backends: &[Backend]) -> Vec<&Backend> {
    backends.iter().collect()
}

/// The label that answered.
#[track_caller]
fn label(client: &mut Client, address: &str) -> String {
    let answer = client.ask(&format!("tcp {address}"));
    answer.split(' ').next().unwrap().to_owned()
}

/// Who answers a number of connections.
fn labels(client: &mut Client, address: &str, count: u32) -> BTreeSet<String> {
    (0..count).map(|_| label(client, address)).collect()
}

const NOBODY: &str = "error ConnectionRefused";
const DROPPED: &str = "error TimedOut";

#[test]
fn a_client_keeps_to_its_backend() {
    node_of_test!("affinity", node);
    let backends = both(&node, 6);
    let sticky = format!("{CLUSTER}{PORTS}  sessionAffinity: ClientIP\n");
    node.apply(&web(&sticky), &all(&backends));
    let mut client = node.client();
    for address in ["10.96.0.1:80", "[fd00:96::1]:80"] {
        assert_eq!(labels(&mut client, address, 20).len(), 1, "{address}");
        // Another process of the same network is the same client.
        let same: BTreeSet<String> = (0..5).map(|_| label(&mut node.client(), address)).collect();
        assert_eq!(same, labels(&mut client, address, 1), "{address}");
    }
    let first = label(&mut client, "10.96.0.1:80");
    let others: Vec<&Backend> = backends.iter().filter(|backend| backend.label != first).collect();
    node.apply(&web(&sticky), &others);
    let second = labels(&mut client, "10.96.0.1:80", 20);
    assert!(
        second.len() == 1 && !second.contains(&first),
        "{second:?} after {first}"
    );
    node.apply(&web(&sticky), &all(&backends));
    assert_eq!(
        labels(&mut client, "10.96.0.1:80", 20),
        second,
        "the new backend is kept though the old one is back"
    );
}

#[test]
fn a_client_that_was_silent_for_long_chooses_anew() {
    node_of_test!("affinity-time", node);
    let backends: Vec<Backend> = (0..8).map(|_| node.serve(udp("127.0.0.1:0"))).collect();
    let spec = "  clusterIP: 10.96.0.1\n  ports: [{port: 53, protocol: UDP, targetPort: serves}]\n  sessionAffinity: ClientIP\n  \
                sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}\n";
    node.apply(&named("web", spec), &all(&backends));
    let mut client = node.client();
    let mut seen = BTreeSet::new();
    tests::eventually(tests::stretched(super::SOON), "another backend is chosen", || {
        seen.insert(client.ask("udp-label 10.96.0.1:53"));
        std::thread::sleep(Duration::from_millis(2100));
        if seen.len() > 1 { Ok(()) } else { Err(seen.len()) }
    });
}

#[test]
fn a_node_port_answers_the_node_on_all_its_addresses() {
    node_of_test!("node-port", node);
    let backends = both(&node, 1);
    node.apply(&web(&format!("{CLUSTER}{NODE_PORTS}")), &all(&backends));
    let mut client = node.client();
    for four in [
        "192.0.2.1",
        "127.0.0.1",
        "0.0.0.0",
        "[::ffff:192.0.2.1]",
        "[::ffff:127.0.0.1]",
    ] {
        assert_eq!(
            client.ask(&format!("tcp {four}:30080")),
            format!("{} {four}:30080", backends[0].label)
        );
    }
    for six in ["2001:db8::1", "::1", "::"] {
        let answer = client.ask(&format!("tcp [{six}]:30080"));
        assert_eq!(answer, format!("{} [{six}]:30080", backends[1].label));
    }
    assert_eq!(client.ask("tcp 127.0.0.1:30081"), NOBODY);
}

#[test]
fn a_node_port_answers_datagrams_too() {
    node_of_test!("node-port-udp", node);
    let (four, six) = (node.serve(udp("127.0.0.1:0")), node.serve(udp("[::1]:0")));
    let ports = "  type: NodePort\n  ports: [{port: 53, protocol: UDP, targetPort: serves, nodePort: 30053}]\n";
    node.apply(&web(&format!("{CLUSTER}{ports}")), &[&four, &six]);
    let mut client = node.client();
    for address in [
        "127.0.0.1:30053",
        "192.0.2.1:30053",
        "[::1]:30053",
        "[2001:db8::1]:30053",
    ] {
        assert_eq!(client.ask(&format!("udp {address}")), address);
        let label = if address.starts_with('[') {
            &six.label
        } else {
            &four.label
        };
        let connected = client.ask(&format!("udp-connected {address}"));
        assert_eq!(connected, format!("{label} from {address} peer {address}"));
    }
}

#[test]
fn localhost_of_a_pod_is_the_pods_own() {
    node_of_test!("pod-localhost", node);
    let pod = NetworkNamespace::new();
    let backend = pod.run(tcp("127.0.0.1:0"));
    node.apply(&web(&format!("{CLUSTER}{NODE_PORTS}")), &[&backend]);
    let mut client = node.client_in(&pod);
    assert_eq!(client.ask("tcp 127.0.0.1:30080"), NOBODY);
    assert_eq!(client.ask("tcp [::1]:30080"), NOBODY);
    assert_eq!(label(&mut client, "192.0.2.1:30080"), backend.label);
}

#[test]
fn a_node_port_is_nobody_elses() {
    node_of_test!("reserved", node);
    let backends = both(&node, 1);
    node.apply(&web(&format!("{CLUSTER}{NODE_PORTS}")), &all(&backends));
    let (mut client, pod) = (node.client(), NetworkNamespace::new());
    for address in ["127.0.0.1:30080", "0.0.0.0:30080", "[::]:30080", "[::1]:30080"] {
        assert_eq!(
            client.ask(&format!("bind-tcp {address}")),
            "error AddrInUse",
            "{address}"
        );
    }
    assert_eq!(
        client.ask("bind-udp 0.0.0.0:30080"),
        "bound",
        "the other protocol is free"
    );
    assert_eq!(client.ask("bind-tcp 0.0.0.0:30081"), "bound");
    assert_eq!(
        node.client_in(&pod).ask("bind-tcp 0.0.0.0:30080"),
        "bound",
        "a pod's ports are its own"
    );
    node.clear();
    assert_eq!(client.ask("bind-tcp 0.0.0.0:30080"), "bound");
}

#[test]
fn load_balancer_and_external_addresses_answer_inside() {
    node_of_test!("load-balancer", node);
    let backends = both(&node, 1);
    let spec = format!("{CLUSTER}{PORTS}  type: LoadBalancer\n  externalIPs: [198.51.100.9, \"2001:db8:1::9\"]\n");
    let status = "status: {loadBalancer: {ingress: [{ip: 203.0.113.7}, {ip: \"2001:db8:2::7\"}, {ip: 203.0.113.8, ipMode: Proxy}]}}\n";
    node.apply(&format!("{}{status}", web(&spec)), &all(&backends));
    let mut client = node.client();
    for (address, backend) in [
        ("198.51.100.9:80", 0),
        ("203.0.113.7:80", 0),
        ("[2001:db8:1::9]:80", 1),
        ("[2001:db8:2::7]:80", 1),
    ] {
        let answer = client.ask(&format!("tcp {address}"));
        assert_eq!(answer, format!("{} {address}", backends[backend].label));
    }
    assert!(
        client.ask("tcp 203.0.113.8:80").starts_with("error NetworkUnreachable"),
        "ipMode: Proxy is left alone"
    );
    node.apply_with(&format!("{}{status}", web(&spec)), &all(&backends), |facts| {
        facts.node.external_ips = false
    });
    assert!(
        client
            .ask("tcp 198.51.100.9:80")
            .starts_with("error NetworkUnreachable"),
        "off by default"
    );
    assert_eq!(label(&mut client, "203.0.113.7:80"), backends[0].label);
    let off = "spec.externalIPs are deprecated and off; --service-external-ips turns them on";
    assert_eq!(node.problems("web"), [off]);
}

#[test]
fn source_ranges_guard_the_load_balancers_addresses_alone() {
    node_of_test!("ranges", node);
    let pod = NetworkNamespace::new();
    let (four, six) = (pod.run(tcp("127.0.0.1:0")), pod.run(tcp("[::1]:0")));
    let spec = |ranges: &str| {
        let spec = format!("{CLUSTER}{PORTS}  type: LoadBalancer\n  loadBalancerSourceRanges: [{ranges}]\n");
        format!(
            "{}status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.7}}, {{ip: \"2001:db8:2::7\"}}]}}}}\n",
            web(&spec)
        )
    };
    let client_is = |addresses: &'static [&'static str]| {
        let client: ReadyPod = client_pod(&pod, addresses);
        move |facts: &mut agent::services::ServiceFacts| facts.pods.push(client)
    };
    let mut client = node.client_in(&pod);
    let addresses: &[&str] = &["10.244.0.7", "fd00:244::7"];
    node.apply_with(
        &spec("10.244.0.0/29, \"fd00:244::/64\""),
        &[&four, &six],
        client_is(addresses),
    );
    assert_eq!(label(&mut client, "203.0.113.7:80"), four.label);
    assert_eq!(label(&mut client, "[2001:db8:2::7]:80"), six.label);
    node.apply_with(
        &spec("10.244.0.8/29, \"fd00:245::/64\""),
        &[&four, &six],
        client_is(addresses),
    );
    assert_eq!(client.ask("tcp 203.0.113.7:80"), DROPPED);
    assert_eq!(client.ask("tcp [2001:db8:2::7]:80"), DROPPED);
    assert_eq!(
        label(&mut client, "10.96.0.1:80"),
        four.label,
        "the cluster address is not guarded"
    );
    let counted = Counters {
        forwarded: 3,
        not_allowed: 2,
        ..Counters::default()
    };
    assert_eq!(node.counters("web"), counted);
    node.apply(&spec("10.244.0.0/16, \"fd00:244::/64\""), &[&four, &six]);
    assert_eq!(
        client.ask("tcp 203.0.113.7:80"),
        DROPPED,
        "a client whose address nobody knows"
    );
}

/// A slice of `web` with one endpoint; loopback addresses, which no manifest may have, are where the servers are.
fn slice(backend: &Backend, more: &str) -> String {
    let (address, port) = (backend.address.ip(), backend.address.port());
    let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
    format!(
        r#"{{"metadata": {{"name": "{}", "namespace": "default", "labels": {{"kubernetes.io/service-name": "web"}}}},
            "addressType": "{family}", "ports": [{{"port": {port}, "protocol": "TCP"}}],
            "endpoints": [{{"addresses": ["{address}"] {more}}}]}}"#,
        backend.label
    )
}

fn slices(node: &mut Node<'_>, spec: &str, slices: &[String]) {
    let slices = slices
        .iter()
        .map(|text| Arc::new(Slice::of(&serde_json::from_str(text).unwrap())))
        .collect();
    node.apply_with(&web(spec), &[], |facts| facts.slices = slices);
}

const HERE: &str = r#", "nodeName": "here""#;

#[test]
fn endpoint_slices_bring_backends_from_elsewhere() {
    node_of_test!("slices", node);
    let backends = both(&node, 2);
    let spec = format!("{CLUSTER}{PORTS}");
    let all: Vec<String> = backends.iter().map(|backend| slice(backend, "")).collect();
    slices(&mut node, &spec, &all);
    let mut client = node.client();
    let fours: BTreeSet<String> = backends[..2].iter().map(|backend| backend.label.clone()).collect();
    let sixes: BTreeSet<String> = backends[2..].iter().map(|backend| backend.label.clone()).collect();
    assert_eq!(labels(&mut client, "10.96.0.1:80", 30), fours);
    assert_eq!(labels(&mut client, "[fd00:96::1]:80", 30), sixes);
}

#[test]
fn internal_traffic_keeps_to_the_node_where_it_should() {
    node_of_test!("internal", node);
    let backends = both(&node, 1);
    let local = format!("{CLUSTER}{NODE_PORTS}  internalTrafficPolicy: Local\n");
    let elsewhere = [slice(&backends[0], ""), slice(&backends[1], "")];
    slices(&mut node, &local, &elsewhere);
    let mut client = node.client();
    for address in ["10.96.0.1:80", "[fd00:96::1]:80"] {
        assert_eq!(client.ask(&format!("tcp {address}")), DROPPED, "{address}");
    }
    assert_eq!(
        label(&mut client, "192.0.2.1:30080"),
        backends[0].label,
        "a node port is not internal"
    );
    assert_eq!(node.counters("web").no_local, 2);
    slices(
        &mut node,
        &local,
        &[slice(&backends[0], HERE), slice(&backends[1], HERE)],
    );
    assert_eq!(label(&mut client, "10.96.0.1:80"), backends[0].label);
    assert_eq!(label(&mut client, "[fd00:96::1]:80"), backends[1].label);
    slices(&mut node, &local, &[]);
    assert_eq!(
        client.ask("tcp 10.96.0.1:80"),
        NOBODY,
        "no endpoint anywhere is refused, not dropped"
    );
}

#[test]
fn the_node_reaches_all_backends_whatever_the_external_policy() {
    node_of_test!("short-circuit", node);
    let backends = both(&node, 1);
    let spec = format!("{CLUSTER}{NODE_PORTS}  externalTrafficPolicy: Local\n");
    slices(&mut node, &spec, &[slice(&backends[0], ""), slice(&backends[1], "")]);
    let mut client = node.client();
    assert_eq!(label(&mut client, "192.0.2.1:30080"), backends[0].label);
    assert_eq!(label(&mut client, "[2001:db8::1]:30080"), backends[1].label);
}

#[test]
fn hints_keep_traffic_near() {
    node_of_test!("hints", node);
    let backends: Vec<Backend> = (0..3).map(|_| node.serve(tcp("127.0.0.1:0"))).collect();
    let zone = |zone: &str| format!(r#", "hints": {{"forZones": [{{"name": "{zone}"}}]}}"#);
    let spec = format!("{CLUSTER}{PORTS}");
    let near = [slice(&backends[0], &zone("a")), slice(&backends[1], &zone("b"))];
    slices(&mut node, &spec, &near);
    let mut client = node.client();
    assert_eq!(
        labels(&mut client, "10.96.0.1:80", 20),
        [backends[0].label.clone()].into()
    );
    let [first, second] = near;
    slices(&mut node, &spec, &[first, second, slice(&backends[2], "")]);
    assert_eq!(
        labels(&mut client, "10.96.0.1:80", 60).len(),
        3,
        "one endpoint without a hint"
    );
}

#[test]
fn endpoints_that_are_about_to_go_serve_while_there_is_no_other() {
    node_of_test!("terminating", node);
    let backends: Vec<Backend> = (0..2).map(|_| node.serve(tcp("127.0.0.1:0"))).collect();
    let going = |ready: bool, serving: bool| {
        format!(
            r#", "conditions": {{"ready": {ready}, "serving": {serving}, "terminating": {}}}"#,
            !ready
        )
    };
    let spec = format!("{CLUSTER}{PORTS}");
    let mut client = node.client();
    slices(
        &mut node,
        &spec,
        &[
            slice(&backends[0], &going(false, true)),
            slice(&backends[1], &going(true, true)),
        ],
    );
    assert_eq!(
        labels(&mut client, "10.96.0.1:80", 20),
        [backends[1].label.clone()].into()
    );
    slices(&mut node, &spec, &[slice(&backends[0], &going(false, true))]);
    assert_eq!(label(&mut client, "10.96.0.1:80"), backends[0].label);
    slices(&mut node, &spec, &[slice(&backends[0], &going(false, false))]);
    assert_eq!(client.ask("tcp 10.96.0.1:80"), NOBODY);
}

#[test]
fn pods_that_are_not_ready_serve_where_the_service_publishes_them() {
    node_of_test!("unready", node);
    let backend = node.serve(tcp("127.0.0.1:0"));
    let not_ready = |facts: &mut agent::services::ServiceFacts| facts.pods[0].ready = false;
    let spec = format!("{CLUSTER}{PORTS}");
    node.apply_with(&web(&spec), &[&backend], not_ready);
    let mut client = node.client();
    assert_eq!(client.ask("tcp 10.96.0.1:80"), NOBODY);
    node.apply_with(
        &web(&format!("{spec}  publishNotReadyAddresses: true\n")),
        &[&backend],
        not_ready,
    );
    assert_eq!(label(&mut client, "10.96.0.1:80"), backend.label);
}

#[test]
fn services_of_others_and_headless_ones_are_left_alone() {
    node_of_test!("others", node);
    let backend = node.serve(tcp("127.0.0.1:0"));
    let others = web(&format!("{CLUSTER}{PORTS}")).replace(
        "{name: web}",
        "{name: web, labels: {service.kubernetes.io/service-proxy-name: mesh}}",
    );
    node.apply(&others, &[&backend]);
    let mut client = node.client();
    assert!(client.ask("tcp 10.96.0.1:80").starts_with("error NetworkUnreachable"));
    node.apply(&web(&format!("  clusterIP: None\n{PORTS}")), &[&backend]);
    assert!(node.problems("web").is_empty());
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    node_of_test!("hairpin", node);
    let pod = NetworkNamespace::new();
    let backend = pod.run(tcp("127.0.0.1:0"));
    node.apply(&web(&format!("{CLUSTER}{PORTS}")), &[&backend]);
    assert_eq!(
        node.client_in(&pod).ask("tcp 10.96.0.1:80"),
        format!("{} 10.96.0.1:80", backend.label)
    );
}

#[test]
fn of_two_services_with_one_address_the_first_by_name_has_it() {
    node_of_test!("overlap", node);
    let backend = node.serve(tcp("127.0.0.1:0"));
    let other = named(
        "zzz",
        "  clusterIP: 10.96.0.2\n  type: NodePort\n  ports: [{port: 81, targetPort: 1, nodePort: 30080}]\n",
    );
    node.apply(
        &format!("{}---\n{other}", web(&format!("{CLUSTER}{NODE_PORTS}"))),
        &[&backend],
    );
    assert_eq!(label(&mut node.client(), "192.0.2.1:30080"), backend.label);
    assert!(
        node.problems("zzz")[0].ends_with("belongs to Service default/web"),
        "{:?}",
        node.problems("zzz")
    );
}

#[test]
fn a_datagram_socket_is_told_when_its_backend_is_gone() {
    node_of_test!("stale", node);
    let pod = NetworkNamespace::new();
    let spec = format!("{CLUSTER}  ports: [{{port: 53, protocol: UDP, targetPort: serves}}]\n");
    for (service, address) in [("10.96.0.1:53", "127.0.0.1:0"), ("[fd00:96::1]:53", "[::1]:0")] {
        let own = |facts: &mut agent::services::ServiceFacts| facts.pods.push(client_pod(&pod, &[]));
        let stays = pod.run(udp(address));
        let goes = pod.run(udp(address));
        let mut client = node.client_in(&pod);
        node.apply_with(&web(&spec), &[&goes], own);
        assert_eq!(client.ask(&format!("hold-udp {service}")), goes.label);
        assert_eq!(client.ask("held-udp"), goes.label);
        node.apply_with(&web(&spec), &[&goes, &stays], own);
        assert_eq!(client.ask("held-udp"), goes.label, "another backend is no reason");
        node.apply_with(&web(&spec), &[&stays], own);
        let told = client.ask("held-udp");
        assert!(told.starts_with("error"), "{told}");
        assert_eq!(client.ask(&format!("hold-udp {service}")), stays.label);
    }
}

#[test]
fn a_trace_says_what_a_connection_would_meet() {
    node_of_test!("trace", node);
    let pod = NetworkNamespace::new();
    let backend = pod.run(tcp("127.0.0.1:0"));
    let spec = format!("{CLUSTER}{NODE_PORTS}  sessionAffinity: ClientIP\n  externalTrafficPolicy: Local\n");
    let spec = spec.replace(
        "type: NodePort",
        "type: LoadBalancer\n  loadBalancerSourceRanges: [10.244.0.8/29]",
    );
    let manifest = format!(
        "{}status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.7}}]}}}}\n",
        web(&spec)
    );
    let own = |facts: &mut agent::services::ServiceFacts| facts.pods.push(client_pod(&pod, &["10.244.0.7"]));
    node.apply_with(&manifest, &[&backend], own);
    let last = |source: &str, destination: &str| node.trace(source, destination).pop().unwrap();
    let random = format!("it gets, at random, one of {}", backend.address);
    assert_eq!(last("10.244.0.7", "10.96.0.1:80"), random);
    assert_eq!(last("198.51.100.9", "192.0.2.1:30080"), random, "a local endpoint");
    assert_eq!(last("192.0.2.1", "127.0.0.1:30080"), random);
    assert_eq!(
        last("10.244.0.7", "192.0.2.9:80"),
        "192.0.2.9:80 is no Service's: it goes where it wants to go"
    );
    let guarded = "the client is in none of the source ranges: the connection is dropped";
    assert_eq!(last("10.244.0.7", "203.0.113.7:80"), guarded);
    let itself = "the address is for the node itself only: it goes where it wants to go";
    assert_eq!(last("10.244.0.7", "127.0.0.1:30080"), itself);
    assert_eq!(label(&mut node.client_in(&pod), "10.96.0.1:80"), backend.label);
    assert_eq!(
        last("10.244.0.7", "10.96.0.1:80"),
        format!("it keeps to {}", backend.address)
    );
    let lines = node.trace("10.244.0.7", "10.96.0.1:80");
    assert_eq!(
        lines[0],
        "10.244.0.7 is a pod of this node: its socket meets service_connect4 (connect)"
    );
    assert_eq!(lines[1], "10.96.0.1:80 belongs to Service default/web port 80/TCP");
    assert_eq!(
        node.trace_by(SCTP, "192.0.2.1", "10.96.0.1:80")[0],
        "192.0.2.1 is the node: its packet meets node_arriving at lo"
    );
    assert_eq!(
        node.trace_by(SCTP, "10.244.0.7", "10.96.0.1:80")[0],
        "10.244.0.7 is a pod of this node: its packet meets inside_arriving at its link"
    );
    let outside = node.trace("198.51.100.9", "192.0.2.1:30080");
    assert_eq!(
        outside[0],
        "198.51.100.9 is outside: its packet meets outside_arriving at an uplink"
    );

    let details = node.details();
    assert_eq!((details.len(), details[0].counters["forwarded"]), (1, 1));
    assert_eq!(details[0].affinities[0].0, "10.244.0.7");
    let frontend = details[0]
        .frontends
        .iter()
        .find(|frontend| frontend.address == "203.0.113.7:80")
        .unwrap();
    assert_eq!(frontend.backends, [(backend.address.to_string(), 100.0)]);
    assert!(
        frontend.rules.contains(&"clients come from 10.244.0.8/29".to_owned()),
        "{:?}",
        frontend.rules
    );
}
