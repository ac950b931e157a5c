//! The pod network's library on the real kernel: links, addresses and routes of pods in nodes that are namespaces.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests panic like the tests")]

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::Barrier,
    thread,
    time::Duration,
};

use cni::pod_network::{self, AttachRequest, Attachment, LinkKind, NetworkError, NodeNetwork};
use tests::{LeakAudit, NetworkNamespace, Scratch};

mod bench;
mod inspector;
mod ipv6;
mod limits;
mod off_node;
mod paced;
mod peers;
mod ports;

const V4: &str = "10.244.0.0/24";
const V6: &str = "fd00:10:244::/64";

/// A node that is a network namespace, prepared for pods.
struct Node {
    scratch: Scratch,
    namespace: NetworkNamespace,
    network: NodeNetwork,
}

impl Node {
    fn new(test: &str, pod_cidrs: &[&str]) -> Self {
        let scratch = Scratch::new(test);
        let cidrs: Vec<_> = pod_cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let network = NodeNetwork::new("orlop", &cidrs, &scratch.input());
        let node = Self {
            scratch,
            namespace: NetworkNamespace::new(),
            network,
        };
        node.run(pod_network::prepare).unwrap();
        node
    }

    fn run<T: Send>(&self, work: impl FnOnce(&NodeNetwork) -> T + Send) -> T {
        self.namespace.run(|| work(&self.network))
    }

    fn attach(&self, pod: &NetworkNamespace, id: &str) -> Result<Attachment, NetworkError> {
        self.attach_with(pod, id, &[])
    }

    fn attach_with(&self, pod: &NetworkNamespace, id: &str, addresses: &[IpAddr]) -> Result<Attachment, NetworkError> {
        let netns = pod.path();
        let request = AttachRequest {
            addresses,
            ..AttachRequest::new(&netns, id, "eth0")
        };
        self.run(|network| pod_network::attach(network, &request))
    }

    fn detach(&self, id: &str) {
        self.run(|network| pod_network::detach(network, id, "eth0")).unwrap();
    }

    fn list(&self) -> Vec<Attachment> {
        self.run(pod_network::list).unwrap()
    }

    /// A pod in a namespace of its own.
    fn pod(&self, id: &str) -> (NetworkNamespace, Attachment) {
        let namespace = NetworkNamespace::new();
        let attachment = self.attach(&namespace, id).unwrap();
        (namespace, attachment)
    }
}

/// A wire between two namespaces: a pair of links named `wire0`, with these addresses and an MTU of 1500 bytes. Nobody
/// looks for duplicates of its link-local addresses: their routes would come seconds later, and look like a leak.
fn wire(a: &NetworkNamespace, in_a: &[&str], b: &NetworkNamespace, in_b: &[&str]) {
    let other = b.path();
    let other = other.to_str().unwrap();
    tool(
        a,
        &[
            "ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire0", "netns", other,
        ],
    );
    for (namespace, addresses) in [(a, in_a), (b, in_b)] {
        let detection = "/proc/sys/net/ipv6/conf/wire0/accept_dad";
        namespace.run(|| std::fs::write(detection, "0")).unwrap();
        for address in addresses {
            tool(namespace, &["ip", "address", "add", address, "dev", "wire0", "nodad"]);
        }
        tool(namespace, &["ip", "link", "set", "wire0", "up"]);
    }
    let local = ["ip", "-6", "route", "show", "table", "local", "dev", "wire0"];
    for namespace in [a, b] {
        tests::eventually(Duration::from_secs(10), "the wire is up", || {
            tool(namespace, &["ip", "link", "show", "wire0"]).contains("state UP")
                && tool(namespace, &local).contains("local fe80::")
        });
    }
}

/// A line goes from `client` to `server` and comes back; answers the address that the server saw.
fn echo(server: &NetworkNamespace, address: IpAddr, client: &NetworkNamespace) -> IpAddr {
    let listener = server.run(|| TcpListener::bind(SocketAddr::new(address, 7)).unwrap());
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, peer) = accept(&listener);
            let mut line = [0; 5];
            stream.read_exact(&mut line).unwrap();
            stream.write_all(&line).unwrap();
            peer.ip()
        });
        client.run(|| {
            let mut stream = connect(SocketAddr::new(address, 7)).unwrap();
            stream.write_all(b"hello").unwrap();
            let mut line = [0; 5];
            stream.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"hello");
        });
        server.join().unwrap()
    })
}

