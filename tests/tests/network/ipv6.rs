//! IPv6 in namespaces whose makers had other plans with it.

use tests::NetworkNamespace;

use crate::{Node, V4, V6, echo, tool};

fn set(namespace: &NetworkNamespace, key: &str, value: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{key}");
    namespace.run(|| std::fs::write(path, value)).unwrap();
}

fn get(namespace: &NetworkNamespace, key: &str) -> String {
    let path = format!("/proc/sys/net/ipv6/conf/{key}");
    namespace
        .run(|| std::fs::read_to_string(path))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn a_pod_has_ipv6_where_new_links_and_its_namespace_have_none() {
    tests::require_root!();
    let node = Node::new("without-ipv6", &[V4, V6]);
    set(&node.namespace, "default/disable_ipv6", "1");
    let pod = NetworkNamespace::new();
    for key in ["default/disable_ipv6", "lo/disable_ipv6"] {
        set(&pod, key, "1");
    }
    let attachment = node.attach(&pod, "a").unwrap();
    for address in &attachment.addresses {
        echo(&pod, *address, &node.namespace);
    }
    echo(&pod, "::1".parse().unwrap(), &pod);
    // What is not the pod's link is left as it was.
    assert_eq!(get(&pod, "default/disable_ipv6"), "1");
    assert_eq!(get(&node.namespace, "default/disable_ipv6"), "1");
    node.detach("a");
}

#[test]
fn a_pod_keeps_its_ipv6_address_when_its_link_is_taken_down() {
    tests::require_root!();
    let node = Node::new("link-down", &[V6]);
    let (pod, attachment) = node.pod("a");
    for state in ["down", "up"] {
        tool(&pod, &["ip", "link", "set", "eth0", state]);
    }
    let shown = tool(&pod, &["ip", "-6", "address", "show", "dev", "eth0"]);
    assert!(shown.contains(&attachment.addresses[0].to_string()), "{shown}");
    // Routes and neighbours go with a link that is down; attaching again makes them.
    node.attach(&pod, "a").unwrap();
    echo(&pod, attachment.addresses[0], &node.namespace);
    node.detach("a");
}
