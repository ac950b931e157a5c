//! Services that claim what is not theirs.

use std::sync::Arc;

use agent::services::ServiceFacts;
use agent_core::service::slice::Slice;
use k8s_openapi::api::core::v1::Service;

use super::node_of_test;
use super::outside::shell;
use super::server::{Backend, echo, tcp};

/// Whose address is coveted.
const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  \
                   clusterIP: 10.96.0.10\n  ports: [{port: 80, targetPort: serves}]\n";

/// A Service that asks for addresses and a port, with an endpoint that waits for connections meant for others.
fn claim(facts: &mut ServiceFacts, name: &str, spec: &str, thief: &Backend) {
    let port = thief.address.port();
    let service: Service = serde_json::from_str(&format!(
        r#"{{"metadata": {{"name": "{name}", "namespace": "default"}}, "spec": {{{spec}}}}}"#
    ))
    .unwrap();
    let slice = serde_json::json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["127.0.0.1"]}],
    });
    facts.services.put(Arc::new(service));
    let slice = Slice::of(&serde_json::from_value(slice).unwrap());
    facts.slices.put(Arc::new(slice));
}

/// A Service that brings an address from outside, as an external one.
fn external(address: &str, port: u16) -> String {
    format!(r#""externalIPs": ["{address}"], "ports": [{{"port": {port}, "protocol": "TCP"}}]"#)
}

#[test]
fn nobody_takes_the_machines_own_loopback_nor_a_cluster_address() {
    node_of_test!("claims", node);
    let (daemon, thief) = (node.serve(tcp("127.0.0.1:0")), node.serve(tcp("127.0.0.1:0")));
    let web = node.serve(tcp("127.0.0.1:0"));
    let port = daemon.address.port();
    // The thieves come first by name.
    node.apply_with(WEB, &[&web], |facts| {
        claim(facts, "a", &external("127.0.0.1", port), &thief);
        claim(facts, "b", &external("10.96.0.10", 80), &thief);
        claim(facts, "c", &external("0.0.0.0", port), &thief);
    });
    let mut client = node.client();
    assert!(client.ask(&format!("tcp 127.0.0.1:{port}")).starts_with(&daemon.label));
    let answer = client.ask("tcp 10.96.0.10:80");
    assert!(answer.starts_with(&web.label), "{answer}, not {}", web.label);
    assert!(
        node.problems("a")[0].contains("127.0.0.1 is a loopback"),
        "{:?}",
        node.problems("a")
    );
    assert!(node.problems("b")[0].contains("10.96.0.10 is in the range of cluster addresses"));
    assert!(node.problems("c")[0].contains("0.0.0.0 is a loopback"));
}

#[test]
fn addresses_of_others_stay_theirs_unless_external_ones_are_asked_for() {
    node_of_test!("external-off", node);
    let thief = node.serve(tcp("127.0.0.1:0"));
    shell(node.namespace(), "ip address add 203.0.113.9/32 dev lo");
    let other = node.serve(tcp("203.0.113.9:0"));
    node.apply_with(WEB, &[], |facts| {
        facts.node.external_ips = false;
        claim(facts, "a", &external("203.0.113.9", other.address.port()), &thief);
    });
    assert!(node.problems("a")[0].contains("are deprecated and off"));
    let mut client = node.client();
    assert!(client.ask(&format!("tcp {}", other.address)).starts_with(&other.label));
}

/// What was there before a node port keeps its connections, and has new ones again when the node port is gone. Other ports of
/// an address that a Service may have stay the node's.
#[test]
fn a_daemon_outlives_a_service_on_its_port() {
    node_of_test!("daemon", node);
    shell(node.namespace(), "ip address add 192.0.2.1/32 dev lo");
    let (daemon, neighbour) = (node.serve(echo("192.0.2.1:30080")), node.serve(tcp("192.0.2.1:30081")));
    let thief = node.serve(tcp("127.0.0.1:0"));
    let mut client = node.client();
    assert_eq!(client.ask("hold-tcp 192.0.2.1:30080"), daemon.label);
    let spec = r#""type": "NodePort", "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]"#;
    node.apply_with(WEB, &[], |facts| claim(facts, "a", spec, &thief));
    assert_eq!(client.ask("held-tcp"), daemon.label);
    assert!(client.ask("tcp 192.0.2.1:30080").starts_with(&thief.label));
    assert!(client.ask("tcp 192.0.2.1:30081").starts_with(&neighbour.label));
    node.clear();
    assert_eq!(client.ask("hold-tcp 192.0.2.1:30080"), daemon.label);
}
