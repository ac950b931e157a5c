//! Services on live sockets: each test has a network namespace, a cgroup and a directory of pins of its own, and runs the
//! agent's Service task in this process. Clients are processes of their own, because hooks are met by cgroup.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::time::{Duration, Instant};

use agent::hands::maps::KernelMaps;
use agent::services::remove_all;
use tests::{LeakAudit, Need, require, require_root};

use node::Node;
use server::{Backend, tcp, udp};

const SOON: Duration = Duration::from_secs(10);

macro_rules! node {
    ($name:literal, $node:ident) => {
        tests::require_root!();
        tests::require!(tests::Need::Kernel(5, 18));
        let scratch = tests::Scratch::new($name);
        let namespace = tests::NetworkNamespace::new();
        let mut $node = crate::node::Node::new(&scratch, &namespace);
    };
}

pub(crate) use node as node_of_test;

mod bench;
mod client;
mod features;
mod flood;
mod frames;
mod health;
mod host_ports;
mod hostile;
mod inside;
mod node;
mod outside;
mod own;
mod server;
mod streams;
mod stress;
mod wire;

/// Not a test of its own: the clients' process, see [`client`].
#[test]
fn client_process() {
    client::serve_if_asked();
}

#[test]
fn a_tcp_service_answers_and_shows_its_own_address() {
    node!("tcp", node);
    let backend = node.serve(tcp("127.0.0.1:0"));
    node.set("10.96.0.1 TCP 80", &[&backend]);
    let mut client = node.client();
    assert_eq!(
        client.ask("tcp 10.96.0.1:80"),
        format!("{} 10.96.0.1:80", backend.label)
    );
    assert_eq!(
        client.ask("tcp [::ffff:10.96.0.1]:80"),
        format!("{} [::ffff:10.96.0.1]:80", backend.label)
    );
    assert_eq!(
        client.ask(&format!("tcp {}", backend.address)),
        format!("{} {}", backend.label, backend.address)
    );
}

#[test]
fn a_tcp_service_answers_on_ipv6() {
    node!("tcp6", node);
    let backend = node.serve(tcp("[::1]:0"));
    node.set("fd00:96::1 TCP 80", &[&backend]);
    assert_eq!(
        node.client().ask("tcp [fd00:96::1]:80"),
        format!("{} [fd00:96::1]:80", backend.label)
    );
}

#[test]
fn datagrams_of_a_connected_socket_come_from_the_service() {
    node!("udp-connected", node);
    let (four, six) = (node.serve(udp("127.0.0.1:0")), node.serve(udp("[::1]:0")));
    node.set("10.96.0.1,fd00:96::1 UDP 53", &[&four, &six]);
    let mut client = node.client();
    for (address, label) in [("10.96.0.1:53", &four.label), ("[fd00:96::1]:53", &six.label)] {
        let answer = client.ask(&format!("udp-connected {address}"));
        assert_eq!(answer, format!("{label} from {address} peer {address}"));
    }
    let mapped = "[::ffff:10.96.0.1]:53";
    let answer = client.ask(&format!("udp-connected {mapped}"));
    assert_eq!(answer, format!("{} from {mapped} peer {mapped}", four.label));
}

#[test]
fn datagrams_of_an_unconnected_socket_come_from_whom_they_were_sent_to() {
    node!("udp", node);
    let (four, six) = (node.serve(udp("127.0.0.1:0")), node.serve(udp("[::1]:0")));
    node.set("10.96.0.1,fd00:96::1 UDP 53", &[&four, &six]);
    let mut client = node.client();
    for (service, backend) in [("10.96.0.1:53", &four), ("[fd00:96::1]:53", &six)] {
        // The same socket: by the Service, by the backend's own address, by the Service again.
        let own = backend.address;
        let answer = client.ask(&format!("udp {service} {own} {service} {service}"));
        assert_eq!(answer, format!("{service} {own} {service} {service}"));
    }
    let mapped = "[::ffff:10.96.0.1]:53";
    assert_eq!(
        client.ask(&format!("udp {mapped} {mapped}")),
        format!("{mapped} {mapped}")
    );
}

#[test]
fn a_connected_socket_may_name_the_service_again() {
    node!("udp-named", node);
    let backends: Vec<Backend> = (0..4).map(|_| node.serve(udp("127.0.0.1:0"))).collect();
    node.set("10.96.0.1 UDP 53", &backends.iter().collect::<Vec<_>>());
    let mut client = node.client();
    for _ in 0..8 {
        let answer = client.ask("udp-connected-named 10.96.0.1:53");
        assert_eq!(answer, "10.96.0.1:53");
    }
}