/// The next connection; panics when none comes, so that a client that fails does not leave its server waiting.
fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    tests::eventually(Duration::from_secs(10), "a connection comes", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (stream, peer) = accepted.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (stream, peer)
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&to, Duration::from_secs(5))
}

/// What `ip` or another tool prints in the namespace.
fn tool(namespace: &NetworkNamespace, command: &[&str]) -> String {
    let output = namespace.run(|| {
        std::process::Command::new(command[0])
            .args(&command[1..])
            .output()
            .unwrap()
    });
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn addresses(attachments: &[Attachment]) -> Vec<IpAddr> {
    attachments
        .iter()
        .flat_map(|attachment| attachment.addresses.clone())
        .collect()
}

#[test]
fn pods_reach_each_other_and_the_node_both_ways() {
    tests::require_root!();
    let node = Node::new("reach", &[V4]);
    let ((a, in_a), (b, in_b)) = (node.pod("a"), node.pod("b"));
    assert_eq!(
        addresses(&[in_a.clone(), in_b.clone()]),
        ["10.244.0.2", "10.244.0.3"].map(|a| a.parse::<IpAddr>().unwrap())
    );
    assert_eq!(echo(&b, in_b.addresses[0], &a), in_a.addresses[0]);
    assert_eq!(echo(&a, in_a.addresses[0], &b), in_b.addresses[0]);
    let node_address: IpAddr = "10.244.0.1".parse().unwrap();
    assert_eq!(echo(&a, in_a.addresses[0], &node.namespace), node_address);
    assert_eq!(echo(&node.namespace, node_address, &a), in_a.addresses[0]);
}

#[test]
fn both_families_work_at_once_without_waiting_for_duplicate_address_detection() {
    tests::require_root!();
    let node = Node::new("dual", &[V4, V6]);
    let ((a, in_a), (b, in_b)) = (node.pod("a"), node.pod("b"));
    assert_eq!(
        in_a.addresses,
        ["10.244.0.2", "fd00:10:244::2"].map(|a| a.parse::<IpAddr>().unwrap())
    );
    for family in [0, 1] {
        assert_eq!(echo(&b, in_b.addresses[family], &a), in_a.addresses[family]);
    }
    let node_address: IpAddr = "fd00:10:244::1".parse().unwrap();
    assert_eq!(echo(&a, in_a.addresses[1], &node.namespace), node_address);
    assert_eq!(echo(&node.namespace, node_address, &a), in_a.addresses[1]);
}

#[test]
fn ipv6_alone_is_enough() {
    tests::require_root!();
    let node = Node::new("v6", &[V6]);
    let ((a, in_a), (b, in_b)) = (node.pod("a"), node.pod("b"));
    assert_eq!(echo(&b, in_b.addresses[0], &a), in_a.addresses[0]);
}

#[test]
fn netkit_links_work_where_the_kernel_has_them_and_are_refused_where_not() {
    tests::require_root!();
    let mut node = Node::new("netkit", &[V4, V6]);
    node.network.link_kind = LinkKind::Netkit;
    let has_netkit = node.run(|_| pod_network::has_netkit()).unwrap();
    if !has_netkit {
        let pod = NetworkNamespace::new();
        let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &pod]);
        let error = node.attach(&pod, "a").unwrap_err();
        assert!(matches!(error, NetworkError::Step(_)), "{error}");
        return audit.finish();
    }
    let ((a, in_a), (b, in_b)) = (node.pod("a"), node.pod("b"));
    for family in [0, 1] {
        assert_eq!(echo(&b, in_b.addresses[family], &a), in_a.addresses[family]);
        echo(&a, in_a.addresses[family], &node.namespace);
    }
    assert_eq!(node.attach(&a, "a").unwrap(), in_a);
    node.detach("a");
    assert_eq!(node.list(), [in_b]);
}

