//! The CNI plugin as runtimes call it: a process with an environment, standard input and standard output.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests panic like the tests")]

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use cni::answer::decode_way;
use cni::netlink::Connection;
use cni::plan::{self, Way};
use cni::pod_network::{self, NodeNetwork};
use cni::step::LinkStep;
use node::{Answer, Node, addresses, environment};
use serde_json::{Value, json};
use tests::{LeakAudit, NetworkNamespace};

mod chain;
mod cycles;
mod golden;
mod many;
mod node;
mod relayed;
mod resolver;

#[test]
fn add_check_and_del_in_every_version() {
    tests::require_root!();
    let node = Node::new("versions");
    node.prepare();
    let pod = NetworkNamespace::new();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &pod]);
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let config = node.with("cniVersion", json!(version));
        let result = node.verb("ADD", "abc", &pod.path(), &config).succeeded().json();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert_eq!(result["interfaces"][1]["sandbox"], pod.path().to_str().unwrap());
        assert_eq!(addresses(&result).len(), 2, "{result}");
        for address in addresses(&result) {
            let listener = pod.run(|| TcpListener::bind(SocketAddr::new(address, 80)).unwrap());
            node.namespace
                .run(|| TcpStream::connect(listener.local_addr().unwrap()))
                .unwrap();
        }
        if version != "0.3.0" && version != "0.3.1" {
            let mut check = config.clone();
            check["prevResult"] = result;
            let answer = node.verb("CHECK", "abc", &pod.path(), &check).succeeded();
            assert_eq!(answer.stdout, "");
        }
        node.del("abc");
    }
    audit.finish();
}

#[test]
fn check_sees_what_was_changed() {
    tests::require_root!();
    let node = Node::new("check");
    let changes: [(&str, &[&str], bool); 5] = [
        ("address", &["ip", "address", "flush", "dev", "eth0"], true),
        ("default-route", &["ip", "route", "del", "default"], true),
        (
            "link",
            &["ip", "link", "set", "eth0", "address", "02:00:00:00:00:09"],
            true,
        ),
        (
            "route-of-the-node",
            &["ip", "-6", "route", "flush", "proto", "111", "type", "unicast"],
            false,
        ),
        ("container", &[], false),
    ];
    for (id, change, is_inside) in changes {
        let pod = NetworkNamespace::new();
        let result = node.add(id, &pod).succeeded().json();
        let check = node.with("prevResult", result);
        node.verb("CHECK", id, &pod.path(), &check).succeeded();
        let expected = match change.split_first() {
            Some((tool, arguments)) => {
                let namespace = if is_inside { &pod } else { &node.namespace };
                let run = || Command::new(tool).args(arguments).status().unwrap();
                assert!(namespace.run(run).success(), "{id}");
                103
            }
            None => {
                node.del(id);
                3
            }
        };
        let answer = node.verb("CHECK", id, &pod.path(), &check);
        assert_eq!(answer.failure(), Some(expected), "{id}: {answer:?}");
        node.del(id);
    }
    let pod = NetworkNamespace::new();
    node.add("other", &pod).succeeded();
    let check = node.with("prevResult", json!({"ips": [{"address": "10.244.0.250/32"}]}));
    assert_eq!(node.verb("CHECK", "other", &pod.path(), &check).failure(), Some(103));
}

#[test]
fn del_works_whatever_is_gone() {
    tests::require_root!();
    let node = Node::new("del");
    node.prepare();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace]);
    let pod = NetworkNamespace::new();
    let result = node.add("abc", &pod).succeeded().json();
    node.verb("DEL", "abc", &pod.path(), &node.with("prevResult", result))
        .succeeded();
    for netns in ["", "/nonexistent", "/proc/self/status"] {
        let answer = node.verb("DEL", "abc", Path::new(netns), &node.config).succeeded();
        assert_eq!(answer.stdout, "");
    }
    node.add("abc", &pod).succeeded();
    node.verb(
        "DEL",
        "abc",
        Path::new(""),
        &json!({"cniVersion": "1.1.0", "name": "pods", "runDir": node.scratch.input(), "new": 1}),
    )
    .succeeded();
    node.add("abc", &pod).succeeded();
    drop(pod);
    node.del("abc");
    node.del("never-added");
    audit.finish();
}

#[test]
fn a_second_add_is_refused_and_changes_nothing() {
    tests::require_root!();
    let node = Node::new("twice");
    let pod = NetworkNamespace::new();
    node.add("abc", &pod).succeeded();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &pod]);
    assert_eq!(node.add("abc", &pod).failure(), Some(100));
    assert_eq!(node.add("other", &pod).failure(), Some(100));
    audit.finish();
}

