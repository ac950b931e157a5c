//! SCTP of clients in pods, on pods' real links: packets of raw sockets on any kernel, associations where the kernel has
//! them.
//!
//! ```text
//! pod a ── [ node 203.0.113.1 ] ── pod b, which is limited
//! ```

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::hands::inspector::Inspector;
use agent::services::ServiceFacts;
use agent_core::service::ReadyPod;
use agent_core::service::host_port::{HostPort, Published};
use agent_core::service::slice::Slice;
use agent_core::service::{Protocol, ServiceName};
use cni::bandwidth::{Bandwidth, Rate};
use cni::pod_network::{self, AttachRequest, Attachment, NodeNetwork};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage};
use tests::{NetworkNamespace, Scratch, eventually};

use super::frames::frame::Frame;
use super::node::{Node, client_pod};
use super::outside::{ip, web};
use super::remove_all;
use super::server::sctp_witness;

pub(super) const NODE: [&str; 2] = ["203.0.113.1", "2001:db8:71::1"];
pub(super) const CLUSTER: [&str; 2] = ["10.96.0.1:80", "[fd00:96::1]:80"];
pub(super) const NODE_PORT: [&str; 2] = ["203.0.113.1:30080", "[2001:db8:71::1]:30080"];
/// Of the backends.
pub(super) const PORT: u16 = 8080;
pub(super) const INIT: u8 = 1;
pub(super) const INIT_ACK: u8 = 2;
/// How long a packet may take, and how long none may come.
pub(super) const SOON: Duration = Duration::from_secs(5);
pub(super) const SILENCE: Duration = Duration::from_millis(300);
/// The agent looks for links that nobody told it of every ten seconds.
const NEXT_LOOK: Duration = Duration::from_secs(20);

pub(super) struct World {
    scratch: Scratch,
    pub(super) node: NetworkNamespace,
    network: NodeNetwork,
    _inspector: Inspector,
}

pub(super) struct Pod {
    pub(super) namespace: NetworkNamespace,
    pub(super) attachment: Attachment,
}

impl World {
    pub(super) fn new(name: &str) -> Self {
        let (scratch, node) = (Scratch::new(name), NetworkNamespace::new());
        let inspector = Inspector::load().unwrap();
        let cidrs = ["10.244.0.0/24", "fd00:244::/64"].map(|cidr| cidr.parse().unwrap());
        let mut network = NodeNetwork::new("orlop", &cidrs, &scratch.input());
        network.inspector = Some(inspector.program());
        network.pacer = Some(inspector.pacer());
        ip(&node, "link set lo up");
        for address in NODE {
            ip(&node, &format!("address add {address} dev lo"));
        }
        node.run(|| pod_network::prepare(&network)).unwrap();
        Self {
            scratch,
            node,
            network,
            _inspector: inspector,
        }
    }

    pub(super) fn node(&self) -> Node<'_> {
        Node::with_uplinks(&self.scratch, &self.node, &[], &NODE)
    }

    pub(super) fn pod(&self, id: &str, bandwidth: Bandwidth) -> Pod {
        let namespace = NetworkNamespace::new();
        let netns = namespace.path();
        let request = AttachRequest {
            bandwidth,
            ..AttachRequest::new(&netns, id, "eth0")
        };
        let attachment = self.node.run(|| pod_network::attach(&self.network, &request)).unwrap();
        Pod { namespace, attachment }
    }

    /// The programs of Services at a pod's link, as the kernel numbers them.
    fn programs(&self, pod: &Pod) -> Vec<String> {
        let link = &pod.attachment.host_link;
        let shown = ["ingress", "egress"].map(|side| {
            let command = format!("tc filter show dev {link} {side} pref 50");
            let output = self
                .node
                .run(|| std::process::Command::new("sh").args(["-c", &command]).output());
            String::from_utf8(output.unwrap().stdout).unwrap()
        });
        let words: Vec<&str> = shown.iter().flat_map(|text| text.split_whitespace()).collect();
        let ids = words
            .windows(2)
            .filter(|pair| pair[0] == "id")
            .map(|pair| pair[1].to_owned());
        ids.collect()
    }
}

impl Pod {
    pub(super) fn at(&self, family: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.attachment.addresses[family], port)
    }

    fn facts(&self) -> ReadyPod {
        let addresses: Vec<String> = self.attachment.addresses.iter().map(ToString::to_string).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        client_pod(&self.namespace, &addresses)
    }

    /// A raw socket of SCTP, bound to the pod's own address or another one.
    fn raw(&self, address: IpAddr) -> Raw {
        self.namespace.run(|| Raw::open(address)).unwrap()
    }

    pub(super) fn own(&self, family: usize) -> Raw {
        self.raw(self.attachment.addresses[family])
    }
}

/// What SCTP sends, without its rules.
pub(super) struct Raw {
    socket: UdpSocket,
    address: IpAddr,
}