#[test]
fn attaching_again_answers_the_same_and_mends_what_is_missing() {
    tests::require_root!();
    let node = Node::new("again", &[V4, V6]);
    let (a, first) = node.pod("a");
    assert_eq!(node.attach(&a, "a").unwrap(), first);
    tool(&node.namespace, &["ip", "route", "del", "10.244.0.2/32"]);
    tool(&a, &["ip", "address", "flush", "dev", "eth0"]);
    assert!(!node.list()[0].complete);
    assert_eq!(node.attach(&a, "a").unwrap(), first);
    assert!(node.list()[0].complete);
    let (b, _) = node.pod("b");
    for address in &first.addresses {
        echo(&a, *address, &b);
    }
}

#[test]
fn a_pod_with_a_new_namespace_gets_a_new_link() {
    tests::require_root!();
    let node = Node::new("renewed", &[V4]);
    let (_old, first) = node.pod("a");
    let (new, second) = node.pod("a");
    assert_ne!(first.host_index, second.host_index);
    echo(&new, second.addresses[0], &node.namespace);
    assert_eq!(node.list(), [second]);
}

#[test]
fn detaching_removes_both_ends_and_may_be_repeated() {
    tests::require_root!();
    let node = Node::new("detach", &[V4, V6]);
    let pod = NetworkNamespace::new();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &pod]);
    node.attach(&pod, "a").unwrap();
    node.detach("a");
    node.detach("a");
    node.detach("never-there");
    audit.finish();
}

#[test]
fn a_namespace_that_goes_takes_the_lease_along() {
    tests::require_root!();
    let node = Node::new("gone", &["10.244.0.0/30"]);
    let (pod, attachment) = node.pod("a");
    assert_eq!(attachment.addresses, ["10.244.0.2".parse::<IpAddr>().unwrap()]);
    drop(pod);
    tests::eventually(Duration::from_secs(10), "the link goes with its namespace", || {
        node.list().is_empty()
    });
    let (_b, attachment) = node.pod("b");
    assert_eq!(attachment.addresses, ["10.244.0.2".parse::<IpAddr>().unwrap()]);
    node.detach("a");
    assert_eq!(node.list().len(), 1);
}

#[test]
fn an_exhausted_range_is_an_error_that_leaves_nothing_and_ends_with_a_release() {
    tests::require_root!();
    let node = Node::new("exhausted", &["10.244.0.0/29"]);
    let pods: Vec<_> = ["a", "b", "c", "d", "e"].map(|id| node.pod(id)).into_iter().collect();
    let late = NetworkNamespace::new();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &late]);
    let error = node.attach(&late, "late").unwrap_err();
    assert_eq!(error.to_string(), "no address is free in 10.244.0.0/29: all 5 are held");
    audit.finish();
    node.detach("c");
    assert_eq!(node.attach(&late, "late").unwrap().addresses, pods[2].1.addresses);
}

#[test]
fn requested_addresses_are_given_once() {
    tests::require_root!();
    let node = Node::new("requested", &[V4, V6]);
    let (a, b) = (NetworkNamespace::new(), NetworkNamespace::new());
    let wish = ["10.244.0.77".parse().unwrap()];
    let attachment = node.attach_with(&a, "a", &wish).unwrap();
    assert_eq!(
        attachment.addresses,
        ["10.244.0.77", "fd00:10:244::2"].map(|a| a.parse::<IpAddr>().unwrap())
    );
    let error = node.attach_with(&b, "b", &wish).unwrap_err();
    assert_eq!(error.to_string(), "the address 10.244.0.77 is held by another pod");
    assert_eq!(node.list(), [attachment]);
    for (address, reason) in [("10.244.0.1", "in no pod range"), ("10.245.0.9", "in no pod range")] {
        let error = node.attach_with(&b, "b", &[address.parse().unwrap()]).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn a_lost_hint_file_gives_no_address_twice() {
    tests::require_root!();
    let node = Node::new("hints", &[V4]);
    let _pods = ["a", "b", "c"].map(|id| node.pod(id));
    std::fs::remove_file(node.scratch.input().join("addresses")).unwrap();
    let _more = ["d", "e"].map(|id| node.pod(id));
    std::fs::write(node.scratch.input().join("addresses"), "ipam\u{2}\0\0\0\u{3}").unwrap();
    let _last = node.pod("f");
    let held = addresses(&node.list());
    assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), 6, "{held:?}");
}

