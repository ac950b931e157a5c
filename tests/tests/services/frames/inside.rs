//! SCTP of clients in pods: what the programs at pods' links make of it.

use std::net::{IpAddr, SocketAddr};

use agent::hands::maps::Link;
use agent_core::service::ReadyPod;
use ebpf_common::flow::Way;

use super::frame::Frame;
use super::{Bench, DROP, PAIRS, PASS, at, client_pod, ip, web};

pub(super) const INIT: u8 = 1;
pub(super) const INIT_ACK: u8 = 2;
const DATA: u8 = 0;
pub(super) const ABORT: u8 = 6;

const POD: [&str; 2] = ["10.244.0.9:4000", "[fd00:244::9]:4000"];
pub(super) const CLUSTER: [&str; 2] = ["10.96.0.1:80", "[fd00:96::1]:80"];
pub(super) const BACKEND: [&str; 2] = ["10.244.0.2:8080", "[fd00:244::2]:8080"];
pub(super) const NODE: [&str; 2] = ["203.0.113.1:30080", "[2001:db8:71::1]:30080"];

impl Bench {
    /// A frame that a pod sends, as it goes on.
    #[track_caller]
    fn asked(&mut self, frame: &Frame) -> Frame {
        let (verdict, bytes) = self.ask(frame);
        assert_eq!(verdict, PASS);
        Frame::parse(&bytes)
    }

    #[track_caller]
    fn ask(&mut self, frame: &Frame) -> (u32, Vec<u8>) {
        self.maps.try_frame(Link::Pod, Way::Arriving, &frame.bytes()).unwrap()
    }

    /// A frame that goes to a pod, as that has it.
    #[track_caller]
    fn heard(&mut self, frame: &Frame) -> Frame {
        let (verdict, bytes) = self.maps.try_frame(Link::Pod, Way::Leaving, &frame.bytes()).unwrap();
        assert_eq!(verdict, PASS);
        Frame::parse(&bytes)
    }
}

/// The Service with cluster addresses and more of its spec.
pub(super) fn clustered(protocol: &str, node: &str, more: &str) -> String {
    let addresses = "clusterIP: 10.96.0.1\n  clusterIPs: [10.96.0.1, \"fd00:96::1\"]";
    web(protocol, node).replacen("spec:\n", &format!("spec:\n  {addresses}\n{more}"), 1)
}

#[test]
fn a_pods_association_gets_a_backend_and_its_answer_the_service() {
    for node in ["here", "there"] {
        bench!("fr-in", bench, clustered("SCTP", node, ""));
        for (family, service) in [CLUSTER, NODE].iter().flat_map(|kind| kind.iter().enumerate()) {
            let (mut pod, service, backend) = (at(POD[family]), at(service), at(BACKEND[family]));
            pod.set_port(service.port());
            for (kind, length) in [(INIT, 16), (DATA, 0), (DATA, 1400)] {
                let request = Frame::sctp(pod, service, kind).with_payload(&vec![3; length]);
                let sent = bench.asked(&request);
                assert_eq!(sent, request.towards(backend), "the backend sees the pod");
                assert_eq!(bench.heard(&sent), sent, "and so does its link");
                assert_eq!(bench.left(&sent), sent, "and the way to another node");
                let reply = Frame::sctp(backend, pod, INIT_ACK).with_payload(&vec![5; length]);
                assert_eq!(bench.asked(&reply), reply, "the backend's own link");
                assert_eq!(bench.arrived(&reply), reply, "the way from another node");
                let answered = Frame {
                    from: service,
                    ..reply.clone()
                };
                assert_eq!(bench.heard(&reply), answered);
            }
        }
        assert_eq!(bench.counters().forwarded, 4, "{node}");
    }
}

#[test]
fn a_pod_that_is_its_own_backend_sees_the_node() {
    bench!("fr-in-hairpin", bench, clustered("SCTP", "here", ""));
    for family in [0, 1] {
        let (mut pod, service, backend) = (at(BACKEND[family]), at(CLUSTER[family]), at(BACKEND[family]));
        pod.set_port(4000);
        let sent = bench.asked(&Frame::sctp(pod, service, INIT));
        assert_eq!((sent.from, sent.to), (pod, backend));
        let heard = bench.heard(&sent);
        assert_eq!((heard.from.ip(), heard.to), (at(NODE[family]).ip(), backend));
        let reply = bench.asked(&Frame::sctp(backend, heard.from, INIT_ACK));
        assert_eq!((reply.from, reply.to), (backend, pod));
        let heard = bench.heard(&reply);
        assert_eq!((heard.from, heard.to), (service, pod));
    }
}

#[test]
fn a_client_outside_is_masked_at_uplinks_alone() {
    bench!("fr-in-mask", bench, web("SCTP", "there"));
    for (client, service, backend, node) in PAIRS {
        let arrived = bench.arrived(&Frame::sctp(at(client), at(service), INIT));
        assert_eq!(bench.heard(&arrived), arrived, "a pod of this node sees the client");
        let error = Frame::error(
            ip(router(client)),
            at(backend).ip(),
            &Frame::sctp(at(backend), at(client), DATA),
        );
        assert_eq!(bench.heard(&error), error);
        assert_eq!(bench.left(&arrived).from.ip(), at(node).ip());
    }
}

