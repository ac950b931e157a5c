//! Limits that programs keep: what a pod receives and sends takes its time, and a pod can't take its limit away.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use agent::hands::inspector::Inspector;
use cni::bandwidth::{Bandwidth, Rate};
use cni::pod_network::{self, AttachRequest, Attachment, NodeNetwork};
use ebpf_common::pods::Count;
use tests::{LeakAudit, NetworkNamespace};

use crate::inspector::{count, inspected};
use crate::limits::passed;
use crate::{Node, accept, connect, echo, tool};

/// A megabyte a second, beyond the smallest burst.
const RATE: u64 = 8_000_000;
/// So slow that what a test's seconds let pass is a handful of packets.
const TRICKLE: u64 = 8_000;

fn both(bits_per_second: u64) -> Bandwidth {
    let rate = Some(Rate {
        bits_per_second,
        burst_bits: 0,
    });
    Bandwidth {
        ingress: rate,
        egress: rate,
    }
}

fn limited(node: &Node, bandwidth: Bandwidth) -> (NetworkNamespace, Attachment) {
    let pod = NetworkNamespace::new();
    let netns = pod.path();
    let request = AttachRequest {
        bandwidth,
        ..AttachRequest::new(&netns, "limited", "eth0")
    };
    let attachment = node.run(|network| pod_network::attach(network, &request)).unwrap();
    assert_eq!(attachment.bandwidth, bandwidth);
    (pod, attachment)
}

/// The queue that packets leave a link by.
fn queue(namespace: &NetworkNamespace, link: &str) -> String {
    tool(namespace, &["tc", "-s", "qdisc", "show", "dev", link, "root"])
}

/// How often a queue has waited for a packet's time, out of `gc 0 highprio 0 throttled 7`.
fn held(shown: &str) -> u64 {
    let count = shown.rsplit("throttled ").next().unwrap();
    count.split_whitespace().next().unwrap().parse().unwrap()
}

/// Sends so much by TCP; answers how long it took to arrive.
fn transfer(from: &NetworkNamespace, to: &NetworkNamespace, address: IpAddr) -> Duration {
    const BYTES: usize = 400_000;
    let listener = to.run(|| TcpListener::bind(SocketAddr::new(address, 7)).unwrap());
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = from.run(|| connect(SocketAddr::new(address, 7))).unwrap();
            stream.write_all(&vec![0; BYTES]).unwrap();
        });
        let (mut stream, _) = accept(&listener);
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), BYTES);
    });
    start.elapsed()
}

#[test]
fn what_a_limited_pod_receives_and_sends_takes_its_time() {
    tests::require_root!();
    let (node, inspector) = inspected("paced");
    let (other, in_other) = node.pod("other");
    let (pod, attachment) = limited(&node, both(RATE));
    let has_queue = pod_network::has_pacing_queue().unwrap();
    let kind = if has_queue { "qdisc fq 2:" } else { "qdisc tbf 1:" };
    for (namespace, link) in [(&node.namespace, &*attachment.host_link), (&pod, "eth0")] {
        let shown = queue(namespace, link);
        assert!(shown.contains(kind), "{link}: {shown}");
    }
    for family in [0, 1] {
        echo(&pod, attachment.addresses[family], &other);
        echo(&other, in_other.addresses[family], &pod);
    }
    let nodes: IpAddr = "10.244.0.1".parse().unwrap();
    let (own, others) = (attachment.addresses[0], in_other.addresses[0]);
    let cases = [
        ("from a pod", &other, &pod, own),
        ("from the node", &node.namespace, &pod, own),
        ("to a pod", &pod, &other, others),
        ("to the node", &pod, &node.namespace, nodes),
    ];
    for (case, from, to, address) in cases {
        let took = transfer(from, to, address);
        println!("400 kB {case}: {took:?}; {} dropped", count(&inspector, Count::Limit));
        // A third of a second by the limit: 400 kB, of which a burst of 64 KiB goes at once.
        assert!(took > Duration::from_millis(250), "{case}: {took:?}");
    }
    for (namespace, link) in [(&node.namespace, &*attachment.host_link), (&pod, "eth0")] {
        let shown = queue(namespace, link);
        assert!(passed(&shown) > 800_000, "{link}: {shown}");
        assert!(!has_queue || held(&shown) > 0, "{link}: {shown}");
    }
}