impl Raw {
    pub(super) fn open(address: IpAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let socket: OwnedFd = socket::socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp)?;
        let own = SockaddrStorage::from(SocketAddr::new(address, 0));
        socket::bind(socket.as_raw_fd(), &own)?;
        Ok(Self {
            socket: UdpSocket::from(socket),
            address,
        })
    }

    pub(super) fn send(&self, port: u16, to: SocketAddr, kind: u8) {
        let frame = Frame::sctp(SocketAddr::new(self.address, port), to, kind).with_payload(&[7; 16]);
        let to = SocketAddr::new(to.ip(), 0);
        self.socket.send_to(&frame.segment(), to).unwrap();
    }

    /// The next chunk of this kind: from whom and for which port. A kernel that has the protocol answers by itself, too.
    pub(super) fn receive(&self, kind: u8, wait: Duration) -> Option<(SocketAddr, u16)> {
        let start = Instant::now();
        let mut bytes = [0; 256];
        while let Some(left) = wait.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
            self.socket.set_read_timeout(Some(left)).unwrap();
            let Ok((length, from)) = self.socket.recv_from(&mut bytes) else {
                continue;
            };
            let header = if self.address.is_ipv4() { 20 } else { 0 };
            let segment = &bytes[header..length];
            if segment[12] == kind {
                let frame = Frame::around(segment, from.ip(), self.address);
                return Some((frame.from, frame.to.port()));
            }
        }
        None
    }
}

/// One of them asks a Service, the other one is its backend: whom the backend sees.
#[track_caller]
pub(super) fn exchange(client: &Raw, port: u16, service: &str, backend: &Raw) -> SocketAddr {
    let service: SocketAddr = service.parse().unwrap();
    client.send(port, service, INIT);
    let (seen, at) = backend.receive(INIT, SOON).expect("the request comes");
    assert_eq!(at, PORT);
    backend.send(PORT, seen, INIT_ACK);
    let answer = client.receive(INIT_ACK, SOON).expect("the answer comes");
    assert_eq!(answer, (service, port), "in the name of the Service");
    seen
}

