//! Many ADDs and DELs at once, with plugins and the agent killed at random moments: no address is ever held twice, and at
//! the end nothing is left.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cni::pod_network;
use serde_json::{Value, json};
use tests::{LeakAudit, NetworkNamespace};

use crate::many::Dice;
use crate::node::{Node, addresses, environment};

/// How many run side by side.
const AT_ONCE: usize = 32;

/// 10,000 cycles with `ORLOP_CYCLES=10000`; each is an ADD and a DEL, any of them killed now and then and tried again.
#[test]
fn cycles_with_kills_leave_nothing_and_hold_no_address_twice() {
    tests::require_root!();
    let cycles: usize = std::env::var("ORLOP_CYCLES").map_or(96, |cycles| cycles.parse().unwrap());
    let node = Node::new("cycles");
    node.prepare();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace]);
    let agent = Agent::new(&node);
    let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let tally = Tally::default();
    thread::scope(|scope| {
        scope.spawn(|| agent.live_and_die(&is_over, &tally));
        // Those who call it would wait in vain on a slow machine that is busy with those who don't.
        agent.wait_until_it_answers(&is_over);
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|worker| {
                let (node, next, tally, agent) = (&node, &next, &tally, &agent);
                scope.spawn(move || {
                    let mut dice = Dice(0x6f72_6c6f_7021 + worker as u64);
                    let pod = NetworkNamespace::new();
                    while next.fetch_add(1, Ordering::Relaxed) < cycles {
                        // Half of them work by themselves, half by the agent.
                        let config = if worker % 2 == 0 { &node.config } else { &agent.config };
                        cycle(node, config, &format!("pod-{worker}"), &pod, &mut dice, tally);
                    }
                })
            })
            .collect();
        scope.spawn(|| watch(&node, &is_over));
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(Result::unwrap);
    });
    eprintln!("{cycles} cycles: {tally:?}");
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    assert!(count(&tally.adds) > 0 && count(&tally.adds_by_agent) > 0, "{tally:?}");
    let listed = node.namespace.run(|| pod_network::list(&node.network())).unwrap();
    assert_eq!(listed, []);
    audit.finish();
}

#[derive(Debug, Default)]
struct Tally {
    adds: AtomicUsize,
    adds_by_agent: AtomicUsize,
    killed_plugins: AtomicUsize,
    killed_agents: AtomicUsize,
    /// Who holds an address, by its own word: from the answer to ADD until its DEL begins.
    held: Mutex<BTreeMap<IpAddr, String>>,
}

/// One ADD and one DEL; whichever is killed is followed by a DEL, as runtimes do.
fn cycle(node: &Node, config: &Value, id: &str, pod: &NetworkNamespace, dice: &mut Dice, tally: &Tally) {
    let netns = pod.path();
    let add = environment("ADD", id, netns.to_str().unwrap());
    let result = call(node, &add, config, dice, tally);
    let held = result.filter(|result| result.get("code").is_none());
    let held = held.map(|result| addresses(&result)).unwrap_or_default();
    for address in &held {
        let other = tally.held.lock().unwrap().insert(*address, id.to_owned());
        assert_eq!(other, None, "{address} was given to {id} too");
    }
    let by = if config.get("agentSocket").is_some() {
        &tally.adds_by_agent
    } else {
        &tally.adds
    };
    by.fetch_add(usize::from(!held.is_empty()), Ordering::Relaxed);
    held.iter()
        .for_each(|address| drop(tally.held.lock().unwrap().remove(address)));
    let netns = if dice.roll(2) == 0 { netns.to_str().unwrap() } else { "" };
    let del = environment("DEL", id, netns);
    if call(node, &del, config, dice, tally).is_none() {
        node.del(id);
    }
}

