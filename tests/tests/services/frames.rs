//! Crafted frames through the programs of the links, without a link: `BPF_PROG_TEST_RUN`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use agent::hands::maps::{KernelMaps, Link};
use agent_core::manifest::Object;
use agent_core::service::address::assign;
use agent_core::service::catalog::Objects;
use agent_core::service::diff::diff;
use agent_core::service::image::{Image, Ledger, clients};
use agent_core::service::shelf::Shelf;
use agent_core::service::slice::Slice;
use agent_core::service::table::{NodeFacts, table};
use agent_core::service::{AddressRange, Counters, ReadyPod};

use ebpf_common::flow::Way;
use tests::Scratch;

use super::flood::fill_flows;
use super::remove_all;

// Before the modules that use it.
macro_rules! bench {
    ($name:literal, $bench:ident, $manifest:expr) => {
        tests::require_root!();
        tests::require!(tests::Need::Kernel(5, 18));
        let mut $bench = Bench::new($name, &$manifest);
    };
}

pub(crate) mod frame;
mod inside;
mod maglev;
mod own;
mod upstream;

use frame::Frame;

/// Where each program stands.
const PROGRAMS: [(Link, Way); 5] = [
    (Link::Uplink, Way::Arriving),
    (Link::Uplink, Way::Leaving),
    (Link::Pod, Way::Arriving),
    (Link::Pod, Way::Leaving),
    (Link::Loopback, Way::Arriving),
];
const PASS: u32 = u32::MAX;
const DROP: u32 = 2;
const REDIRECT: u32 = 7;

struct Bench {
    scratch: Scratch,
    maps: KernelMaps,
    have: Image,
    ledger: Ledger,
    ids: Vec<u32>,
    facts: NodeFacts,
}

impl Bench {
    /// Maps and programs of a node with these Services.
    fn new(name: &str, manifests: &str) -> Self {
        let scratch = Scratch::new(name);
        let maps = KernelMaps::open(&scratch.bpf_dir(), &scratch.cgroup(), &[]).unwrap();
        let have = Image::default();
        let mut bench = Self {
            ledger: Ledger::restore(&have, maps.capacity()),
            scratch,
            maps,
            have,
            ids: Vec::new(),
            facts: facts(),
        };
        bench.set(manifests);
        bench
    }

    /// Makes these Services all there are; flows that there were are forgotten.
    fn set(&mut self, manifests: &str) {
        self.change(manifests);
        self.maps.sweep(u32::MAX).unwrap();
    }

    /// Makes these Services all there are.
    fn change(&mut self, manifests: &str) {
        let (mut services, mut slices) = (Shelf::default(), Shelf::default());
        for object in agent_core::manifest::parse("test.yaml", manifests.as_bytes()).unwrap() {
            match object {
                Object::Service(service) => services.put(Arc::new(*service)),
                Object::EndpointSlice(slice) => slices.put(Arc::new(Slice::of(&slice))),
                Object::Pod(_) | Object::ConfigMap(_) => panic!("neither is needed"),
            }
        }
        let ranges: Vec<AddressRange> = ["10.96.0.0/16", "fd00:96::/112"]
            .map(|text| text.parse().unwrap())
            .into();
        let assignment = assign(services.iter().map(AsRef::as_ref), &ranges, &Default::default());
        let objects = Objects {
            services: &services,
            slices: &slices,
            pods: &[],
        };
        let table = table(objects, &assignment, &self.facts);
        let (mut want, problems) = self.ledger.image(&table.frontends, &self.have, Default::default());
        assert!(problems.is_empty(), "{problems:?}");
        want.clients = clients(&self.facts, &[client_pod()]);
        self.maps.perform(&diff(&self.have, &want)).unwrap();
        self.ledger.settle(&want, Default::default());
        self.have = want;
        self.ids = self.ledger.ids().values().copied().collect();
    }

