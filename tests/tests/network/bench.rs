//! What the pod network costs beside Debian's plugins, the kernel's own requests and a bridge, in one run.
//!
//! Not a test of its own: `cargo xtask bench network` asks for it by `ORLOP_BENCH` and reads its lines. All of it happens
//! in one network namespace; ours and the peer take turns.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cni::pod_network::{self, NodeNetwork};
use tests::{NetworkNamespace, Scratch};

mod agent;
mod traffic;
mod way;

use way::Way;

/// Asks for the figures; with the value `traffic` for those of traffic alone.
const ASKED: &str = "ORLOP_BENCH";
const ROUNDS: usize = 64;
/// The chain of plugins takes a third of a second for each.
const ROUNDS_OF_CHAIN: usize = 32;
const AT_ONCE: usize = 32;
/// So many one after the other on each of the threads.
const EACH: usize = 2;
/// How long a pod stays. What attaching it left to the kernel's RCU would be waited for by a DEL right behind: a time that no
/// pod's removal takes, and the longer the earlier a plugin comes to its work.
const LIFE: Duration = Duration::from_millis(50);

#[test]
fn figures() {
    let Ok(asked) = std::env::var(ASKED) else { return };
    let scratch = Scratch::new("bench-network");
    let mut network = NodeNetwork::new("pods", &["10.244.0.0/16".parse().unwrap()], &scratch.input());
    let node = NetworkNamespace::new();
    node.run(|| {
        if asked != "traffic" {
            attaching(&network);
        }
        network.masquerade = true;
        traffic::compare(&network);
    });
}

fn attaching(network: &NodeNetwork) {
    pod_network::prepare(network).unwrap();
    let (library, netlink) = (Way::library(network), Way::netlink(network));
    compare("in-process", &library, &netlink, ROUNDS);
    compare_at_once("in-process", &library, &netlink);
    let (plugin, ptp) = (Way::plugin(network), Way::ptp(network));
    for ptp in [Some(ptp), Way::newest_ptp(network)].iter().flatten() {
        compare("by plugin", &plugin, ptp, ROUNDS);
        compare_at_once("by plugin", &plugin, ptp);
    }
    let (plugin, chain) = (Way::plugin_with_all(network), Way::chain(network));
    compare("with all", &plugin, &chain, ROUNDS_OF_CHAIN);
    compare_at_once("with all", &plugin, &chain);
    agent::while_there(network, |socket| {
        let relayed = Way::relayed_with_all(network, socket);
        compare("with all, by an agent", &relayed, &chain, ROUNDS_OF_CHAIN);
    });
}

/// One line of JSON.
fn figure(what: &str, unit: &str, ours: Duration, peer: &str, theirs: Duration) {
    let line = serde_json::json!({
        "figure": what, "unit": unit, "ours_ns": ours.as_nanos(), "peer": peer, "peer_ns": theirs.as_nanos(),
    });
    println!("{line}");
}

/// Of sorted times the one that so many in a hundred do not exceed.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// ADDs and their DELs, in milliseconds.
#[derive(Default)]
struct Times {
    add: Vec<Duration>,
    del: Vec<Duration>,
}

impl Times {
    fn take(&mut self, way: &Way, netns: &Path) {
        let id = next_id();
        self.add.push(timed(|| way.add(id, netns)));
        thread::sleep(LIFE);
        self.del.push(timed(|| way.del(id, netns)));
    }

    fn tell(&mut self, case: &str, way: &Way, theirs: &mut Self) {
        for (verb, ours, theirs) in [
            ("ADD", &mut self.add, &mut theirs.add),
            ("DEL", &mut self.del, &mut theirs.del),
        ] {
            for percent in [50, 99] {
                let (ours, theirs) = (percentile(ours, percent), percentile(theirs, percent));
                figure(&format!("{verb} {case} p{percent}"), "ms", ours, way.name, theirs);
            }
        }
    }
}

/// No way sees the same id twice.
fn next_id() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn compare(case: &str, ours: &Way, peer: &Way, rounds: usize) {
    let (mut our_times, mut peer_times) = (Times::default(), Times::default());
    for round in 0..rounds {
        let pods = [NetworkNamespace::new(), NetworkNamespace::new()];
        if round % 2 == 0 {
            our_times.take(ours, &pods[0].path());
            peer_times.take(peer, &pods[1].path());
        } else {
            peer_times.take(peer, &pods[1].path());
            our_times.take(ours, &pods[0].path());
        }
    }
    our_times.tell(case, peer, &mut peer_times);
}

/// Each verb by as many threads at once; also how long the node takes for one of them then.
fn compare_at_once(case: &str, ours: &Way, peer: &Way) {
    let case = format!("{case}, {AT_ONCE} at once");
    let ((mut our_times, our_each), (mut peer_times, peer_each)) = (at_once(ours), at_once(peer));
    our_times.tell(&case, peer, &mut peer_times);
    for (verb, ours, theirs) in [("ADD", our_each[0], peer_each[0]), ("DEL", our_each[1], peer_each[1])] {
        figure(&format!("{verb} {case}, each"), "ms", ours, peer.name, theirs);
    }
}

fn at_once(way: &Way) -> (Times, [Duration; 2]) {
    let pods: Vec<(usize, NetworkNamespace)> = (0..AT_ONCE * EACH)
        .map(|_| (next_id(), NetworkNamespace::new()))
        .collect();
    let all = |verb: fn(&Way, usize, &Path)| {
        let start = Instant::now();
        let times: Vec<Duration> = thread::scope(|scope| {
            let threads: Vec<_> = pods
                .chunks(EACH)
                .map(|pods| scope.spawn(move || do_all(way, verb, pods)))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let each = start.elapsed() / u32::try_from(times.len()).unwrap();
        (times, each)
    };
    let ((add, each_add), (del, each_del)) = (all(Way::add), all(Way::del));
    (Times { add, del }, [each_add, each_del])
}

fn do_all(way: &Way, verb: fn(&Way, usize, &Path), pods: &[(usize, NetworkNamespace)]) -> Vec<Duration> {
    let one = |(id, pod): &(usize, NetworkNamespace)| timed(|| verb(way, *id, &pod.path()));
    pods.iter().map(one).collect()
}
