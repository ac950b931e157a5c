//! SCTP of processes of the node itself: what the program at `lo` makes of it, and those at the links that answers come by.

use agent::hands::maps::Link;
use ebpf_common::flow::Way;

use super::frame::Frame;
use super::inside::{ABORT, BACKEND, CLUSTER, INIT, INIT_ACK, NODE, clustered};
use super::{Bench, DROP, PASS, REDIRECT, at, client_pod, ip};

impl Bench {
    /// A frame that comes in by a link, with the program's verdict.
    #[track_caller]
    fn met(&mut self, link: Link, frame: &Frame) -> (u32, Frame) {
        let (verdict, bytes) = self.maps.try_frame(link, Way::Arriving, &frame.bytes()).unwrap();
        (verdict, Frame::parse(&bytes))
    }

    /// The first of an association of the node's, which comes in by `lo` as it is once more when its flow has begun.
    #[track_caller]
    fn begun(&mut self, request: &Frame) -> (u32, Frame) {
        assert_eq!(self.met(Link::Loopback, request), (REDIRECT, request.clone()));
        self.met(Link::Loopback, request)
    }
}

#[test]
fn the_nodes_association_gets_a_backend_and_its_answer_the_service() {
    for where_ in ["here", "there"] {
        bench!("fr-own", bench, clustered("SCTP", where_, ""));
        for (family, service) in [CLUSTER, NODE].iter().flat_map(|kind| kind.iter().enumerate()) {
            let (mut client, service, backend) = (at(NODE[family]), at(service), at(BACKEND[family]));
            client.set_port(service.port() + 1);
            let request = Frame::sctp(client, service, INIT).with_payload(&[3; 16]);
            let (verdict, sent) = bench.begun(&request);
            assert_eq!((verdict, &sent), (REDIRECT, &request.clone().towards(backend)));
            // It comes in by `lo` once more, and goes on as it is.
            let (_, onward) = bench.met(Link::Loopback, &sent);
            assert_eq!(onward, sent);
            let reply = Frame::sctp(backend, client, INIT_ACK).with_payload(&[5; 16]);
            for link in [Link::Pod, Link::Uplink] {
                assert_eq!(bench.met(link, &reply), (REDIRECT, reply.clone()), "{link:?}");
            }
            let answer = Frame { from: service, ..reply };
            let heard = bench.met(Link::Loopback, &reply_of(&answer, backend));
            assert_eq!(heard, (PASS, answer));
            // A router behind the node speaks of what was asked.
            let router = ip(if service.is_ipv4() {
                "192.0.2.99"
            } else {
                "2001:db8:99::9"
            });
            let error = Frame::error(router, client.ip(), &sent);
            assert_eq!(bench.met(Link::Uplink, &error).0, REDIRECT);
            let (verdict, told) = bench.met(Link::Loopback, &error);
            assert_eq!(
                (verdict, told.from.ip(), told.quoted()),
                (PASS, router, (client, service))
            );
        }
        assert_eq!(bench.counters().forwarded, 4, "{where_}");
    }
}

/// The answer as the backend sends it.
fn reply_of(answer: &Frame, backend: std::net::SocketAddr) -> Frame {
    Frame {
        from: backend,
        ..answer.clone()
    }
}

#[test]
fn who_gets_no_backend_at_the_node_is_refused_or_dropped() {
    bench!(
        "fr-own-none",
        bench,
        clustered("SCTP", "there", "  internalTrafficPolicy: Local\n")
    );
    for family in [0, 1] {
        let request = Frame::sctp(at(NODE[family]), at(CLUSTER[family]), INIT);
        assert_eq!(bench.met(Link::Loopback, &request).0, DROP);
    }
    assert_eq!(bench.counters().no_local, 2);
    let bare = clustered("SCTP", "here", "");
    bench.set(bare.split("---").next().unwrap());
    for family in [0, 1] {
        let (client, service) = (at(NODE[family]), at(CLUSTER[family]));
        let (verdict, sent) = bench.begun(&Frame::sctp(client, service, INIT));
        assert_eq!((verdict, sent.to.ip(), sent.to.port()), (REDIRECT, client.ip(), 0));
        let heard = bench.met(Link::Loopback, &Frame::sctp(sent.to, client, ABORT));
        assert_eq!((heard.0, heard.1.from), (PASS, service), "in the Service's name");
    }
    assert_eq!(bench.counters().refused, 2);
}

