//! Ports of the node that lead to one pod: asked for by clients outside, the node, other pods and the pod itself.

use std::net::IpAddr;

use agent_core::service::ServiceName;
use agent_core::service::host_port::{HostPort, Published};

use super::node::Node;
use super::outside::{World, world};
use super::server::{Backend, sctp_witness, tcp, udp_witness, witness};

/// The node's addresses in [`World`], and the pod's.
const NODE: [&str; 2] = ["203.0.113.1", "2001:db8:71::1"];
const POD: [&str; 2] = ["10.244.0.2", "fd00:244::2"];
const CLIENT: [&str; 2] = ["198.51.100.2", "2001:db8:51::2"];

/// A pod with a port of the node for each backend: `[ADDRESS ]PORT`.
fn published(name: &str, ports: &[(&str, &Backend)]) -> Published {
    let port = |(asked, backend): &(&str, &Backend)| {
        let (address, port) = asked
            .rsplit_once(' ')
            .map_or((None, *asked), |(address, port)| (Some(address), port));
        HostPort {
            protocol: backend.protocol,
            address: address.map(|text| text.parse().unwrap()),
            port: port.parse().unwrap(),
            target: backend.address.port(),
        }
    };
    Published {
        owner: ServiceName::of_pod("default", name),
        addresses: POD.map(|text| text.parse().unwrap()).to_vec(),
        ports: ports.iter().map(port).collect(),
    }
}

/// Makes these all the pods with ports of the node, beside the manifests' Services.
#[track_caller]
fn publish(node: &mut Node<'_>, manifests: &str, pods: &[Published]) {
    node.apply_with(manifests, &[], |facts| {
        let own = ["127.0.0.1", "::1"].into_iter().chain(NODE);
        facts.node.addresses = own.map(|text| text.parse::<IpAddr>().unwrap()).collect();
        facts.published = pods.to_vec();
    });
}