#[test]
fn addresses_can_be_asked_for() {
    tests::require_root!();
    let node = Node::new("ips");
    let (a, b) = (NetworkNamespace::new(), NetworkNamespace::new());
    let mut config = node.with("capabilities", json!({"ips": true}));
    config["runtimeConfig"] = json!({"ips": ["10.244.0.77/24"]});
    let result = node.verb("ADD", "a", &a.path(), &config).succeeded().json();
    assert_eq!(addresses(&result)[0], "10.244.0.77".parse::<IpAddr>().unwrap());
    assert_eq!(node.verb("ADD", "b", &b.path(), &config).failure(), Some(102));
    let netns = b.path();
    let mut environment = environment("ADD", "b", netns.to_str().unwrap()).to_vec();
    environment.push(("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=b;IP=10.244.0.78"));
    let result = node.call(&environment, &node.config.to_string()).succeeded().json();
    assert_eq!(addresses(&result)[0], "10.244.0.78".parse::<IpAddr>().unwrap());
}

#[test]
fn status_tells_of_exhaustion_before_add_does() {
    tests::require_root!();
    let node = Node::new("status");
    let config = node.with("podCIDRs", json!(["10.244.0.0/30"]));
    let (a, b) = (NetworkNamespace::new(), NetworkNamespace::new());
    assert_eq!(node.verb("STATUS", "", Path::new(""), &config).succeeded().stdout, "");
    node.verb("ADD", "a", &a.path(), &config).succeeded();
    assert_eq!(node.verb("STATUS", "", Path::new(""), &config).failure(), Some(50));
    let answer = node.verb("ADD", "b", &b.path(), &config);
    assert_eq!(answer.failure(), Some(101));
    assert_eq!(
        answer.json()["msg"],
        "no address is free in 10.244.0.0/30: all 1 are held"
    );
}

#[test]
fn gc_keeps_what_is_listed_and_refuses_no_list() {
    tests::require_root!();
    let node = Node::new("gc");
    let pods = ["a", "b", "c"].map(|id| (id, NetworkNamespace::new()));
    pods.iter().for_each(|(id, pod)| drop(node.add(id, pod).succeeded()));
    let other = NetworkNamespace::new();
    let other_network = node.with("name", json!("other"));
    node.verb("ADD", "d", &other.path(), &other_network).succeeded();
    let gc = |config: &Value| node.verb("GC", "", Path::new(""), config);
    let ids = |name: &str| -> Vec<String> {
        let network = NodeNetwork {
            name: name.to_owned(),
            ..node.network()
        };
        let listed = node.namespace.run(|| pod_network::list(&network)).unwrap();
        listed.into_iter().map(|attachment| attachment.container_id).collect()
    };
    assert_eq!(gc(&node.config).failure(), Some(7));
    let valid = json!([{"containerID": "b", "ifname": "eth0"}, {"containerID": "c", "ifname": "eth1"}]);
    gc(&node.with("cni.dev/valid-attachments", valid)).succeeded();
    assert_eq!(
        (ids("pods"), ids("other")),
        (vec!["b".to_owned()], vec!["d".to_owned()])
    );
    gc(&node.with("cni.dev/valid-attachments", json!([]))).succeeded();
    assert_eq!((ids("pods").len(), ids("other").len()), (0, 1));
}

#[test]
fn version_is_answered_without_standard_input() {
    let plugin = tests::binary_path("orlop-cni");
    let mut command = Command::new(plugin);
    command
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    // Standard input stays open and empty: a plugin that reads it would hang.
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let answer = Answer::of(&output).succeeded().json();
    assert_eq!(
        answer["supportedVersions"],
        json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
    );
}

#[test]
fn an_add_makes_again_what_the_node_has_lost() {
    tests::require_root!();
    let node = Node::new("lost");
    let network = node.network();
    let pods = [NetworkNamespace::new(), NetworkNamespace::new()];
    let signs = plan::signs_of_preparation(&network.pod_cidrs, &network.service_cidrs);
    let (questions, ways): (Vec<LinkStep>, Vec<Way>) = signs.into_iter().unzip();
    let is_prepared = || {
        let answers = node
            .namespace
            .run(|| Connection::open().unwrap().ask(&questions))
            .unwrap();
        answers.iter().map(decode_way).eq(ways.iter().copied())
    };
    assert!(!is_prepared());
    node.add("a", &pods[0]).succeeded();
    // The kernel routes a new IPv6 address to itself a moment after it has taken it.
    tests::eventually(Duration::from_secs(10), "the node is prepared", is_prepared);
    let clear = plan::clear_node(&network.pod_cidrs, &network.service_cidrs);
    node.namespace
        .run(|| Connection::open().unwrap().perform(&clear, None))
        .unwrap();
    assert!(!is_prepared());
    node.add("b", &pods[1]).succeeded();
    tests::eventually(Duration::from_secs(10), "the node is prepared again", is_prepared);
    ["a", "b"].iter().for_each(|id| node.del(id));
}