/// What was answered, an empty object for nothing; none when the plugin was killed.
fn call(node: &Node, environment: &[(&str, &str)], config: &Value, dice: &mut Dice, tally: &Tally) -> Option<Value> {
    let mut child = node.spawn(environment, &config.to_string());
    if dice.roll(8) == 0 {
        thread::sleep(Duration::from_micros(dice.roll(20_000)));
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    if output.status.code().is_none() {
        tally.killed_plugins.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    match output.stdout.as_slice() {
        [] => Some(json!({})),
        text => Some(serde_json::from_slice(text).unwrap_or_else(|error| panic!("{error}: {output:?}"))),
    }
}

/// Looks at the kernel's own record all the while.
fn watch(node: &Node, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        // A table that never stays the same for one reading says nothing.
        if let Ok(listed) = node.namespace.run(|| pod_network::list(&node.network())) {
            let mut held: Vec<IpAddr> = listed.into_iter().flat_map(|attachment| attachment.addresses).collect();
            let all = held.len();
            held.sort_unstable();
            held.dedup();
            assert_eq!(held.len(), all, "an address is held twice");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The real agent, killed and started again all the while.
struct Agent<'a> {
    node: &'a Node,
    config: Value,
}

impl<'a> Agent<'a> {
    fn new(node: &'a Node) -> Self {
        let run = node.scratch.path("run");
        // The agent and those who work by themselves share the hints, as on a node they would.
        let config = json!({
            "cniVersion": "1.1.0", "name": "pods", "type": "orlop-cni", "podCIDRs": node.config["podCIDRs"],
            "runDir": node.scratch.input(), "agentSocket": run.join("cni.sock"),
        });
        Self { node, config }
    }

    fn live_and_die(&self, is_over: &AtomicBool, tally: &Tally) {
        let mut dice = Dice(0x6f72_6c6f_7022);
        for life in 0.. {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            let mut agent = self.start();
            let mut life_time = Duration::from_millis(500 + dice.roll(3000));
            // Every other one may be killed before it is ready, which takes seconds on a slow machine.
            if life % 2 == 0 {
                self.wait_until_it_answers(is_over);
                life_time = tests::stretched(life_time);
            }
            let end = Instant::now() + life_time;
            while !is_over.load(Ordering::Relaxed) && Instant::now() < end {
                thread::sleep(Duration::from_millis(10));
            }
            agent.kill().unwrap();
            agent.wait().unwrap();
            tally.killed_agents.fetch_add(1, Ordering::Relaxed);
        }
        let cleaned = self.node.namespace.run(|| self.command(&["cleanup"]).output()).unwrap();
        assert!(cleaned.status.success(), "{cleaned:?}");
    }

    fn wait_until_it_answers(&self, is_over: &AtomicBool) {
        let socket = self.config["agentSocket"].as_str().unwrap();
        tests::eventually(Duration::from_secs(10), "the agent answers", || {
            is_over.load(Ordering::Relaxed) || UnixStream::connect(socket).is_ok()
        });
    }

    fn start(&self) -> Child {
        let manifests = self.node.scratch.input().join("manifests");
        std::fs::create_dir_all(&manifests).unwrap();
        let mut command = self.command(&["agent", "--node-name", "n1", "--manifests"]);
        command.arg(manifests);
        self.node.namespace.run(|| command.spawn()).unwrap()
    }

    fn command(&self, verb: &[&str]) -> Command {
        let scratch = &self.node.scratch;
        let dir = |name: &str| scratch.path(name).display().to_string();
        let mut command = tests::binary("orlop");
        command.args(&verb[..1]);
        for (flag, name) in [
            ("--root-dir", "root"),
            ("--state-dir", "state"),
            ("--run-dir", "run"),
            ("--log-dir", "log"),
            ("--container-log-dir", "links"),
        ] {
            command.args([flag, &dir(name)]);
        }
        command.args(["--bpf-dir", &format!("/sys/fs/bpf/{}", scratch.id())]);
        command.args([
            "--cgroup-parent",
            scratch.cgroup_parent(),
            "--service-cgroup",
            scratch.cgroup_parent(),
        ]);
        // Other ranges than the plugin's: the agent's own network stays out of the way.
        command.args(["--pod-cidr", "10.245.0.0/24", "--masquerade", "false"]);
        command.args(&verb[1..]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        scratch.cgroup();
        command
    }
}