/// As one of the host's network that has the port of its Service.
#[test]
fn a_backend_at_the_address_that_is_asked_has_the_packet_already() {
    let mut text = clustered("SCTP", "here", "");
    for (pods, nodes) in [
        ("10.244.0.2", "203.0.113.1"),
        ("fd00:244::2", "2001:db8:71::1"),
        ("8080", "30080"),
    ] {
        text = text.replace(pods, nodes);
    }
    bench!("fr-own-itself", bench, text);
    for family in [0, 1] {
        let request = Frame::sctp(at(NODE[family]), at(NODE[family]), INIT);
        assert_eq!(bench.met(Link::Loopback, &request), (PASS, request));
    }
}

/// A backend would try the others, which the node knows nothing of.
#[test]
fn addresses_that_the_node_lists_are_padding_for_the_backend() {
    const PADDING: [u8; 2] = [0x80, 5];
    bench!("fr-own-lists", bench, clustered("SCTP", "here", ""));
    for family in [0, 1] {
        // Behind what every first packet has: addresses of both families, and what else the node can do.
        let listing = |v4: [u8; 2], v6: [u8; 2]| {
            let parameters = [
                &v4[..],
                &[0, 8, 203, 0, 113, 1],
                &v6,
                &[0, 20],
                &[7; 16],
                &[0x80, 0, 0, 4],
            ];
            [&[3; 16][..], &parameters.concat()].concat()
        };
        let request = Frame {
            has_check: false,
            ..Frame::sctp(at(NODE[family]), at(CLUSTER[family]), INIT).with_payload(&listing([0, 5], [0, 6]))
        };
        let hidden = request.clone().with_payload(&listing(PADDING, PADDING));
        let (_, sent) = bench.begun(&request);
        assert_eq!(sent, hidden.towards(at(BACKEND[family])));
    }
}

#[test]
fn two_services_with_one_backend_are_told_apart_by_the_nodes_port() {
    bench!("fr-own-two", bench, clustered("SCTP", "here", ""));
    let (client, backend) = (at(NODE[0]), at(BACKEND[0]));
    assert_eq!(
        bench.met(Link::Loopback, &Frame::sctp(client, at(CLUSTER[0]), INIT)).0,
        REDIRECT
    );
    let second = Frame::sctp(client, at(NODE[0]), INIT);
    assert_eq!(bench.met(Link::Loopback, &second).0, DROP, "while the first lives");
    assert_eq!(bench.counters().no_room, 1);
    let heard = bench.met(Link::Loopback, &Frame::sctp(backend, client, INIT_ACK));
    assert_eq!((heard.0, heard.1.from), (PASS, at(CLUSTER[0])));
}

#[test]
fn what_is_not_the_nodes_own_passes_lo() {
    bench!("fr-own-other", bench, clustered("SCTP", "here", ""));
    let node = at(NODE[0]);
    let pod = std::net::SocketAddr::new(client_pod().addresses[0], 4000);
    for frame in [
        Frame::tcp(node, at(CLUSTER[0]), 2),
        Frame::udp(node, at(CLUSTER[0]), b"who"),
        Frame::sctp(node, at("10.96.0.1:81"), INIT),
        Frame::sctp(at(BACKEND[0]), pod, INIT_ACK),
    ] {
        assert_eq!(bench.met(Link::Loopback, &frame), (PASS, frame));
    }
}
