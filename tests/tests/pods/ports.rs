//! Ports of the node that lead to pods, from the manifest on.
#![expect(clippy::unwrap_used, reason = "a helper of tests: a failure is the test's")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Output, Stdio};

use tests::{NetworkNamespace, eventually, require_root};

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

#[track_caller]
fn wait_refused(node: &Node<'_>, address: &str) {
    eventually(PATIENCE, &format!("nobody is at {address}"), || {
        match node.http(address) {
            Err(why) if why.contains("Connection refused") => Ok(()),
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
        wait_refused(node, "127.0.0.1:8080");
    });
}

/// Says `guest` to whoever asks.
fn answer(mut asker: TcpStream) {
    let _ = asker.read(&mut [0; 1024]);
    let _ = asker.write_all(b"HTTP/1.0 200 OK\r\n\r\nguest");
}

/// A pod of another runtime, by the plugin and the agent's socket.
fn plugin(node: &Node<'_>, verb: &str, pod: &NetworkNamespace, port: u16) -> Output {
    let config = serde_json::json!({
        "cniVersion": "1.1.0", "name": "guests", "type": "orlop-cni", "agentSocket": node.path("run/cni.sock"),
        "runDir": node.input(), "capabilities": {"portMappings": true, "aliases": true},
        "runtimeConfig": {
            "portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}], "aliases": ["kitchen"],
        },
    });
    let mut command = tests::binary("orlop-cni");
    let variables = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", "guest"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/"),
    ];
    command.envs(variables).env("CNI_NETNS", pod.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = node.network().run(|| command.spawn()).unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(config.to_string().as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn ports_that_the_plugin_was_asked_for_are_the_agents_while_it_is_there() {
    require_root!();
    let guest = NetworkNamespace::new();
    with_node("host-port-plugin", |node| {
        node.manifest("a.yaml", &web("a", "{containerPort: 80, hostPort: 8080}"));
        node.wait_ready("a");
        // A port of the agent's own pod is nobody else's.
        let refused = plugin(node, "ADD", &guest, 8080);
        assert!(
            String::from_utf8_lossy(&refused.stdout).contains("\"code\":104"),
            "{refused:?}"
        );
        let added = plugin(node, "ADD", &guest, 9090);
        assert!(added.status.success(), "{added:?}");
        let shown = node.ok(&["network", "guest"]);
        assert!(shown.ends_with("guest by name: kitchen\n"), "{shown}");
        let server = guest.run(|| TcpListener::bind("[::]:80").unwrap());
        std::thread::spawn(move || server.incoming().flatten().for_each(answer));
        // nftables leads there at once, the Service maps as soon as the agent has seen it.
        let counted = ["services", "container/guest", "-n", "guests"];
        eventually(PATIENCE, "the Service maps have the port", || {
            assert_eq!(node.http("127.0.0.1:9090").as_deref(), Ok("guest"));
            let services = String::from_utf8(node.orlop(&counted).stdout).unwrap();
            let is_asked = services.contains("9090/TCP") && !services.contains("forwarded 0");
            if is_asked { Ok(()) } else { Err(services) }
        });
        node.manifest("b.yaml", &web("b", "{containerPort: 80, hostPort: 9090}"));
        let refused = node.wait_phase("b", "Failed");
        assert_eq!(refused["status"]["reason"], "NodePorts");

        node.kill_agent();
        assert_eq!(node.http("127.0.0.1:9090").as_deref(), Ok("guest"));
        node.start();
        assert_eq!(node.http("127.0.0.1:9090").as_deref(), Ok("guest"));
        assert!(plugin(node, "DEL", &guest, 9090).status.success());
        wait_refused(node, "127.0.0.1:9090");

        // Removed while no agent is: the next one finds it gone.
        assert!(plugin(node, "ADD", &guest, 9090).status.success());
        wait_for(node, "127.0.0.1:9090", "guest");
        node.kill_agent();
        assert!(plugin(node, "DEL", &guest, 9090).status.success());
        node.start();
        wait_refused(node, "127.0.0.1:9090");
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
