//! The pod network as the agent shows it, mends it and tells of it.
#![expect(clippy::unwrap_used, reason = "a helper of tests: a failure is the test's")]

use std::process::Command;

use cni::pod_network::{self, AttachRequest, NodeNetwork};
use tests::{NetworkNamespace, eventually, require_root};

use crate::node::{Node, PATIENCE, pod, with_node};

/// What a tool says in the node's namespace.
#[track_caller]
fn tool(node: &Node<'_>, words: &[&str]) -> String {
    let output = node
        .network()
        .run(|| Command::new(words[0]).args(&words[1..]).output())
        .unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_pod_network_is_shown_mended_and_told_of() {
    require_root!();
    with_node("pod-network", |node| {
        let limits = "metadata: {annotations: {kubernetes.io/ingress-bandwidth: 8M}, name: a";
        let ports = "    ports: [{containerPort: 80, hostPort: 8080}]\n";
        node.manifest(
            "a.yaml",
            &pod("a", "exec sleep 1000", ports).replace("metadata: {name: a", limits),
        );
        let address = node.wait_ready("a")["status"]["podIP"].as_str().unwrap().to_owned();
        let shown = node.ok(&["network", "a"]);
        let row: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row[..3], ["default/a", "orlop", &address]);
        assert_eq!(row[6..], ["8M", "-", "1", "true"], "{shown}");
        let queue = tool(node, &["tc", "qdisc", "show", "dev", row[3]]);
        let is_paced = pod_network::has_pacing_queue().unwrap();
        let kind = if is_paced { "qdisc fq 2:" } else { "rate 8Mbit" };
        assert!(queue.contains(kind), "{queue}");

        // A link that no pod has, and an address of the node that somebody took away.
        let ghost = NetworkNamespace::new();
        let network = NodeNetwork::new("orlop", &["10.244.0.0/24".parse().unwrap()], &node.input());
        let netns = ghost.path();
        let request = AttachRequest::new(&netns, "ghost", "eth0");
        node.network().run(|| pod_network::attach(&network, &request)).unwrap();
        tool(node, &["ip", "address", "del", "10.244.0.1/32", "dev", "lo"]);
        assert!(node.ok(&["network"]).contains("ghost"));
        assert_eq!(
            node.ok(&["network", "check"]),
            "removed 1 links and 0 ports of pods that are gone\n"
        );
        assert!(tool(node, &["ip", "address", "show", "dev", "lo"]).contains("10.244.0.1/32"));
        let all = node.ok(&["network"]);
        assert!(!all.contains("ghost") && all.contains("node: 10.244.0.0/24"), "{all}");

        eventually(PATIENCE, "the network is told of", || {
            let page = node.http("127.0.0.1:10249/metrics")?;
            let lines = [
                "orlop_network_packets_total{what=\"foreign-source\"} 0",
                "orlop_network_attachments{network=\"orlop\"} 1",
                "orlop_network_addresses{range=\"10.244.0.0/24\"} 1",
                "orlop_network_addresses_limit{range=\"10.244.0.0/24\"} 253",
            ];
            let missing = lines.iter().find(|line| !page.lines().any(|own| own == **line));
            missing.map_or(Ok(()), |line| Err(format!("{line} is not in\n{page}")))
        });
    });
}