    #[track_caller]
    fn arrive(&mut self, frame: &Frame) -> (u32, Vec<u8>) {
        self.maps
            .try_frame(Link::Uplink, Way::Arriving, &frame.bytes())
            .unwrap()
    }

    #[track_caller]
    fn leave(&mut self, frame: &Frame) -> (u32, Vec<u8>) {
        self.maps.try_frame(Link::Uplink, Way::Leaving, &frame.bytes()).unwrap()
    }

    /// The frame as it is after it has arrived; it passes and is sound.
    #[track_caller]
    fn arrived(&mut self, frame: &Frame) -> Frame {
        let (verdict, bytes) = self.arrive(frame);
        assert_eq!(verdict, PASS);
        Frame::parse(&bytes)
    }

    #[track_caller]
    fn left(&mut self, frame: &Frame) -> Frame {
        let (verdict, bytes) = self.leave(frame);
        assert_eq!(verdict, PASS);
        Frame::parse(&bytes)
    }

    fn counters(&self) -> Counters {
        self.maps.counters(self.ids[0]).unwrap().of(self.ids[0])
    }
}

/// The node `here`, with one address of each family.
fn facts() -> NodeFacts {
    let addresses = vec![ip("203.0.113.1"), ip("2001:db8:71::1")];
    let mut facts = NodeFacts {
        node_port_addresses: addresses.clone(),
        external_ips: true,
        own: Some((1, addresses)),
        ..NodeFacts::default()
    };
    facts.place.node = "here".into();
    facts
}

