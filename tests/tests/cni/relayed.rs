//! The plugin as a thin client: its calls are done by an agent, and what becomes of them when there is none.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use cni::pod_network::{self, NodeNetwork};
use cni::relay;
use serde_json::{Value, json};
use tests::{LeakAudit, NetworkNamespace};

use crate::node::{Node, addresses};

fn socket(node: &Node) -> PathBuf {
    node.scratch.input().join("cni.sock")
}

/// The plugin's configuration with an agent: it needs no ranges.
fn thin(node: &Node) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "pods", "type": "orlop-cni", "runDir": node.scratch.input(),
        "agentSocket": socket(node),
    })
}

/// Does `work` while an agent answers, in the node's namespace; answers how many calls it did.
fn with_agent(node: &Node, work: impl FnOnce()) -> usize {
    let listener = UnixListener::bind(socket(node)).unwrap();
    let agents = NodeNetwork {
        name: "orlop".to_owned(),
        ..node.network()
    };
    let (is_over, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            node.namespace.run(|| {
                for stream in listener.incoming() {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let done = relay::answer(stream.unwrap(), |call| {
                        calls.fetch_add(1, Ordering::Relaxed);
                        call.perform(&agents, &[])
                    });
                    done.unwrap();
                }
            });
        });
        work();
        is_over.store(true, Ordering::Relaxed);
        drop(std::os::unix::net::UnixStream::connect(socket(node)));
    });
    std::fs::remove_file(socket(node)).unwrap();
    calls.into_inner()
}

#[test]
fn an_agent_does_the_calls_of_the_plugin() {
    tests::require_root!();
    let node = Node::new("relayed");
    node.prepare();
    let pod = NetworkNamespace::new();
    let config = thin(&node);
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &pod]);
    let calls = with_agent(&node, || {
        let netns = pod.path();
        let result = node.verb("ADD", "abc", &netns, &config).succeeded().json();
        assert_eq!(result["interfaces"][1]["sandbox"], netns.to_str().unwrap());
        for address in addresses(&result) {
            let listener = pod.run(|| TcpListener::bind(SocketAddr::new(address, 80)).unwrap());
            node.namespace
                .run(|| TcpStream::connect(listener.local_addr().unwrap()))
                .unwrap();
        }
        let mut check = config.clone();
        check["prevResult"] = result;
        node.verb("CHECK", "abc", &netns, &check).succeeded();
        node.verb("STATUS", "", Path::new(""), &config).succeeded();
        assert_eq!(node.verb("GC", "", Path::new(""), &config).failure(), Some(7));
        assert_eq!(node.verb("ADD", "abc", &netns, &config).failure(), Some(100));
        let mut own = config.clone();
        own["name"] = json!("orlop");
        assert_eq!(node.verb("ADD", "other", &netns, &own).failure(), Some(7));
        node.verb("DEL", "abc", &netns, &config).succeeded();
    });
    assert_eq!(calls, 7);
    audit.finish();
}

#[test]
fn without_its_agent_the_plugin_waits_says_so_and_removes_all_the_same() {
    tests::require_root!();
    let node = Node::new("unrelayed");
    node.prepare();
    let pod = NetworkNamespace::new();
    let config = thin(&node);
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &pod]);
    with_agent(&node, || {
        node.verb("ADD", "abc", &pod.path(), &config).succeeded();
    });
    let mut check = config.clone();
    check["prevResult"] = json!({"ips": []});
    check["cni.dev/valid-attachments"] = json!([]);
    for (verb, code) in [("STATUS", 50), ("CHECK", 11), ("GC", 11), ("ADD", 11)] {
        let answer = node.verb(verb, "abc", &pod.path(), &check);
        assert_eq!(answer.failure(), Some(code), "{verb}: {answer:?}");
        assert_eq!(answer.json()["cniVersion"], "1.1.0");
    }
    let listed = || node.namespace.run(|| pod_network::list(&node.network())).unwrap();
    assert_eq!(listed().len(), 1);
    let answer = node.verb("DEL", "abc", Path::new(""), &config).succeeded();
    assert_eq!((answer.stdout.as_str(), listed().len()), ("", 0));
    node.verb("DEL", "abc", Path::new(""), &config).succeeded();
    audit.finish();
}

#[test]
fn an_add_waits_for_an_agent_that_is_being_restarted() {
    tests::require_root!();
    let node = Node::new("restart");
    let pod = NetworkNamespace::new();
    let config = thin(&node);
    thread::scope(|scope| {
        let add = scope.spawn(|| node.verb("ADD", "abc", &pod.path(), &config));
        thread::sleep(std::time::Duration::from_millis(300));
        let calls = with_agent(&node, || {
            add.join().unwrap().succeeded();
        });
        assert_eq!(calls, 1);
    });
}