#[test]
fn a_socket_that_connects_elsewhere_is_told_where() {
    node!("reconnect", node);
    let (service, other) = (node.serve(udp("127.0.0.1:0")), node.serve(udp("127.0.0.2:0")));
    node.set("10.96.0.1 UDP 53", &[&service]);
    let mut client = node.client();
    let (own, other) = (service.address, other.address);
    let answer = client.ask(&format!("udp-reconnect 10.96.0.1:53 {own} {other} 10.96.0.1:53"));
    assert_eq!(answer, format!("10.96.0.1:53 {own} {other} 10.96.0.1:53"));
}

#[test]
fn a_socket_that_sent_to_a_service_may_connect_to_its_backend() {
    node!("sent", node);
    let backend = node.serve(udp("127.0.0.1:0"));
    node.set("10.96.0.1 UDP 53", &[&backend]);
    let own = backend.address;
    let answer = node
        .client()
        .ask(&format!("udp-sent-then-connected 10.96.0.1:53 {own}"));
    assert_eq!(answer, format!("10.96.0.1:53 {own}"));
}

#[test]
fn a_connect_that_fails_leaves_the_socket_with_its_service() {
    node!("failed", node);
    let backend = node.serve(udp("127.0.0.1:0"));
    node.set("10.96.0.1 UDP 53", &[&backend]);
    // The namespace has a loopback and no other route.
    let answer = node.client().ask("udp-failed 10.96.0.1:53 192.0.2.1:53");
    assert_eq!(answer, "Err(NetworkUnreachable) 10.96.0.1:53 10.96.0.1:53");
}

#[test]
fn all_backends_are_used() {
    node!("spread", node);
    let backends: Vec<Backend> = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"]
        .iter()
        .map(|address| node.serve(tcp(address)))
        .collect();
    node.set("10.96.0.1 TCP 80", &backends.iter().collect::<Vec<_>>());
    let counts = node.client().burst("10.96.0.1:80", 300);
    assert_eq!(counts.failed, 0);
    for backend in &backends {
        let served = counts.by_label.get(&backend.label).copied().unwrap_or(0);
        assert!((50..=150).contains(&served), "{}: {served} of 300", backend.label);
    }
    assert_eq!(node.counters("web").forwarded, 300);
}

#[test]
fn unconnected_sockets_spread_over_the_backends() {
    node!("udp-spread", node);
    let backends: Vec<Backend> = (0..2).map(|_| node.serve(udp("127.0.0.1:0"))).collect();
    node.set("10.96.0.1 UDP 53", &backends.iter().collect::<Vec<_>>());
    let mut client = node.client();
    let labels: std::collections::BTreeSet<String> = (0..20).map(|_| client.ask("udp-label 10.96.0.1:53")).collect();
    assert_eq!(labels, backends.iter().map(|backend| backend.label.clone()).collect());
}

#[test]
fn a_service_without_backends_refuses_at_once() {
    node!("refused", node);
    node.set("10.96.0.1,fd00:96::1 TCP 80", &[]);
    let mut client = node.client();
    assert_eq!(client.ask("tcp 127.0.0.1:1"), "error ConnectionRefused");
    for address in ["10.96.0.1:80", "[fd00:96::1]:80", "[::ffff:10.96.0.1]:80"] {
        let (answer, waited) = client.timed(&format!("tcp {address}"));
        assert_eq!(answer, "error ConnectionRefused");
        assert!(waited < tests::stretched(Duration::from_secs(1)), "{waited:?}");
    }
    assert_eq!(node.counters("web").refused, 3);
    node.set("10.96.0.1 UDP 53", &[]);
    assert_eq!(client.ask("udp 10.96.0.1:53"), "error ConnectionRefused");
    assert_eq!(client.ask("udp-connected 10.96.0.1:53"), "error ConnectionRefused");
}

#[test]
fn backends_change_under_connections_without_a_failure() {
    node!("churn", node);
    let backends: Vec<Backend> = (0..4).map(|_| node.serve(tcp("127.0.0.1:0"))).collect();
    node.set("10.96.0.1 TCP 80", &[&backends[0]]);
    let mut client = node.client();
    client.start_burst("10.96.0.1:80");
    let start = Instant::now();
    for round in (0_usize..).take_while(|round| *round < 60 || start.elapsed() < Duration::from_secs(1)) {
        let chosen: Vec<&Backend> = (0..4)
            .filter(|bit| (round % 15 + 1) & (1 << bit) != 0)
            .map(|bit| &backends[bit])
            .collect();
        node.set("10.96.0.1 TCP 80", &chosen);
    }
    let counts = client.stop_burst();
    assert_eq!(counts.failed, 0, "of {}", counts.total());
    assert!(counts.total() > 50, "{}", counts.total());
}