/// Datagrams of 1,400 bytes, of which `to` gets this many.
fn datagrams(from: &NetworkNamespace, to: &NetworkNamespace, address: IpAddr, sent: usize) -> usize {
    let listener = to.run(|| UdpSocket::bind((address, 9)).unwrap());
    let sender = from.run(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    let mut got = 0;
    for _ in 0..sent {
        // What a queue or a program drops here, the socket may be told.
        let _ = sender.send_to(&[0; 1400], (address, 9));
        listener.set_nonblocking(true).unwrap();
        while listener.recv(&mut [0; 1500]).is_ok() {
            got += 1;
        }
    }
    listener.set_nonblocking(false).unwrap();
    listener.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    while listener.recv(&mut [0; 1500]).is_ok() {
        got += 1;
    }
    got
}

/// Of 64 KiB, and what a minute lets pass besides.
const PASSING_MAX: usize = 100;
const SENT: usize = 400;

#[test]
fn a_pod_cannot_take_its_limit_away() {
    tests::require_root!();
    let (mut node, first) = inspected("paced-away");
    let (other, in_other) = node.pod("other");
    let (pod, _) = limited(&node, both(TRICKLE));
    let to = in_other.addresses[0];
    for words in ["qdisc del dev eth0 root", "qdisc del dev eth0 clsact"] {
        // Where the queue is a token bucket, there is no program to take away.
        let words = format!("tc {words} || true");
        tool(&pod, &["sh", "-c", &words]);
    }
    let shown = tool(&pod, &["tc", "qdisc", "show", "dev", "eth0"]);
    assert!(shown.contains("noqueue") && !shown.contains("clsact"), "{shown}");
    let got = datagrams(&pod, &other, to, SENT);
    assert!(
        (1..PASSING_MAX).contains(&got),
        "{got} of {SENT} datagrams came through"
    );
    assert!(count(&first, Count::Limit) >= (SENT - PASSING_MAX) as u64);
    // The next agent's program has the limit from the link, with a burst of its own.
    drop(first);
    let second = Inspector::load().unwrap();
    node.network.inspector = Some(second.program());
    node.network.pacer = Some(second.pacer());
    node.run(pod_network::inspect_again).unwrap();
    let got = datagrams(&pod, &other, to, SENT);
    assert!(
        (1..PASSING_MAX).contains(&got),
        "{got} of {SENT} datagrams came through"
    );
    assert!(count(&second, Count::Limit) >= (SENT - PASSING_MAX) as u64);
}

#[test]
fn a_limit_goes_with_its_pod_and_nothing_is_left() {
    tests::require_root!();
    let (node, inspector) = inspected("paced-gone");
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace]);
    let (pod, attachment) = limited(&node, both(RATE));
    assert_eq!(node.list(), std::slice::from_ref(&attachment));
    // A link that would have the same place among the limits.
    let pacer = inspector.pacer();
    let namesake = attachment.host_index + 65_536;
    assert_eq!(pacer.limit(namesake, both(RATE)), None);
    pacer.forget(namesake);
    assert_eq!(pacer.limit(namesake, both(RATE)), None);
    // Other limits for the same pod, in the place of the first.
    let netns = pod.path();
    let request = AttachRequest {
        bandwidth: Bandwidth {
            ingress: None,
            ..both(TRICKLE)
        },
        ..AttachRequest::new(&netns, "limited", "eth0")
    };
    let again = node.run(|network| pod_network::attach(network, &request)).unwrap();
    let expected = Bandwidth {
        ingress: both(RATE).ingress,
        egress: both(TRICKLE).egress,
    };
    assert_eq!(again.bandwidth, expected);
    assert_eq!(node.list(), [again]);
    node.detach("limited");
    assert!(pacer.limit(namesake, both(RATE)).is_some());
    pacer.forget(namesake);
    audit.finish();
}

#[test]
fn the_limits_of_a_pod_that_somebody_else_removed_are_taken_back() {
    tests::require_root!();
    let (node, inspector) = inspected("paced-stale");
    let (_pod, attachment) = limited(&node, both(RATE));
    let pacer = inspector.pacer();
    let namesake = attachment.host_index + 65_536;
    assert_eq!(node.run(pod_network::forget_stale_limits).unwrap(), 0);
    assert_eq!(pacer.links(), [attachment.host_index]);
    // As the plugin does where it does not reach the agent.
    let alone = NodeNetwork {
        pacer: None,
        ..node.network.clone()
    };
    node.namespace
        .run(|| pod_network::detach(&alone, "limited", "eth0"))
        .unwrap();
    assert_eq!(pacer.limit(namesake, both(RATE)), None);
    assert_eq!(node.run(pod_network::forget_stale_limits).unwrap(), 1);
    assert!(pacer.links().is_empty());
    assert!(pacer.limit(namesake, both(RATE)).is_some());
}