#[test]
fn other_protocols_are_left_to_sockets() {
    for protocol in ["TCP", "UDP"] {
        bench!("fr-in-other", bench, clustered(protocol, "here", ""));
        for family in [0, 1] {
            let (pod, service, backend) = (at(POD[family]), at(CLUSTER[family]), at(BACKEND[family]));
            let (request, reply) = match protocol {
                "TCP" => (Frame::tcp(pod, service, 2), Frame::tcp(backend, pod, 18)),
                _ => (Frame::udp(pod, service, b"who"), Frame::udp(backend, pod, b"I")),
            };
            assert_eq!(bench.asked(&request), request);
            // A client outside with the pod's address: its flow is nothing to the pod's link.
            let mut outside = request.clone();
            outside.to = at(NODE[family]);
            bench.arrived(&outside);
            assert_eq!(bench.heard(&reply), reply);
            assert_eq!(bench.asked(&outside), outside);
        }
    }
}

#[test]
fn who_gets_no_backend_is_refused_or_dropped_and_counted() {
    bench!(
        "fr-in-none",
        bench,
        clustered("SCTP", "there", "  internalTrafficPolicy: Local\n")
    );
    for family in [0, 1] {
        let (pod, service) = (at(POD[family]), at(CLUSTER[family]));
        assert_eq!(bench.ask(&Frame::sctp(pod, service, INIT)).0, DROP);
    }
    assert_eq!(bench.counters().no_local, 2);
    let bare = clustered("SCTP", "here", "");
    bench.set(bare.split("---").next().unwrap());
    for family in [0, 1] {
        let (pod, service, node) = (at(POD[family]), at(CLUSTER[family]), at(NODE[family]).ip());
        let sent = bench.asked(&Frame::sctp(pod, service, INIT));
        assert_eq!((sent.from, sent.to.ip(), sent.to.port()), (pod, node, 0));
        let aborted = bench.heard(&Frame::sctp(sent.to, pod, ABORT));
        assert_eq!((aborted.from, aborted.to), (service, pod), "in the Service's name");
        // A node without the protocol says so.
        let other = SocketAddr::new(pod.ip(), pod.port() + 1);
        let sent = bench.asked(&Frame::sctp(other, service, INIT));
        let told = bench.heard(&Frame::error(node, pod.ip(), &sent));
        assert_eq!((told.from.ip(), told.quoted()), (service.ip(), (other, service)));
    }
    assert_eq!(bench.counters().refused, 4);
    bench.change(&bare);
    for family in [0, 1] {
        let pod = at(POD[family]);
        for port in [pod.port(), pod.port() + 1] {
            let again = Frame::sctp(SocketAddr::new(pod.ip(), port), at(CLUSTER[family]), INIT);
            assert_eq!(bench.asked(&again).to, at(BACKEND[family]), "from the same port");
        }
    }
}

#[test]
fn source_ranges_and_affinity_hold_for_pods() {
    let ranges = "  loadBalancerSourceRanges: [10.244.0.9/32, \"fd00:244::9/128\"]\n  sessionAffinity: ClientIP\n";
    let manifest = clustered("SCTP", "here", ranges)
        .replace("type: NodePort", "type: LoadBalancer")
        .replacen(
            "---",
            "status: {loadBalancer: {ingress: [{ip: 192.0.2.50}, {ip: \"2001:db8:50::50\"}]}}\n---",
            1,
        );
    bench!("fr-in-rules", bench, manifest);
    for (pod, balancer) in POD.iter().zip(["192.0.2.50:80", "[2001:db8:50::50]:80"]) {
        let request = Frame::sctp(at(pod), at(balancer), INIT);
        bench.asked(&request);
        let mut other = request.clone();
        other.from.set_ip(neighbour(at(pod).ip()));
        assert_eq!(bench.ask(&other).0, DROP);
    }
    assert_eq!(bench.counters().not_allowed, 2);
    let kept = bench.maps.affinities(bench.ids[0]).unwrap();
    assert_eq!(kept.len(), 2, "{kept:?}");
}

#[test]
fn errors_about_a_pods_association_are_told_to_whom_they_concern() {
    bench!("fr-in-errors", bench, clustered("SCTP", "here", ""));
    for family in [0, 1] {
        let (pod, service, backend) = (at(POD[family]), at(CLUSTER[family]), at(BACKEND[family]));
        let sent = bench.asked(&Frame::sctp(pod, service, INIT));
        // A router behind the node, and the backend itself in the name of the Service.
        let router = ip(router(POD[family]));
        let heard = bench.heard(&Frame::error(router, pod.ip(), &sent));
        assert_eq!((heard.from.ip(), heard.quoted()), (router, (pod, service)));
        let error = Frame::error(backend.ip(), pod.ip(), &sent);
        assert_eq!(bench.asked(&error), error);
        let heard = bench.heard(&error);
        assert_eq!((heard.from.ip(), heard.quoted()), (service.ip(), (pod, service)));
        // The pod has nobody for an answer.
        let error = Frame::error(pod.ip(), service.ip(), &Frame::sctp(service, pod, DATA));
        let told = bench.asked(&error);
        assert_eq!((told.from.ip(), told.to.ip()), (pod.ip(), backend.ip()));
        assert_eq!(told.quoted(), (backend, pod));
    }
}

fn router(client: &str) -> &'static str {
    if client.starts_with('[') {
        "2001:db8:99::9"
    } else {
        "192.0.2.99"
    }
}

/// The next address.
fn neighbour(address: IpAddr) -> IpAddr {
    let ReadyPod { addresses, .. } = client_pod();
    assert!(addresses.contains(&address));
    match address {
        IpAddr::V4(four) => IpAddr::from((u32::from(four) + 1).to_be_bytes()),
        IpAddr::V6(six) => IpAddr::from((u128::from(six) + 1).to_be_bytes()),
    }
}