/// A Service `web` with this pod as its backend.
#[track_caller]
pub(super) fn serve(node: &mut Node<'_>, protocol: &str, backend: &Pod, pods: &[&Pod]) {
    let slices = backend.attachment.addresses.iter().map(|address| {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let object = serde_json::json!({
            "metadata": {"name": format!("web-{}", family.to_lowercase()), "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": family,
            "ports": [{"port": PORT, "protocol": protocol}],
            "endpoints": [{"addresses": [address], "nodeName": "here"}],
        });
        Arc::new(Slice::of(&serde_json::from_value(object).unwrap()))
    });
    let slices: Vec<_> = slices.collect();
    node.apply_with(&web(protocol, "  type: NodePort\n"), &[], |facts: &mut ServiceFacts| {
        facts.slices = slices.into_iter().collect();
        facts.pods = pods.iter().map(|pod| pod.facts()).collect();
    });
}

pub(super) fn slowly() -> Bandwidth {
    Bandwidth {
        ingress: Some(Rate {
            bits_per_second: 80_000_000,
            burst_bits: 8 << 20,
        }),
        egress: None,
    }
}

#[test]
fn pods_reach_an_sctp_service_and_one_another() {
    tests::require_root!();
    tests::require!(tests::Need::Kernel(5, 18));
    let world = World::new("in-raw");
    let (a, b) = (world.pod("a", Bandwidth::default()), world.pod("b", slowly()));
    let mut node = world.node();
    serve(&mut node, "SCTP", &b, &[&a, &b]);
    for family in [0, 1] {
        let (client, backend) = (a.own(family), b.own(family));
        for (port, service) in [(4000, CLUSTER[family]), (4001, NODE_PORT[family])] {
            let seen = exchange(&client, port, service, &backend);
            assert_eq!(seen, a.at(family, port), "the backend sees the pod itself");
        }
        let seen = exchange(&backend, 4002, CLUSTER[family], &backend);
        assert_eq!(
            seen.ip().to_string(),
            NODE[family],
            "a pod that is its own backend sees the node"
        );
        // Without a Service between them.
        client.send(4003, b.at(family, PORT), INIT);
        assert_eq!(backend.receive(INIT, SOON), Some((a.at(family, 4003), PORT)));
        backend.send(PORT, a.at(family, 4003), INIT_ACK);
        assert_eq!(client.receive(INIT_ACK, SOON), Some((b.at(family, PORT), 4003)));
    }
    assert_eq!(node.counters("web").forwarded, 6);
}

#[test]
fn what_a_pod_sends_as_another_begins_no_flow() {
    tests::require_root!();
    tests::require!(tests::Need::Kernel(5, 18));
    let world = World::new("in-spoof");
    let (a, b) = (
        world.pod("a", Bandwidth::default()),
        world.pod("b", Bandwidth::default()),
    );
    let mut node = world.node();
    serve(&mut node, "SCTP", &b, &[&a, &b]);
    let foreign = ["10.244.0.200", "fd00:244::200"];
    for family in [0, 1] {
        ip(&a.namespace, &format!("address add {} dev eth0 nodad", foreign[family]));
        let spoofed = a.raw(foreign[family].parse().unwrap());
        spoofed.send(4000, CLUSTER[family].parse().unwrap(), INIT);
        assert_eq!(b.own(family).receive(INIT, SILENCE), None);
    }
    assert_eq!((node.counters("web").forwarded, node.details()[0].flows), (0, 0));
}

#[test]
fn pods_links_have_the_programs_while_a_service_needs_them() {
    tests::require_root!();
    tests::require!(tests::Need::Kernel(5, 18));
    let world = World::new("in-links");
    let (a, b) = (
        world.pod("a", Bandwidth::default()),
        world.pod("b", Bandwidth::default()),
    );
    let mut node = world.node();
    serve(&mut node, "TCP", &b, &[&a, &b]);
    assert_eq!(world.programs(&a).len(), 0, "TCP is answered at sockets");
    serve(&mut node, "SCTP", &b, &[&a, &b]);
    let before = world.programs(&a);
    assert_eq!((before.len(), world.programs(&b)), (2, before.clone()));

    // One that comes later, and one that the agent is not told of.
    let c = world.pod("c", Bandwidth::default());
    serve(&mut node, "SCTP", &b, &[&a, &b, &c]);
    assert_eq!(world.programs(&c), before);
    let (client, backend) = (c.own(0), b.own(0));
    exchange(&client, 4000, CLUSTER[0], &backend);
    let d = world.pod("d", slowly());
    eventually(NEXT_LOOK, "a link that nobody told of is served", || {
        let programs = world.programs(&d);
        if programs == before { Ok(()) } else { Err(programs) }
    });
    exchange(&d.own(1), 4000, CLUSTER[1], &b.own(1));

    node.stop_agent();
    exchange(&client, 4000, CLUSTER[0], &backend);
    exchange(&client, 4001, CLUSTER[0], &backend);
    node.start_agent();
    assert_eq!(world.programs(&a), before, "nothing changes before the first list");
    serve(&mut node, "SCTP", &b, &[&a, &b, &c]);
    let after = world.programs(&a);
    assert!(after.len() == 2 && after != before, "{before:?} {after:?}");
    assert_eq!(world.programs(&d), after);
    exchange(&client, 4001, CLUSTER[0], &backend);

    // An agent that finds no such Service any more takes away what was left.
    node.stop_agent();
    node.start_agent();
    serve(&mut node, "TCP", &b, &[&a, &b, &c]);
    for pod in [&a, &b, &c, &d] {
        assert_eq!(world.programs(pod).len(), 0);
    }
    publish(&mut node, &b);
    assert_eq!(world.programs(&a).len(), 2);
    let seen = exchange(&client, 4005, "203.0.113.1:9000", &backend);
    assert_eq!(seen, c.at(0, 4005), "a port of the node");
    node.stop_agent();
    world.node.run(|| remove_all(&node.bpf_dir())).unwrap();
    for pod in [&a, &b, &c, &d] {
        assert_eq!(world.programs(pod).len(), 0);
    }
    for pod in ["a", "b", "c", "d"] {
        world
            .node
            .run(|| pod_network::detach(&world.network, pod, "eth0"))
            .unwrap();
    }
}

/// Gives the pod a port of the node, and takes all Services away.
fn publish(node: &mut Node<'_>, pod: &Pod) {
    let port = HostPort {
        protocol: Protocol::Sctp,
        address: None,
        port: 9000,
        target: PORT,
    };
    let published = Published {
        owner: ServiceName::of_pod("default", "b"),
        addresses: pod.attachment.addresses.clone(),
        ports: vec![port],
    };
    node.apply_with(&web("TCP", "  type: NodePort\n"), &[], |facts| {
        facts.published = vec![published]
    });
}

/// Where the kernel has the protocol itself.
#[test]
fn associations_of_pods_reach_an_sctp_service() {
    tests::require_root!();
    tests::require!(tests::Need::Kernel(5, 18), tests::Need::Path("/proc/sys/net/sctp"));
    let world = World::new("in-sctp");
    let (a, b) = (world.pod("a", Bandwidth::default()), world.pod("b", slowly()));
    let mut node = world.node();
    serve(&mut node, "SCTP", &b, &[&a, &b]);
    let _backends = [0, 1].map(|family| b.namespace.run(sctp_witness(&b.at(family, PORT).to_string())));
    let (mut client, mut itself) = (node.client_in(&a.namespace), node.client_in(&b.namespace));
    for family in [0, 1] {
        let own = a.attachment.addresses[family];
        for service in [CLUSTER[family], NODE_PORT[family]] {
            for count in [1, 1000, 20_000] {
                let answer = client.ask(&format!("say-sctp {service} {count}"));
                assert!(answer.ends_with(&format!(" {own} {count} from {service}")), "{answer}");
            }
            let answer = itself.ask(&format!("say-sctp {service} 1000"));
            let expected = format!(" {} 1000 from {service}", NODE[family]);
            assert!(answer.ends_with(&expected), "{answer} is not{expected}");
        }
    }
    // Nobody is there any more: refused at once, and told so.
    node.apply_with(&web("SCTP", "  type: NodePort\n"), &[], |facts| {
        facts.slices = Default::default()
    });
    for service in CLUSTER {
        assert_eq!(client.ask(&format!("say-sctp {service} 1")), "error ConnectionRefused");
    }
}
