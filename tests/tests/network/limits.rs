//! What a pod asked for with its link: limits and a hardware address.

use cni::bandwidth::{Bandwidth, Rate};
use cni::pod_network::{self, AttachRequest};
use tests::NetworkNamespace;

use crate::{Node, V4, V6, echo, tool};

#[test]
fn limits_are_token_buckets_at_both_ends() {
    tests::require_root!();
    let node = Node::new("limits", &[V4]);
    let pod = NetworkNamespace::new();
    let netns = pod.path();
    let rate = |bits_per_second| {
        Some(Rate {
            bits_per_second,
            burst_bits: 8 << 20,
        })
    };
    let request = AttachRequest {
        bandwidth: Bandwidth {
            ingress: rate(8_000_000),
            egress: rate(64_000_000_000),
        },
        ..AttachRequest::new(&netns, "a", "eth0")
    };
    let attachment = node.run(|network| pod_network::attach(network, &request)).unwrap();
    let host = tool(
        &node.namespace,
        &["tc", "-s", "qdisc", "show", "dev", &attachment.host_link],
    );
    assert!(host.contains("tbf") && host.contains("rate 8Mbit burst 1Mb"), "{host}");
    let inside = tool(&pod, &["tc", "qdisc", "show", "dev", "eth0"]);
    assert!(inside.contains("tbf") && inside.contains("rate 64Gbit"), "{inside}");
    echo(&pod, attachment.addresses[0], &node.namespace);
    let (other, in_other) = node.pod("b");
    echo(&pod, attachment.addresses[0], &other);
    echo(&other, in_other.addresses[0], &pod);
    let before = passed(&host);
    let host = tool(
        &node.namespace,
        &["tc", "-s", "qdisc", "show", "dev", &attachment.host_link],
    );
    assert!(passed(&host) > before, "nothing went through the limit: {host}");
    // Again for the same pod, with other limits.
    let request = AttachRequest {
        bandwidth: Bandwidth {
            ingress: rate(16_000_000),
            egress: None,
        },
        ..request
    };
    node.run(|network| pod_network::attach(network, &request)).unwrap();
    let host = tool(&node.namespace, &["tc", "qdisc", "show", "dev", &attachment.host_link]);
    assert!(host.contains("rate 16Mbit"), "{host}");
}

/// Bytes that a queue has sent, out of `Sent 42 bytes 1 pkt`.
pub(crate) fn passed(shown: &str) -> u64 {
    let sent = shown.split("Sent ").nth(1).unwrap();
    sent.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_hardware_address_can_be_asked_for() {
    tests::require_root!();
    let node = Node::new("mac", &[V4, V6]);
    let pod = NetworkNamespace::new();
    let netns = pod.path();
    let mac = [0x02, 0, 0, 0, 0, 7];
    let request = AttachRequest {
        mac: Some(mac),
        ..AttachRequest::new(&netns, "a", "eth0")
    };
    let attach = || node.run(|network| pod_network::attach(network, &request));
    let attachment = attach().unwrap();
    assert_eq!(attachment.mac, mac);
    assert!(tool(&pod, &["ip", "link", "show", "eth0"]).contains("02:00:00:00:00:07"));
    for address in &attachment.addresses {
        echo(&pod, *address, &node.namespace);
    }
    assert_eq!(attach().unwrap(), attachment);
    assert_eq!(node.list(), [attachment]);
    let group = AttachRequest {
        mac: Some([1; 6]),
        ..AttachRequest::new(&netns, "b", "eth0")
    };
    let error = node.run(|network| pod_network::attach(network, &group)).unwrap_err();
    assert!(error.to_string().contains("single station"), "{error}");
}