/// A pod of the node that asks.
fn client_pod() -> ReadyPod {
    ReadyPod {
        namespace: "default".into(),
        name: "client".into(),
        labels: Default::default(),
        addresses: vec![ip("10.244.0.9"), ip("fd00:244::9")],
        ports: Vec::new(),
        ready: true,
        terminating: false,
        namespace_cookie: Some(2),
        netns: None,
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        remove_all(&self.scratch.bpf_dir()).unwrap();
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A Service with one endpoint of each family, on this node or on another one.
fn web(protocol: &str, node: &str) -> String {
    let slice = |family: &str, address: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-{}, labels: {{kubernetes.io/service-name: web}}}}\n\
             addressType: {family}\nports: [{{port: 8080, protocol: {protocol}}}]\nendpoints: [{{addresses: [\"{address}\"], nodeName: {node}}}]\n",
            family.to_lowercase()
        )
    };
    let policy = if node == "here" { "Local" } else { "Cluster" };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  type: NodePort\n  ipFamilyPolicy: PreferDualStack\n  \
         externalTrafficPolicy: {policy}\n  ports: [{{port: 80, nodePort: 30080, protocol: {protocol}}}]\n{}{}",
        slice("IPv4", "10.244.0.2"),
        slice("IPv6", "fd00:244::2")
    )
}

const PAIRS: [(&str, &str, &str, &str); 2] = [
    (
        "198.51.100.2:4000",
        "203.0.113.1:30080",
        "10.244.0.2:8080",
        "203.0.113.1:0",
    ),
    (
        "[2001:db8:51::2]:4000",
        "[2001:db8:71::1]:30080",
        "[fd00:244::2]:8080",
        "[2001:db8:71::1]:0",
    ),
];
const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
const ACK: u8 = 16;
const FIN_ACK: u8 = 17;

#[test]
fn a_request_gets_a_backend_and_its_reply_the_service() {
    bench!("fr-local", bench, web("TCP", "here"));
    for (client, service, backend, _) in PAIRS {
        for flags in [SYN, ACK] {
            let request = Frame::tcp(at(client), at(service), flags).with_payload(b"hello");
            assert_eq!(bench.arrived(&request), request.towards(at(backend)));
            let reply = Frame::tcp(at(backend), at(client), SYN_ACK).with_payload(b"odd");
            assert_eq!(
                bench.left(&reply),
                Frame {
                    from: at(service),
                    ..reply
                }
            );
        }
    }
    assert_eq!(bench.counters().forwarded, 2);
}

#[test]
fn a_backend_elsewhere_sees_the_node() {
    bench!("fr-remote", bench, web("TCP", "there"));
    for (client, service, backend, node) in PAIRS {
        let request = Frame::tcp(at(client), at(service), SYN);
        let arrived = bench.arrived(&request);
        assert_eq!((arrived.from, arrived.to), (at(client), at(backend)));
        let left = bench.left(&arrived);
        assert_eq!((left.from.ip(), left.to), (at(node).ip(), at(backend)));
        assert!(left.from.port() >= 61_000, "{}", left.from);
        let reply = Frame::tcp(at(backend), left.from, SYN_ACK).with_payload(b"hello");
        let arrived = bench.arrived(&reply);
        assert_eq!((arrived.from, arrived.to), (at(backend), at(client)));
        assert_eq!(
            bench.left(&arrived),
            Frame {
                from: at(service),
                to: at(client),
                ..reply
            }
        );
    }
}

/// The same Service, whose backends answer clients themselves.
fn direct(manifest: &str) -> String {
    manifest.replace(
        "metadata: {name: web}",
        "metadata: {name: web, annotations: {orlop.dev/forward: direct}}",
    )
}

#[test]
fn a_backend_elsewhere_answers_the_client_itself() {
    bench!("fr-direct", front, direct(&web("TCP", "there")));
    let mut back = Bench::new("fr-direct-back", &direct(&web("TCP", "here")));
    let mut other = Bench::new("fr-direct-other", &web("TCP", "here"));
    for ((client, service, backend, _), room) in PAIRS.into_iter().zip([8, 24]) {
        let opening = front.arrived(&Frame::tcp(at(client), at(service), SYN));
        let (verdict, laden) = front.leave(&opening);
        assert_eq!((verdict, laden.len()), (PASS, opening.bytes().len() + room));
        let sent = Frame::parse(&laden);
        assert_eq!((sent.from, sent.to), (at(client), at(backend)), "the client is seen");
        let (verdict, arrived) = back.maps.try_frame(Link::Uplink, Way::Arriving, &laden).unwrap();
        assert_eq!((verdict, arrived), (PASS, opening.bytes()), "as the client sent it");
        let reply = Frame::tcp(at(backend), at(client), SYN_ACK);
        assert_eq!(back.left(&reply).from, at(service));
        // The rest of the connection carries nothing.
        let more = Frame::tcp(at(client), at(service), ACK).with_payload(&[1; 1400]);
        let more = front.arrived(&more);
        assert_eq!(front.leave(&more), (PASS, more.bytes()));
        assert_eq!(back.arrive(&more), (PASS, more.bytes()));
        // A node where nobody asks for it answers as nobody else.
        let (verdict, arrived) = other.maps.try_frame(Link::Uplink, Way::Arriving, &laden).unwrap();
        assert_eq!((verdict, arrived), (PASS, opening.bytes()));
        assert_eq!(other.left(&reply), reply);
    }
}

#[test]
fn small_datagrams_carry_the_service_and_large_ones_see_the_node() {
    bench!("fr-direct-udp", front, direct(&web("UDP", "there")));
    for (client, service, backend, node) in PAIRS {
        let small = front.arrived(&Frame::udp(at(client), at(service), b"who"));
        let (_, laden) = front.leave(&small);
        assert!(laden.len() > small.bytes().len());
        assert_eq!(Frame::parse(&laden).from, at(client));
        // Of a flow that has begun, a large one goes without.
        let large = front.arrived(&Frame::udp(at(client), at(service), &[1; 1300]));
        assert_eq!(front.leave(&large), (PASS, large.bytes()));
        // One that begins with a large one, or in pieces, goes through this node.
        let mut other = at(client);
        other.set_port(5000);
        let large = Frame::udp(other, at(service), &[1; 1300]);
        let arrived = front.arrived(&large);
        assert_eq!(front.left(&arrived).from.ip(), at(node).ip());
        other.set_port(5001);
        let [first, _] = Frame::udp(other, at(service), &[7; 1000]).pieces(90, 504);
        let arrived = front.arrived(&first);
        assert_eq!(arrived.to, at(backend));
        assert_eq!(front.left(&arrived).from.ip(), at(node).ip());
    }
}

#[test]
fn one_client_port_through_two_services_keeps_the_first() {
    let second = web("TCP", "there")
        .replace("web", "second")
        .replace("30080", "30081")
        .replace("kubernetes.io/second", "kubernetes.io/web");
    bench!("fr-two", bench, format!("{}---\n{second}", web("TCP", "there")));
    for (client, service, backend, _) in PAIRS {
        let arrived = bench.arrived(&Frame::tcp(at(client), at(service), SYN));
        let mask = bench.left(&arrived).from;
        let mut other = at(service);
        other.set_port(30_081);
        assert_eq!(bench.arrive(&Frame::tcp(at(client), other, SYN)).0, DROP);
        let reply = bench.arrived(&Frame::tcp(at(backend), mask, SYN_ACK));
        assert_eq!(bench.left(&reply).from, at(service), "the first goes on");
    }
}

#[test]
fn options_and_extension_headers_are_passed_over() {
    bench!("fr-options", bench, web("TCP", "here"));
    for (client, service, backend, _) in PAIRS {
        let plain = Frame::tcp(at(client), at(service), SYN).with_payload(b"x");
        for options in [1, 3, 5] {
            let request = Frame {
                options,
                ..plain.clone()
            };
            assert_eq!(bench.arrived(&request), request.towards(at(backend)));
        }
    }
}

#[test]
fn datagrams_keep_their_checksum_or_have_none() {
    bench!("fr-udp", bench, web("UDP", "here"));
    for (client, service, backend, _) in PAIRS {
        let request = Frame::udp(at(client), at(service), b"who");
        assert_eq!(bench.arrived(&request), request.towards(at(backend)));
    }
    let (client, service, backend, _) = PAIRS[0];
    let request = Frame {
        has_check: false,
        ..Frame::udp(at(client), at(service), b"who")
    };
    assert_eq!(bench.arrived(&request), request.towards(at(backend)));
}

#[test]
fn an_association_keeps_its_checksum() {
    const INIT: u8 = 1;
    const INIT_ACK: u8 = 2;
    const DATA: u8 = 0;
    bench!("fr-sctp", bench, web("SCTP", "here"));
    for (client, service, backend, _) in PAIRS {
        for (kind, length) in [(INIT, 16), (DATA, 0), (DATA, 1), (DATA, 1400), (DATA, 3000)] {
            let request = Frame::sctp(at(client), at(service), kind).with_payload(&vec![3; length]);
            assert_eq!(bench.arrived(&request), request.towards(at(backend)));
            let reply = Frame::sctp(at(backend), at(client), INIT_ACK).with_payload(&vec![5; length]);
            assert_eq!(
                bench.left(&reply),
                Frame {
                    from: at(service),
                    ..reply
                }
            );
        }
        // Without one it is left to who sends the packet.
        let request = Frame {
            has_check: false,
            ..Frame::sctp(at(client), at(service), DATA)
        };
        let (verdict, bytes) = bench.arrive(&request);
        assert_eq!((verdict, bytes), (PASS, request.towards(at(backend)).bytes()));
        // The checksum covers all pieces, of which nobody knows more than one.
        let [first, _] = Frame::sctp(at(client), at(service), DATA)
            .with_payload(&[7; 1000])
            .pieces(99, 504);
        assert_eq!(bench.arrive(&first), (PASS, first.bytes()));
    }
    assert_eq!(bench.counters().forwarded, 2);
}

#[test]
fn an_association_elsewhere_sees_the_node() {
    bench!("fr-sctp-remote", bench, web("SCTP", "there"));
    for (client, service, backend, node) in PAIRS {
        let arrived = bench.arrived(&Frame::sctp(at(client), at(service), 1));
        let left = bench.left(&arrived);
        assert_eq!((left.from.ip(), left.to), (at(node).ip(), at(backend)));
        let reply = bench.arrived(&Frame::sctp(at(backend), left.from, 2));
        assert_eq!((reply.from, reply.to), (at(backend), at(client)));
        assert_eq!(bench.left(&reply).from, at(service));
    }
}

#[test]
fn pieces_follow_their_first() {
    bench!("fr-pieces", bench, web("UDP", "here"));
    for (client, service, backend, _) in PAIRS {
        let whole = Frame::udp(at(client), at(service), &[7; 1000]);
        let [first, last] = whole.pieces(99, 504);
        let before = bench.arrive(&last);
        assert_eq!(
            before,
            (PASS, last.bytes()),
            "a piece without its first passes as it came"
        );
        assert_eq!(bench.arrived(&first).to, at(backend));
        assert_eq!(bench.arrived(&last).to.ip(), at(backend).ip());
        let [_, other] = whole.pieces(100, 504);
        assert_eq!(bench.arrive(&other), (PASS, other.bytes()), "another packet's piece");
    }
    assert!(bench.maps.counters(0).unwrap().of(0).unreadable >= 4);
}

#[test]
fn errors_are_told_to_whom_they_concern() {
    bench!("fr-errors", bench, web("TCP", "there"));
    for (client, service, backend, _) in PAIRS {
        let arrived = bench.arrived(&Frame::tcp(at(client), at(service), SYN));
        let sent = bench.left(&arrived);
        let router = if client.starts_with('[') {
            ip("2001:db8:99::9")
        } else {
            ip("192.0.2.99")
        };
        // Something behind the node can't pass the request on: it tells the mask, and the client hears of the Service.
        let error = Frame::error(router, sent.from.ip(), &sent);
        let heard = bench.arrived(&error);
        assert_eq!((heard.from.ip(), heard.to.ip()), (router, at(client).ip()));
        let heard = bench.left(&heard);
        assert_eq!((heard.from.ip(), heard.to.ip()), (router, at(client).ip()));
        assert_eq!(heard.quoted(), (at(client), at(service)));
        // The backend itself does: in the name of the Service.
        let own = bench.arrived(&Frame::error(at(backend).ip(), sent.from.ip(), &sent));
        let own = bench.left(&own);
        assert_eq!(
            (own.from.ip(), own.quoted()),
            (at(service).ip(), (at(client), at(service)))
        );
        // Something before the client can't pass the reply on: the backend hears of the mask.
        let reply = Frame::tcp(at(service), at(client), SYN_ACK);
        let error = Frame::error(router, at(service).ip(), &reply);
        let heard = bench.arrived(&error);
        assert_eq!((heard.from.ip(), heard.to.ip()), (router, at(backend).ip()));
        assert_eq!(heard.quoted().0, at(backend));
    }
    let strange = Frame::tcp(at("198.51.100.2:1"), at("192.0.2.1:2"), SYN);
    let error = Frame::error(ip("192.0.2.99"), ip("198.51.100.2"), &strange);
    assert_eq!(
        bench.arrive(&error),
        (PASS, error.bytes()),
        "an error about somebody else's packet"
    );
}

#[test]
fn what_is_cut_short_or_strange_is_left_alone() {
    bench!("fr-hostile", bench, web("TCP", "here"));
    for (client, service, _, _) in PAIRS {
        for options in [0, 2] {
            let request = Frame {
                options,
                ..Frame::tcp(at(client), at(service), SYN)
            };
            let whole = request.bytes();
            // The kernel itself tries no frame without a network header.
            let shortest = if client.starts_with('[') { 54 } else { 34 };
            for length in shortest..whole.len() {
                let cut = &whole[..length];
                let (verdict, bytes) = bench.maps.try_frame(Link::Uplink, Way::Arriving, cut).unwrap();
                // As soon as the checksum is in it, the rest of TCP's header is nobody's business here.
                let is_translatable = length >= whole.len() - 2;
                assert!(
                    verdict == DROP || (verdict == PASS && (is_translatable || bytes == whole[..length])),
                    "{length} bytes: {verdict} {bytes:?}"
                );
            }
            // Every byte of the headers turned over, and a generator's noise behind them.
            let mut noise = 1_u64;
            for index in 12..whole.len() {
                for flip in [0xff, 0x80, 0x0f] {
                    let mut bytes = whole.clone();
                    bytes[index] ^= flip;
                    for byte in bytes.iter_mut().skip(index + 1) {
                        noise = noise
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        if flip == 0x0f {
                            *byte = noise.to_be_bytes()[0];
                        }
                    }
                    for (link, way) in PROGRAMS {
                        let (verdict, out) = bench.maps.try_frame(link, way, &bytes).unwrap();
                        assert!(verdict == PASS || verdict == DROP, "{verdict}");
                        assert_eq!(out.len(), bytes.len());
                    }
                }
            }
        }
    }
}

#[test]
fn a_full_table_takes_no_new_flow_and_keeps_the_others() {
    bench!("fr-full", bench, web("UDP", "here"));
    let (client, service, backend, _) = PAIRS[0];
    let steady = Frame::udp(at(client), at(service), b"x");
    assert_eq!(bench.arrived(&steady).to, at(backend));
    fill_flows(&bench.scratch.bpf_dir(), 0);
    for number in 0..10 {
        let from = SocketAddr::new([100, 64, 0, number].into(), 5000);
        let (verdict, _) = bench.arrive(&Frame { from, ..steady.clone() });
        assert_eq!(verdict, DROP);
    }
    assert_eq!(bench.counters().no_room, 10);
    assert_eq!(bench.arrived(&steady).to, at(backend), "a flow that was there goes on");
    let reply = Frame::udp(at(backend), at(client), b"y");
    assert_eq!(bench.left(&reply).from, at(service));
    let (over, left) = bench.maps.sweep(0).unwrap();
    assert_eq!(over, 0, "a clock that is behind ends nothing");
    assert!(left > 200_000, "{left}");
    let (over, left) = bench.maps.sweep(u32::MAX).unwrap();
    assert!(over > 200_000 && left == 0, "{over} {left}");
    assert_eq!(
        bench
            .arrived(&Frame {
                from: at("198.51.100.9:9"),
                ..steady
            })
            .to,
        at(backend)
    );
}

#[test]
fn a_connection_that_was_closed_may_be_opened_again() {
    bench!("fr-again", bench, web("TCP", "here"));
    let (client, service, backend, _) = PAIRS[0];
    for flags in [SYN, ACK, FIN_ACK, SYN, ACK] {
        assert_eq!(
            bench.arrived(&Frame::tcp(at(client), at(service), flags)).to,
            at(backend)
        );
    }
    assert_eq!(bench.counters().forwarded, 2);
}

#[test]
fn what_is_no_services_is_untouched() {
    bench!("fr-other", bench, web("TCP", "here"));
    for (client, service, _, _) in PAIRS {
        let mut other = at(service);
        other.set_port(30_081);
        let frame = Frame::tcp(at(client), other, SYN);
        assert_eq!(bench.arrive(&frame), (PASS, frame.bytes()));
        assert_eq!(bench.leave(&frame), (PASS, frame.bytes()));
        let datagram = Frame::udp(at(client), at(service), b"the other protocol");
        assert_eq!(bench.arrive(&datagram), (PASS, datagram.bytes()));
    }
    assert_eq!(bench.counters(), Counters::default());
}
