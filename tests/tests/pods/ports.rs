//! Ports of the node that lead to pods, from the manifest on.

use tests::{eventually, require_root};

use crate::node::{Node, PATIENCE, pod, with_node};

/// A pod that answers its name on port 80, with these ports of the node.
fn web(name: &str, ports: &str) -> String {
    let script = format!("mkdir /w; echo {name} > /w/index.html; exec httpd -f -p 80 -h /w");
    pod(name, &script, &format!("    ports: [{ports}]\n"))
}

#[track_caller]
fn wait_for(node: &Node<'_>, address: &str, expected: &str) {
    eventually(PATIENCE, &format!("{address} answers {expected:?}"), || {
        match node.http(address) {
            Ok(heard) if heard == expected => Ok(()),
            other => Err(other),
        }
    });
}

#[test]
fn a_port_of_the_node_is_its_pods_until_that_is_gone() {
    require_root!();
    with_node("host-port", |node| {
        node.manifest("a.yaml", &web("a", "{containerPort: 80, hostPort: 8080}"));
        node.wait_ready("a");
        wait_for(node, "127.0.0.1:8080", "a");
        assert_eq!(node.ok(&["exec", "a", "--", "wget", "-qO-", "127.0.0.1"]), "a\n");
        let services = node.ok(&["services", "pod/a"]);
        assert!(
            services.contains("HostPort") && services.contains("8080/TCP"),
            "{services}"
        );
        // It stays while no agent is, and another agent finds it.
        node.kill_agent();
        assert_eq!(node.http("127.0.0.1:8080").as_deref(), Ok("a"));
        node.start();
        assert_eq!(node.http("127.0.0.1:8080").as_deref(), Ok("a"));

        // Another pod that asks for it has failed, for good.
        node.manifest(
            "b.yaml",
            &web("b", "{containerPort: 80, hostPort: 8080, hostIP: 127.0.0.1}"),
        );
        let refused = eventually(PATIENCE, "the other pod is refused", || {
            let status = node.pod("b")["status"].clone();
            if status["phase"] == "Failed" {
                Ok(status)
            } else {
                Err(status)
            }
        });
        assert_eq!(refused["reason"], "NodePorts");
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports: \
                       port 127.0.0.1:8080/TCP is pod default/a's";
        assert_eq!(refused["message"], format!("Pod was rejected: {message}"));
        assert!(
            node.ok(&["get", "pods"]).contains("NodePorts"),
            "{}",
            node.ok(&["get", "pods"])
        );
        assert!(node.ok(&["describe", "pod", "b"]).contains(message));
        node.kill_agent();
        node.start();
        assert_eq!(node.wait_phase("b", "Failed")["status"]["reason"], "NodePorts");
        assert_eq!(node.http("127.0.0.1:8080").as_deref(), Ok("a"));

        // One that comes while the first one goes waits for it.
        node.remove_manifest("b.yaml");
        node.wait_gone("b");
        node.remove_manifest("a.yaml");
        node.manifest("c.yaml", &web("c", "{containerPort: 80, hostPort: 8080}"));
        node.wait_ready("c");
        wait_for(node, "127.0.0.1:8080", "c");
        node.remove_manifest("c.yaml");
        node.wait_gone("c");
        eventually(PATIENCE, "nobody has the port", || match node.http("127.0.0.1:8080") {
            Err(why) if why.contains("Connection refused") => Ok(()),
            other => Err(other),
        });
    });
}

#[test]
fn pods_of_the_hosts_network_have_their_ports_too() {
    require_root!();
    with_node("host-port-network", |node| {
        let on_host = web("a", "{containerPort: 80}").replace("spec:\n", "spec:\n  hostNetwork: true\n");
        node.manifest("a.yaml", &on_host);
        node.wait_ready("a");
        node.manifest("b.yaml", &web("b", "{containerPort: 81, hostPort: 80}"));
        let refused = node.wait_phase("b", "Failed");
        assert_eq!(refused["status"]["reason"], "NodePorts");
        wait_for(node, "127.0.0.1:80", "a");
    });
}
