//! The plugin among others in a list, and what runtimes send it by capabilities.

use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};
use tests::{LeakAudit, NetworkNamespace};

use crate::node::{Node, addresses};

fn with_runtime(node: &Node, key: &str, value: &Value) -> Value {
    let mut config = node.with("capabilities", json!({key: true}));
    config["runtimeConfig"] = json!({key: value});
    config
}

#[test]
fn a_result_before_is_kept_and_added_to() {
    tests::require_root!();
    let node = Node::new("chain");
    let pod = NetworkNamespace::new();
    let previous = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "net1", "sandbox": "/x"}],
        "ips": [{"address": "192.0.2.9/24", "interface": 0}],
        "routes": [{"dst": "192.0.2.0/24"}],
        "dns": {"nameservers": ["192.0.2.53"]},
    });
    let config = node.with("prevResult", previous.clone());
    let result = node.verb("ADD", "abc", &pod.path(), &config).succeeded().json();
    assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(result["ips"][0], previous["ips"][0]);
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["routes"].as_array().unwrap().len(), 3);
    assert_eq!(result["dns"], previous["dns"]);
    node.verb("CHECK", "abc", &pod.path(), &node.with("prevResult", result.clone()))
        .succeeded();
    node.verb("DEL", "abc", &pod.path(), &node.with("prevResult", result))
        .succeeded();
}

#[test]
fn a_broken_result_before_is_refused_and_nothing_is_made() {
    tests::require_root!();
    let node = Node::new("chain-broken");
    node.prepare();
    let pod = NetworkNamespace::new();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &pod]);
    for broken in [json!({"ips": 7}), json!([1]), json!("x")] {
        let config = node.with("prevResult", broken);
        assert_eq!(node.verb("ADD", "abc", &pod.path(), &config).failure(), Some(7));
    }
    audit.finish();
}

#[test]
fn ports_of_the_node_come_checked_and_go() {
    tests::require_root!();
    let node = Node::new("ports");
    node.prepare();
    let (a, b) = (NetworkNamespace::new(), NetworkNamespace::new());
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &a]);
    let config = with_runtime(
        &node,
        "portMappings",
        &json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]),
    );
    let result = node.verb("ADD", "a", &a.path(), &config).succeeded().json();
    let _server = a.run(|| TcpListener::bind((addresses(&result)[0], 80)).unwrap());
    for to in ["10.244.0.1:8080", "127.0.0.1:8080"] {
        node.namespace.run(|| TcpStream::connect(to)).unwrap();
    }
    let mut check = config.clone();
    check["prevResult"] = result;
    node.verb("CHECK", "a", &a.path(), &check).succeeded();
    assert_eq!(node.verb("ADD", "b", &b.path(), &config).failure(), Some(104));
    check["runtimeConfig"]["portMappings"][0]["hostPort"] = json!(8081);
    assert_eq!(node.verb("CHECK", "a", &a.path(), &check).failure(), Some(103));
    node.del("a");
    node.namespace
        .run(|| TcpStream::connect("10.244.0.1:8080"))
        .unwrap_err();
    node.verb("ADD", "b", &b.path(), &config).succeeded();
    node.del("b");
    audit.finish();
}

#[test]
fn what_runtimes_ask_for_is_done_or_refused_by_its_name() {
    tests::require_root!();
    let node = Node::new("capabilities");
    let pod = NetworkNamespace::new();
    let dns = json!({"servers": ["10.96.0.10"], "searches": ["svc"], "options": ["ndots:5"]});
    let result = node
        .verb("ADD", "dns", &pod.path(), &with_runtime(&node, "dns", &dns))
        .succeeded()
        .json();
    assert_eq!(
        result["dns"],
        json!({"nameservers": ["10.96.0.10"], "search": ["svc"], "options": ["ndots:5"]})
    );
    node.del("dns");
    let mac = with_runtime(&node, "mac", &json!("02:00:00:00:00:07"));
    let result = node.verb("ADD", "mac", &pod.path(), &mac).succeeded().json();
    assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:00:07");
    let mut check = mac.clone();
    check["prevResult"] = result;
    node.verb("CHECK", "mac", &pod.path(), &check).succeeded();
    node.del("mac");
    let bandwidth =
        json!({"ingressRate": 8000, "ingressBurst": 4294967295u32, "egressRate": 8000, "egressBurst": 80000});
    node.verb(
        "ADD",
        "rate",
        &pod.path(),
        &with_runtime(&node, "bandwidth", &bandwidth),
    )
    .succeeded();
    node.del("rate");
    let cgroup = with_runtime(&node, "cgroupPath", &json!("/kubepods.slice/kubepods-pod1.slice"));
    node.verb("ADD", "cgroup", &pod.path(), &cgroup).succeeded();
    node.del("cgroup");
    for (key, value) in [
        ("ipRanges", json!([[{"subnet": "10.244.0.0/24"}]])),
        ("infinibandGUID", json!("c2:11:22:33:44:55:66:77")),
        ("deviceID", json!("0000:00:01.0")),
    ] {
        let answer = node.verb("ADD", "x", &pod.path(), &with_runtime(&node, key, &value));
        assert_eq!(answer.failure(), Some(2), "{key}: {answer:?}");
        assert!(answer.json()["msg"].as_str().unwrap().contains(key), "{answer:?}");
    }
}

#[test]
fn a_pod_is_found_by_its_aliases_until_it_is_gone() {
    tests::require_root!();
    let node = Node::new("aliases");
    node.prepare();
    let (a, b) = (NetworkNamespace::new(), NetworkNamespace::new());
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &a, &b]);
    // As podman says it, and as the conventions do.
    let by_network = with_runtime(&node, "aliases", &json!({"pods": ["web", "www"], "others": ["x"]}));
    let list = with_runtime(&node, "aliases", &json!(["web"]));
    let resolver = || {
        let files = std::fs::read_dir(node.scratch.input().join("hosts/pods")).unwrap();
        let mut lines: Vec<String> = files
            .flat_map(|file| {
                let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
                text.lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        lines.sort_unstable();
        lines
    };
    let of = |result: Value, names: &str| -> Vec<String> {
        addresses(&result)
            .iter()
            .map(|address| format!("{address} {names}"))
            .collect()
    };
    let first = of(
        node.verb("ADD", "a", &a.path(), &by_network).succeeded().json(),
        "web www",
    );
    let second = of(node.verb("ADD", "b", &b.path(), &list).succeeded().json(), "web");
    let mut both = [first, second.clone()].concat();
    both.sort_unstable();
    assert_eq!(resolver(), both);
    node.del("a");
    assert_eq!(resolver(), second);
    let mut keep_none = node.config.clone();
    keep_none["cni.dev/valid-attachments"] = json!([]);
    node.verb("GC", "x", b.path().as_ref(), &keep_none).succeeded();
    assert!(resolver().is_empty());
    node.namespace
        .run(|| cni::pod_network::teardown(&node.network()))
        .unwrap();
    node.prepare();
    audit.finish();
}
