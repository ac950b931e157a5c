//! Many plugins at once, and plugins that are killed.

use std::{collections::BTreeSet, net::IpAddr, thread, time::Duration};

use cni::pod_network;
use serde_json::{Value, json};
use tests::{LeakAudit, NetworkNamespace};

use crate::node::{Node, addresses, environment};

#[test]
fn many_processes_at_once_get_different_addresses() {
    tests::require_root!();
    let node = Node::new("burst");
    node.prepare();
    let pods: Vec<NetworkNamespace> = (0..32).map(|_| NetworkNamespace::new()).collect();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace]);
    let results: Vec<Value> = thread::scope(|scope| {
        let add = |(number, pod)| {
            let node = &node;
            scope.spawn(move || node.add(&format!("pod-{number}"), pod).succeeded().json())
        };
        let adds: Vec<_> = pods.iter().enumerate().map(add).collect();
        adds.into_iter().map(|add| add.join().unwrap()).collect()
    });
    let held: Vec<IpAddr> = results.iter().flat_map(addresses).collect();
    assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), 64, "{held:?}");
    (0..pods.len()).for_each(|number| node.del(&format!("pod-{number}")));
    audit.finish();
}

/// Each round kills some of the ADDs and DELs that run at once at random moments, then looks at the kernel.
#[test]
fn kills_at_random_moments_leak_nothing_and_give_no_address_twice() {
    tests::require_root!();
    const PODS: usize = 8;
    const ROUNDS: usize = 20;
    let node = Node::new("kill");
    node.prepare();
    let pods: Vec<NetworkNamespace> = (0..PODS).map(|_| NetworkNamespace::new()).collect();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace]);
    let mut dice = Dice(0x6f72_6c6f_7021);
    let mut kills = 0;
    for round in 0..ROUNDS {
        let mut children = Vec::new();
        for (number, pod) in pods.iter().enumerate() {
            let verb = if dice.roll(3) == 0 { "DEL" } else { "ADD" };
            let netns = pod.path();
            let id = format!("pod-{number}");
            children.push(node.spawn(
                &environment(verb, &id, netns.to_str().unwrap()),
                &node.config.to_string(),
            ));
        }
        thread::sleep(Duration::from_micros(dice.roll(6000)));
        for child in &mut children {
            if dice.roll(2) == 0 {
                kills += usize::from(child.try_wait().unwrap().is_none());
                child.kill().unwrap();
            }
        }
        for child in &mut children {
            child.wait().unwrap();
        }
        let listed = node.namespace.run(|| pod_network::list(&node.network())).unwrap();
        let held: Vec<IpAddr> = listed
            .iter()
            .flat_map(|attachment| attachment.addresses.clone())
            .collect();
        assert_eq!(
            held.iter().collect::<BTreeSet<_>>().len(),
            held.len(),
            "round {round}: {held:?}"
        );
    }
    eprintln!("{kills} of {} processes were killed at work", PODS * ROUNDS);
    (0..PODS).for_each(|number| node.del(&format!("pod-{number}")));
    audit.finish();
    // Nothing that a killed process left in the hints keeps an address from being given.
    let config = node.with("podCIDRs", json!(["10.244.0.0/29"]));
    for (number, pod) in pods.iter().enumerate().take(5) {
        let id = format!("pod-{number}");
        node.verb("ADD", &id, &pod.path(), &config).succeeded();
    }
}

/// A small generator of random numbers (xorshift), the same in every run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