#[test]
fn attaches_at_once_from_many_threads_hold_different_addresses() {
    tests::require_root!();
    let node = Node::new("concurrent", &[V4, V6]);
    let pods: Vec<NetworkNamespace> = (0..32).map(|_| NetworkNamespace::new()).collect();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace]);
    let barrier = Barrier::new(pods.len());
    let id = |number: usize| format!("pod-{number}");
    thread::scope(|scope| {
        for (number, pod) in pods.iter().enumerate() {
            let (node, barrier) = (&node, &barrier);
            scope.spawn(move || {
                barrier.wait();
                node.attach(pod, &id(number)).unwrap();
            });
        }
    });
    let held = addresses(&node.list());
    assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), 64, "{held:?}");
    thread::scope(|scope| {
        (0..pods.len()).for_each(|number| {
            drop(scope.spawn({
                let node = &node;
                move || node.detach(&id(number))
            }))
        });
    });
    audit.finish();
}

#[test]
fn overlapping_calls_for_one_container_end_in_one_link_or_none() {
    tests::require_root!();
    let node = Node::new("overlap", &[V4]);
    let pod = NetworkNamespace::new();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &pod]);
    for _ in 0..10 {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| node.attach(&pod, "a"));
            }
            scope.spawn(|| node.detach("a"));
        });
        assert!(node.list().len() <= 1);
        // Whatever they left, one call that has the container to itself puts it right.
        let attachment = node.attach(&pod, "a").unwrap();
        assert_eq!(node.list(), [attachment]);
        node.detach("a");
    }
    audit.finish();
}

#[test]
fn half_made_links_are_listed_repaired_and_removed() {
    tests::require_root!();
    let node = Node::new("half-made", &[V4]);
    let pod = NetworkNamespace::new();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &pod]);
    // As a process that is killed after the first batch leaves it.
    let wanted = cni::plan::Wanted {
        identity: cni::identity::Identity::new("orlop", "a", "eth0").unwrap(),
        kind: LinkKind::Veth,
        mtu: 1500,
        pod_cidrs: node.network.pod_cidrs.clone(),
        requested: Vec::new(),
        mac: None,
        bandwidth: cni::bandwidth::Bandwidth::default(),
    };
    let claim = cni::plan::claim(&wanted, &["10.244.0.50".parse().unwrap()]);
    let netns = cni::netns::Netns::open(&pod.path()).unwrap();
    node.run(|_| {
        use std::os::fd::AsFd;
        cni::netlink::Connection::open()
            .unwrap()
            .perform(&claim, Some(netns.as_fd()))
            .unwrap();
    });
    let listed = node.list();
    assert!(!listed[0].complete && listed[0].container_id == "a");
    assert_eq!(listed[0].addresses, ["10.244.0.50".parse::<IpAddr>().unwrap()]);
    let other = NetworkNamespace::new();
    let taken = node.attach_with(&other, "b", &listed[0].addresses).unwrap_err();
    assert!(matches!(taken, NetworkError::AddressInUse(_)));

    let repaired = node.attach(&pod, "a").unwrap();
    assert_eq!(repaired.addresses, listed[0].addresses);
    echo(&pod, repaired.addresses[0], &node.namespace);

    // As one that is killed before the alias: the name alone is enough to find and replace it.
    tool(
        &node.namespace,
        &["ip", "link", "set", &repaired.host_link, "alias", ""],
    );
    assert_eq!(node.list(), []);
    let replaced = node.attach(&pod, "a").unwrap();
    assert_ne!(replaced.host_index, repaired.host_index);
    node.detach("a");
    audit.finish();
}

