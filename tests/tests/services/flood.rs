//! Floods: more flows than the table has room for.

use std::path::Path;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use ebpf_common::flow::{Flow, Role, Tuple, Way};
use ebpf_common::record::Peer;

use super::outside::{NODE_PORT, World, set, web};
use super::server::{Backend, echo, udp};

/// Fills the table of flows with those of nobody, heard of at `last`, in seconds since the machine started.
pub(crate) fn fill_flows(bpf_dir: &Path, last: u32) {
    let pin = MapData::from_pin(bpf_dir.join("v3/maps/flows")).unwrap();
    let mut flows: HashMap<_, [u8; 40], [u8; 48]> = Map::HashMap(pin).try_into().unwrap();
    let nobody = Peer::v4(1, 1);
    for number in 0.. {
        let request = Tuple::new(&Peer::v4(number, 1), &nobody, 17, Way::Arriving);
        let entry = Flow::new(&request, &nobody, 0).entry(Role::Request, last);
        if flows.insert(request.to_bytes(), entry.to_bytes(), 0).is_err() {
            return;
        }
    }
}

fn now() -> u32 {
    let since_boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    Duration::from(since_boot).as_secs().try_into().unwrap()
}

/// While SYNs or datagrams of new clients find the table full, who was there goes on, the agent answers, and every packet
/// that was dropped is counted.
fn flooded(world: &World, protocol: &str, pod: &Backend) {
    let mut node = world.node();
    set(&mut node, &web(protocol, NODE_PORT), &[pod]);
    let (mut steady, mut flood) = (world.client(), world.client());
    let verb = protocol.to_lowercase();
    assert_eq!(steady.ask(&format!("hold-{verb} 203.0.113.1:30080")), pod.label);
    fill_flows(&node.bpf_dir(), now());
    for _ in 0..5 {
        assert_eq!(flood.ask(&format!("flood-{verb} 203.0.113.1:30080 500")), "sent 500");
        assert_eq!(steady.ask(&format!("held-{verb}")), pod.label);
    }
    let counters = node.counters("web");
    assert_eq!(counters.forwarded, 1, "{counters:?}");
    assert!(counters.no_room >= 2500, "{counters:?}");
}

#[test]
fn datagrams_that_flood_the_node_end_no_flow() {
    tests::require_root!();
    tests::require!(tests::Need::Kernel(5, 18));
    let world = World::new("flood-udp");
    let pod = world.here(udp("10.244.0.2:8080"));
    flooded(&world, "UDP", &pod);
}

#[test]
fn connections_that_flood_the_node_end_none() {
    tests::require_root!();
    tests::require!(tests::Need::Kernel(5, 18));
    let world = World::new("flood-tcp");
    let pod = world.here(echo("10.244.0.2:8080"));
    flooded(&world, "TCP", &pod);
}