fn at(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

#[test]
fn a_port_of_the_node_leads_to_its_pod_from_everywhere() {
    world!("ports", world, node);
    let web = world.here(witness("[::]:80"));
    let names = world.here(udp_witness("[::]:53"));
    publish(&mut node, "", &[published("web", &[("8080", &web), ("5353", &names)])]);
    let (mut outside, mut own, mut pod) = (world.client(), node.client(), world.client_of_pod(&node));
    for family in [0, 1] {
        let (tcp, udp) = (at(NODE[family], 8080), at(NODE[family], 5353));
        let sees = |answer: String, label: &str| {
            let rest = answer.strip_prefix(label).unwrap_or_else(|| panic!("{answer}"));
            rest.trim_start().trim_start_matches("::ffff:").to_owned()
        };
        // The pod sees the client itself, and the client the address that it asked.
        for count in [10, 100_000] {
            let answer = outside.ask(&format!("say {tcp} {count}"));
            assert_eq!(
                sees(answer, &web.label),
                format!("{} {count} from {tcp}", CLIENT[family])
            );
        }
        for count in [30, 1400, 9000] {
            let answer = outside.ask(&format!("say-udp {udp} {count}"));
            assert_eq!(sees(answer, &names.label), format!("{} {count}", CLIENT[family]));
        }
        for client in [&mut own, &mut pod] {
            let answer = client.ask(&format!("say {tcp} 10"));
            assert!(
                answer.starts_with(&web.label) && answer.ends_with(&format!(" 10 from {tcp}")),
                "{answer}"
            );
            let answer = client.ask(&format!("say-udp {udp} 10"));
            assert!(answer.starts_with(&names.label), "{answer}");
        }
        let localhost = ["127.0.0.1", "::1"][family];
        let answer = own.ask(&format!("say {} 10", at(localhost, 8080)));
        assert!(answer.starts_with(&web.label), "{answer}");
        assert!(
            own.ask(&format!("say-udp {} 10", at(localhost, 5353)))
                .starts_with(&names.label)
        );
        // A pod's localhost is its own.
        assert_eq!(
            pod.ask(&format!("say {} 10", at(localhost, 8080))),
            "error ConnectionRefused"
        );
    }
    assert_eq!(pod.ask("tcp 127.0.0.1:8080"), "error ConnectionRefused");
    let details = node.details();
    let port = details.iter().find(|port| port.port == "8080/TCP").unwrap();
    assert_eq!((port.namespace.as_str(), port.service.as_str()), ("default", "pod/web"));
    assert!(port.frontends.iter().all(|frontend| frontend.kind == "HostPort"));
    assert!(port.counters["forwarded"] >= 8, "{:?}", port.counters);
}

#[test]
fn an_association_from_outside_reaches_the_pod() {
    tests::require_root!();
    tests::require!(tests::Need::Path("/proc/sys/net/sctp"));
    let world = World::new("ports-sctp");
    let mut node = world.node();
    let pods = POD.map(|address| world.here(sctp_witness(&at(address, 9))));
    publish(&mut node, "", &[published("web", &[("9009", &pods[0])])]);
    let mut outside = world.client();
    for family in [0, 1] {
        let address = at(NODE[family], 9009);
        let answer = outside.ask(&format!("say-sctp {address} 5000"));
        assert_eq!(
            answer,
            format!("{} {} 5000 from {address}", pods[family].label, CLIENT[family])
        );
    }
}

#[test]
fn a_port_of_one_address_is_not_on_the_others() {
    world!("ports-one", world, node);
    let web = world.here(tcp("[::]:80"));
    let asked = [
        "203.0.113.1 8080",
        "2001:db8:71::1 8081",
        "127.0.0.1 8082",
        "192.0.2.77 8083",
    ];
    let ports: Vec<(&str, &Backend)> = asked.iter().map(|asked| (*asked, &web)).collect();
    publish(&mut node, "", &[published("web", &ports)]);
    let (mut outside, mut own) = (world.client(), node.client());
    for (address, port, from_outside, from_inside) in [
        (NODE[0], 8080, true, true),
        (NODE[1], 8081, true, true),
        ("127.0.0.1", 8082, false, true),
        (NODE[1], 8080, false, false),
        (NODE[0], 8081, false, false),
        (NODE[0], 8082, false, false),
        (NODE[0], 8083, false, false),
        ("127.0.0.1", 8080, false, false),
    ] {
        let address = at(address, port);
        let expected = |reaches| match reaches {
            true => format!("{} {address}", web.label),
            false => "error ConnectionRefused".to_owned(),
        };
        assert_eq!(own.ask(&format!("tcp {address}")), expected(from_inside), "inside");
        assert_eq!(
            outside.ask(&format!("tcp {address}")),
            expected(from_outside),
            "outside"
        );
    }
    // Nobody takes what is meant for another machine.
    let problems = node.problems_of_pod("web");
    assert_eq!(
        problems,
        ["192.0.2.77 is not an address of this node: port 8083 of it leads nowhere"]
    );
    assert!(node.trace("203.0.113.1", "192.0.2.77:8083")[1].contains("is no Service's"));
}

#[test]
fn a_port_is_free_again_when_its_pod_is_gone() {
    world!("ports-free", world, node);
    let web = world.here(tcp("[::]:80"));
    let (bind, ask) = (
        ["bind-tcp 0.0.0.0:8080", "bind-tcp [::]:8080"],
        ["tcp 203.0.113.1:8080", "tcp 127.0.0.1:8080"],
    );
    let (mut own, mut outside) = (node.client(), world.client());
    for round in 0..2 {
        publish(&mut node, "", &[published("web", &[("8080", &web)])]);
        for question in bind {
            assert_eq!(own.ask(question), "error AddrInUse", "{round}");
        }
        assert!(ask.iter().all(|question| own.ask(question).starts_with(&web.label)));
        assert!(outside.ask(ask[0]).starts_with(&web.label));
        // It is there while no agent is, and after another one has come.
        node.stop_agent();
        assert!(outside.ask(ask[0]).starts_with(&web.label) && own.ask(ask[1]).starts_with(&web.label));
        node.start_agent();
        publish(&mut node, "", &[published("web", &[("8080", &web)])]);
        assert!(outside.ask(ask[0]).starts_with(&web.label) && own.ask(ask[1]).starts_with(&web.label));
        publish(&mut node, "", &[]);
        for question in bind {
            assert_eq!(own.ask(question), "bound", "{round}");
        }
        assert!(
            ask.iter()
                .all(|question| own.ask(question) == "error ConnectionRefused")
        );
        assert_eq!(outside.ask(ask[0]), "error ConnectionRefused");
    }
}

#[test]
fn a_services_node_port_comes_before_a_pods_port() {
    world!("ports-service", world, node);
    let (service, pod) = (world.here(tcp("[::]:81")), world.here(tcp("[::]:80")));
    let manifest = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: NodePort\n  clusterIP: 10.96.0.1\n  \
                    ports: [{port: 80, nodePort: 30080, protocol: TCP}]\n---\n\
                    apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                    metadata: {name: web, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n\
                    ports: [{port: 81, protocol: TCP}]\nendpoints: [{addresses: [10.244.0.2], nodeName: here}]\n";
    let ports = [published("a", &[("30080", &pod), ("8080", &pod)])];
    let (mut own, mut outside) = (node.client(), world.client());
    let question = "tcp 203.0.113.1:30080";
    for _ in 0..2 {
        publish(&mut node, "", &ports);
        for client in [&mut own, &mut outside] {
            assert!(client.ask(question).starts_with(&pod.label));
        }
        assert!(node.problems_of_pod("a").is_empty());
        publish(&mut node, manifest, &ports);
        for client in [&mut own, &mut outside] {
            assert!(client.ask(question).starts_with(&service.label));
            assert!(client.ask("tcp 203.0.113.1:8080").starts_with(&pod.label));
            // The Service is of IPv4 alone.
            assert!(client.ask("tcp [2001:db8:71::1]:30080").starts_with(&pod.label));
        }
        assert_eq!(
            node.problems_of_pod("a"),
            ["203.0.113.1:30080/TCP belongs to default/web"]
        );
        assert!(node.problems("web").is_empty());
    }
}
