//! Tables and golden batches for the plan.

use super::*;
use crate::bandwidth::Rate;

fn wanted(cidrs: &[&str]) -> Wanted {
    Wanted {
        identity: Identity::new("orlop", "abc", "eth0").unwrap(),
        kind: LinkKind::Veth,
        mtu: 1500,
        pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        requested: Vec::new(),
        mac: None,
        bandwidth: Bandwidth::default(),
    }
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn host(held: &[&str]) -> HostEnd {
    HostEnd {
        name: "orl5gcn2iz3jtgm".to_owned(),
        index: 7,
        pod_index: 2,
        group: GROUP,
        alias: Some("orlop:orlop/abc/eth0".to_owned()),
        addresses: addresses(held),
        mtu: 1500,
        mac: HOST_MAC,
        asked_mac: None,
        bandwidth: Bandwidth::default(),
    }
}

fn pod(held: &[&str]) -> PodEnd {
    PodEnd {
        index: 2,
        host_index: 7,
        mac: pod_mac(&addresses(held)).to_vec(),
    }
}

fn lines(steps: &[LinkStep]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

#[test]
fn the_course_follows_from_what_is_there() {
    let held = ["10.244.0.5"];
    let (whole, end) = (host(&held), pod(&held));
    let nameless = HostEnd {
        alias: None,
        ..whole.clone()
    };
    let addressless = HostEnd {
        addresses: Vec::new(),
        ..whole.clone()
    };
    let old_mac = PodEnd {
        mac: vec![1; 6],
        ..end.clone()
    };
    for (case, host, pod, expected) in [
        ("nothing", None, None, Course::Create),
        ("whole", Some(&whole), Some(&end), Course::Complete),
        ("killed before the alias", Some(&nameless), Some(&end), Course::Recreate),
        (
            "killed before the address",
            Some(&addressless),
            Some(&end),
            Course::Recreate,
        ),
        ("pod's end in an older namespace", Some(&whole), None, Course::Recreate),
        ("other hardware address", Some(&whole), Some(&old_mac), Course::Recreate),
    ] {
        assert_eq!(course(&wanted(&["10.244.0.0/24"]), host, pod), Ok(expected), "{case}");
    }
}

#[test]
fn a_changed_wish_recreates() {
    let held = ["10.244.0.5"];
    let (whole, end) = (host(&held), pod(&held));
    let dual = wanted(&["10.244.0.0/24", "fd00::/64"]);
    assert_eq!(course(&dual, Some(&whole), Some(&end)), Ok(Course::Recreate));
    let other = Wanted {
        requested: addresses(&["10.244.0.9"]),
        ..wanted(&["10.244.0.0/24"])
    };
    assert_eq!(course(&other, Some(&whole), Some(&end)), Ok(Course::Recreate));
}

#[test]
fn what_is_somebody_elses_is_a_conflict() {
    let held = ["10.244.0.5"];
    let (whole, end) = (host(&held), pod(&held));
    let wanted = wanted(&["10.244.0.0/24"]);
    let foreign = PodEnd {
        host_index: 99,
        ..end.clone()
    };
    assert_eq!(
        course(&wanted, None, Some(&end)),
        Err(Conflict::IfnameInUse("eth0".to_owned()))
    );
    assert_eq!(
        course(&wanted, Some(&whole), Some(&foreign)),
        Err(Conflict::IfnameInUse("eth0".to_owned()))
    );
    let taken = HostEnd {
        alias: Some("orlop:orlop/other/eth0".to_owned()),
        ..whole
    };
    assert!(matches!(
        course(&wanted, Some(&taken), None),
        Err(Conflict::HostLinkInUse { .. })
    ));
}

#[test]
fn a_claim_makes_names_and_holds_the_link() {
    let steps = claim(
        &wanted(&["10.244.0.0/24", "fd00::/64"]),
        &addresses(&["10.244.0.5", "fd00::5"]),
    );
    assert_eq!(
        lines(&steps),
        [
            "create the links orl5gcn2iz3jtgm on the node and eth0 in the pod",
            "set the alias of link orl5gcn2iz3jtgm to orlop:orlop/abc/eth0 and turn on its forwarding",
            "hold 10.244.0.5 by link orl5gcn2iz3jtgm",
            "hold fd00::5 by link orl5gcn2iz3jtgm",
            "turn off automatic IPv6 addresses of link orl5gcn2iz3jtgm",
            "look at link orl5gcn2iz3jtgm",
        ]
    );
}

#[test]
fn a_link_is_limited_and_inspected_before_it_is_up() {
    let rate = Rate {
        bits_per_second: 8_000_000,
        burst_bits: 800_000,
    };
    let program = Program {
        descriptor: 9,
        place: 7,
    };
    let means = Means {
        bandwidth: Bandwidth {
            ingress: Some(rate),
            egress: Some(rate),
        },
        inspector: Some(program),
        ingress: Some(Limit::Bucket(rate.bucket())),
        egress: Some(Limit::Bucket(rate.bucket())),
    };
    let host = host(&["10.244.0.5"]);
    assert_eq!(
        lines(&raise(&host, &means, true)),
        [
            "keep the limits of link orl5gcn2iz3jtgm",
            "make the place for a program on link #7",
            "attach the program to link #7",
            "limit link #7 to 1000000 bytes a second",
            "let link #7 carry loopback addresses",
            "bring up link #7",
        ]
    );
    assert_eq!(lines(&raise(&host, &Means::default(), false)), ["bring up link #7"]);
    let limiting = lines(&furnish(&host, &means));
    assert_eq!(limiting[2], "limit link #2 to 1000000 bytes a second");
    let paced = Means {
        ingress: Some(Limit::Paced(program)),
        egress: Some(Limit::Paced(program)),
        ..means
    };
    let pacing = |index| {
        [
            format!("make the place for a program on link #{index}"),
            format!("attach the pacing program to link #{index}"),
            format!("pace what link #{index} sends"),
        ]
    };
    assert_eq!(lines(&inspect(7, &paced))[2..], pacing(7));
    assert_eq!(lines(&furnish(&host, &paced))[2..5], pacing(2));
}

#[test]
fn a_link_says_its_limits_once_and_the_last_ones() {
    let rate = |bits_per_second| {
        Some(Rate {
            bits_per_second,
            burst_bits: 8,
        })
    };
    let limits = |ingress, egress| Bandwidth { ingress, egress };
    let earlier = limits(rate(8_000), None);
    let host = HostEnd {
        bandwidth: earlier,
        ..host(&["10.244.0.5"])
    };
    let raised = |bandwidth| {
        let means = Means {
            bandwidth,
            ..Means::default()
        };
        lines(&raise(&host, &means, false))
    };
    assert_eq!(raised(earlier), ["bring up link #7"]);
    assert_eq!(
        raised(limits(None, rate(9_000)).or(earlier)),
        [
            "drop the earlier limits of link orl5gcn2iz3jtgm",
            "keep the limits of link orl5gcn2iz3jtgm",
            "bring up link #7",
        ]
    );
}

#[test]
fn a_pod_is_furnished_with_everything_by_way_of_the_node() {
    assert_eq!(
        lines(&furnish(&host(&["10.244.0.5", "fd00::5"]), &Means::default())),
        [
            "bring up link #1",
            "turn off automatic IPv6 addresses of link #2",
            "bring up link #2",
            "add the address 10.244.0.5 to link #2",
            "add the neighbour 169.254.1.1 to link #2",
            "route 169.254.1.1/32 into link #2",
            "route 0.0.0.0/0 into link #2",
            "add the address fd00::5 to link #2",
            "add the neighbour fe80::1 to link #2",
            "route ::/0 into link #2",
        ]
    );
}

#[test]
fn publishing_routes_each_address_from_the_nodes_own_one() {
    let steps = publish(
        &host(&["10.244.0.5", "fd00::5"]),
        &wanted(&["10.244.0.0/24", "fd00::/64"]).pod_cidrs,
    );
    assert_eq!(
        lines(&steps),
        [
            "add the neighbour 10.244.0.5 to link #7",
            "add the neighbour fd00::5 to link #7",
            "route 10.244.0.5/32 into link #7",
            "route fd00::5/128 into link #7",
            "look at link #7",
        ]
    );
    let source = |step: &LinkStep| {
        if let LinkStep::AddRoute { source, .. } = step {
            *source
        } else {
            None
        }
    };
    let sources: Vec<IpAddr> = steps.iter().filter_map(source).collect();
    assert_eq!(sources, addresses(&["10.244.0.1", "fd00::1"]));
}

#[test]
fn clearing_the_node_undoes_every_step_of_preparing_it_but_lo() {
    let cidrs = |texts: &[&str]| wanted(texts).pod_cidrs;
    let (pods, services) = (cidrs(&["10.244.0.0/24", "fd00::/64"]), cidrs(&["10.96.0.0/16"]));
    assert_eq!(
        prepare_node(&pods, &services).len(),
        clear_node(&pods, &services).len() + 1
    );
    assert_eq!(
        lines(&prepare_node(&pods, &services)),
        [
            "bring up link #1",
            "add the address 10.244.0.1 to link #1",
            "add the address fd00::1 to link #1",
            "make 10.244.0.0/24 unreachable",
            "make fd00::/64 unreachable",
            "make 10.96.0.0/16 unreachable",
        ]
    );
}

#[test]
fn hardware_addresses_are_local_unicast_and_differ_by_address() {
    assert_eq!(
        pod_mac(&addresses(&["10.244.0.5", "fd00::5"])),
        [0x0a, 0x6f, 10, 244, 0, 5]
    );
    assert_eq!(pod_mac(&addresses(&["fd00::5:6"])), [0x0a, 0x6f, 0, 5, 0, 6]);
    for mac in [HOST_MAC, pod_mac(&[])] {
        assert_eq!(mac[0] & 0b11, 0b10);
    }
}