#[test]
fn services_answer_while_no_agent_runs_and_through_its_return() {
    node!("restart", node);
    let backend = node.serve(tcp("127.0.0.1:0"));
    node.set("10.96.0.1 TCP 80", &[&backend]);
    let mut client = node.client();
    client.start_burst("10.96.0.1:80");
    for _ in 0..3 {
        node.stop_agent();
        assert_eq!(
            node.client().ask("tcp 10.96.0.1:80"),
            format!("{} 10.96.0.1:80", backend.label)
        );
        node.start_agent();
        node.set("10.96.0.1 TCP 80", &[&backend]);
    }
    let counts = client.stop_burst();
    assert_eq!(counts.failed, 0, "of {}", counts.total());
}

#[test]
fn a_returning_agent_removes_nothing_before_it_knows_all() {
    node!("no-prune", node);
    let backend = node.serve(tcp("127.0.0.1:0"));
    node.set("10.96.0.1 TCP 80", &[&backend]);
    node.stop_agent();
    node.start_agent();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        node.client().ask("tcp 10.96.0.1:80"),
        format!("{} 10.96.0.1:80", backend.label)
    );
    assert_eq!(
        node.counters_from_before("web", "10.96.0.1 TCP 80", &[&backend])
            .forwarded,
        1
    );
    node.clear();
    assert!(node.client().ask("tcp 10.96.0.1:80").starts_with("error"));
}

#[test]
fn removal_leaves_nothing() {
    require_root!();
    require!(Need::Kernel(5, 18));
    let scratch = tests::Scratch::new("removal");
    let namespace = tests::NetworkNamespace::new();
    let audit = LeakAudit::begin(&scratch, &[&namespace]);
    {
        let mut node = Node::new(&scratch, &namespace);
        let backend = node.serve(tcp("127.0.0.1:0"));
        node.set("10.96.0.1 TCP 80", &[&backend]);
        assert_eq!(
            node.client().ask("tcp 10.96.0.1:80"),
            format!("{} 10.96.0.1:80", backend.label)
        );
        node.stop_agent();
        remove_all(&node.bpf_dir()).unwrap();
        remove_all(&node.bpf_dir()).unwrap();
        assert!(node.client().ask("tcp 10.96.0.1:80").starts_with("error"));
        node.remove_files();
    }
    audit.finish();
}

#[test]
fn a_directory_elsewhere_gets_a_bpf_file_system_for_as_long_as_it_is_needed() {
    require_root!();
    require!(Need::Kernel(5, 18));
    let scratch = tests::Scratch::new("elsewhere");
    let cgroup = scratch.cgroup();
    let audit = LeakAudit::begin(&scratch, &[]);
    let dir = scratch.path("bpf");
    let mut maps = KernelMaps::open(&dir, &cgroup, &[]).unwrap();
    maps.attach().unwrap();
    drop(maps);
    assert!(dir.join("v3/links/connect4").exists());
    remove_all(&dir).unwrap();
    audit.finish();
}

#[test]
fn maps_of_another_shape_are_replaced() {
    node!("shape", node);
    let backend = node.serve(tcp("127.0.0.1:0"));
    node.set("10.96.0.1 TCP 80", &[&backend]);
    node.stop_agent();
    node.pin_a_foreign_map_as("svc6");
    node.start_agent();
    node.set("10.96.0.1 TCP 80", &[&backend]);
    assert_eq!(
        node.client().ask("tcp 10.96.0.1:80"),
        format!("{} 10.96.0.1:80", backend.label)
    );
    assert!(!node.bpf_dir().join("v3/maps_new").exists());
}

#[test]
fn the_verifier_goes_through_few_instructions() {
    require_root!();
    require!(Need::Kernel(5, 18));
    let scratch = tests::Scratch::new("verifier");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut maps = KernelMaps::open(&scratch.bpf_dir(), &scratch.cgroup(), &[]).unwrap();
    for (program, count) in maps.verified_instructions().unwrap() {
        let count = count.expect("Linux 5.16 and later tell");
        println!("NOTE: verified instructions: {} {program} {count}", release.trim());
        let most = if program.starts_with("service") { 5_000 } else { 40_000 };
        assert!(count < most, "{program}: {count}");
    }
    drop(maps);
    remove_all(&scratch.bpf_dir()).unwrap();
}