#[test]
fn what_is_somebody_elses_is_left_alone() {
    tests::require_root!();
    let node = Node::new("foreign", &[V4]);
    let pod = NetworkNamespace::new();
    tool(
        &pod,
        &["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "theirs"],
    );
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &pod]);
    let error = node.attach(&pod, "a").unwrap_err();
    assert_eq!(error.to_string(), "the pod's namespace has a link named eth0 already");
    let netns = node.namespace.path();
    let request = AttachRequest::new(&netns, "a", "eth0");
    let error = node.run(|network| pod_network::attach(network, &request)).unwrap_err();
    assert!(matches!(error, NetworkError::OwnNamespace(_)), "{error}");
    let missing = AttachRequest {
        netns: "/nonexistent".as_ref(),
        ..request
    };
    let error = node.run(|network| pod_network::attach(network, &missing)).unwrap_err();
    assert!(matches!(error, NetworkError::Namespace { .. }), "{error}");
    let regular = AttachRequest {
        netns: "/proc/self/status".as_ref(),
        ..missing
    };
    let error = node.run(|network| pod_network::attach(network, &regular)).unwrap_err();
    assert!(matches!(error, NetworkError::Namespace { .. }), "{error}");
    audit.finish();
}

#[test]
fn unassigned_pod_and_service_addresses_are_unreachable_at_once() {
    tests::require_root!();
    let mut node = Node::new("unreachable", &[V4, V6]);
    node.network.service_cidrs = vec!["10.96.0.0/16".parse().unwrap(), "fd00:10:96::/112".parse().unwrap()];
    node.run(pod_network::prepare).unwrap();
    // A way off the node, which such packets must not take.
    tool(
        &node.namespace,
        &["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"],
    );
    tool(&node.namespace, &["ip", "address", "add", "192.0.2.1/24", "dev", "up0"]);
    tool(&node.namespace, &["ip", "link", "set", "up1", "up"]);
    tool(&node.namespace, &["ip", "link", "set", "up0", "up"]);
    tool(&node.namespace, &["ip", "route", "add", "default", "via", "192.0.2.2"]);
    let (pod, _) = node.pod("a");
    for from in [&node.namespace, &pod] {
        for to in [
            "10.244.0.99:80",
            "10.96.0.10:80",
            "[fd00:10:244::99]:80",
            "[fd00:10:96::10]:80",
        ] {
            let error = from.run(|| connect(to.parse().unwrap())).unwrap_err();
            let kind = error.kind();
            let expected = [
                std::io::ErrorKind::HostUnreachable,
                std::io::ErrorKind::NetworkUnreachable,
            ];
            assert!(expected.contains(&kind), "{to}: {error}");
        }
    }
}

#[test]
fn a_pod_cannot_send_as_another() {
    tests::require_root!();
    let node = Node::new("spoof", &[V4]);
    let ((a, _), (b, in_b)) = (node.pod("a"), node.pod("b"));
    tool(&a, &["ip", "address", "add", "10.244.0.200/32", "dev", "eth0"]);
    let listener = b.run(|| std::net::UdpSocket::bind(SocketAddr::new(in_b.addresses[0], 9)).unwrap());
    listener.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let send = |from: &str| {
        let from: SocketAddr = from.parse().unwrap();
        a.run(|| {
            std::net::UdpSocket::bind(from)
                .unwrap()
                .send_to(b"x", (in_b.addresses[0], 9))
                .unwrap()
        });
    };
    send("10.244.0.200:1");
    assert!(
        listener.recv_from(&mut [0; 8]).is_err(),
        "a packet with a foreign source got through"
    );
    send("10.244.0.2:1");
    listener.recv_from(&mut [0; 8]).unwrap();
}

#[test]
fn teardown_leaves_nothing() {
    tests::require_root!();
    let (scratch, namespace) = (Scratch::new("teardown"), NetworkNamespace::new());
    let audit = LeakAudit::begin(&scratch, &[&namespace]);
    let cidrs = [V4, V6].map(|cidr| cidr.parse().unwrap());
    let mut network = NodeNetwork::new("orlop", &cidrs, &scratch.input());
    network.service_cidrs = vec!["10.96.0.0/16".parse().unwrap()];
    let pods = [(); 3].map(|()| NetworkNamespace::new());
    namespace.run(|| {
        pod_network::prepare(&network).unwrap();
        pod_network::prepare(&network).unwrap();
        for (id, pod) in ["a", "b", "c"].into_iter().zip(&pods) {
            let netns = pod.path();
            let request = AttachRequest::new(&netns, id, "eth0");
            pod_network::attach(&network, &request).unwrap();
        }
        pod_network::teardown(&network).unwrap();
        pod_network::teardown(&network).unwrap();
    });
    audit.finish();
}
