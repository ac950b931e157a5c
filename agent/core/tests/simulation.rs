//! A node in memory, with hands that fail, agents that die after any step, shims, reboots and clocks that misbehave:
//! whatever happens, the plan never breaks a rule, and once the faults end it comes to rest where it should.
//!
//! Every seed enables its own subset of faults at its own rates. `ORLOP_SEED=n` runs one seed alone.

mod world;

use std::time::Duration;

use agent_core::{
    manifest::{self, Object},
    pod::{
        AttemptState, Backoffs, DesiredPod, Goal, NodeFacts, Plan, Presence, PullPolicy, RestartPolicy, ShimState,
        plan, status,
    },
};
use world::{Faults, Rng, World};

const SEEDS: u64 = 10_000;
/// Rounds with faults.
const CHAOS: u32 = 40;
/// Rounds without them after which a node must have come to rest.
const PATIENCE: u32 = 200;

#[test]
fn every_seed_comes_to_rest_with_every_rule_kept() {
    let pods = pods();
    match std::env::var("ORLOP_SEED") {
        Ok(seed) => simulate(seed.parse().expect("a number"), &pods),
        Err(_) => (0..SEEDS).for_each(|seed| {
            let run = std::panic::catch_unwind(|| simulate(seed, &pods));
            assert!(run.is_ok(), "ORLOP_SEED={seed} shows the failure alone");
        }),
    }
}

/// One to three containers.
fn pods() -> Vec<DesiredPod> {
    let pod = |count: usize| {
        let containers: Vec<String> = (0..count)
            .map(|n| format!("{{name: c{n}, image: \"image{n}:1\"}}"))
            .collect();
        let head = "apiVersion: v1\nkind: Pod\nmetadata: {name: sim}\nspec:\n  containers: ";
        let text = format!("{head}[{}]\n", containers.join(", "));
        let objects = manifest::parse("sim.yaml", text.as_bytes()).expect("a good manifest");
        let [Object::Pod(pod)] = objects.as_slice() else {
            panic!("one pod")
        };
        DesiredPod::accept(pod, Goal::Run, &NodeFacts::default(), Backoffs::default()).expect("an honoured pod")
    };
    (1..=3).map(pod).collect()
}

fn simulate(seed: u64, pods: &[DesiredPod]) {
    let mut rng = Rng::new(seed);
    let mut desired = pods[rng.below(3)].clone();
    desired.restart_policy = rng.pick(&[RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never]);
    desired.host_network = rng.chance(20);
    for container in &mut desired.containers {
        container.pull_policy = rng.pick(&[
            PullPolicy::IfNotPresent,
            PullPolicy::IfNotPresent,
            PullPolicy::Always,
            PullPolicy::Never,
        ]);
    }
    let mut world = World::new(&mut rng);
    chaos(&mut world, &desired, &mut rng);
    settle(&mut world, &desired, &mut rng);
    check_running(&world, &desired);
    let grace = Duration::from_secs(rng.pick(&[0, 1, 30]));
    desired.goal = Goal::Stop {
        since: world.now,
        grace,
    };
    if rng.chance(50) {
        world.faults = Faults::swarm(&mut rng);
        chaos(&mut world, &desired, &mut rng);
    }
    settle(&mut world, &desired, &mut rng);
    assert!(world.is_empty(), "something is left: {world:?}");
}

fn chaos(world: &mut World, desired: &DesiredPod, rng: &mut Rng) {
    for _ in 0..CHAOS {
        world.misbehave(rng);
        let plan = look(world, desired);
        for step in plan.steps.iter().take(1 + rng.below(3)) {
            if !world.perform(step, desired, rng) {
                break;
            }
        }
        world.pass(rng.pick(&[0, 1, 1, 5, 20, 300]));
    }
}

/// Without faults: does what the plan says, waits as long as it says, until it says nothing.
fn settle(world: &mut World, desired: &DesiredPod, rng: &mut Rng) {
    world.faults = Faults::default();
    for _ in 0..PATIENCE {
        let plan = look(world, desired);
        match (plan.steps.first(), plan.wake_at) {
            (Some(step), _) => drop(world.perform(step, desired, rng)),
            (None, Some(wake_at)) => world.now = wake_at,
            (None, None) => return,
        }
    }
    panic!(
        "not at rest after {PATIENCE} rounds: {:?}\n{world:?}",
        look(world, desired)
    );
}

/// The plan for the present facts, which must be the same each time and wake later than now.
fn look(world: &World, desired: &DesiredPod) -> Plan {
    let observed = world.observe();
    let found = plan(desired, &observed, world.now);
    assert_eq!(found, plan(desired, &observed, world.now), "the plan is deterministic");
    assert!(
        found.wake_at.is_none_or(|wake_at| wake_at > world.now),
        "the plan wakes in the past: {found:?}"
    );
    let twice = found
        .steps
        .iter()
        .enumerate()
        .find(|(index, step)| found.steps[..*index].contains(step));
    assert!(twice.is_none(), "a step is planned twice: {found:?}");
    assert!(found.steps.len() <= 16, "too many steps at once: {found:?}");
    let told = status(desired, &observed, None, world.now);
    assert_eq!(
        told.container_statuses.map(|statuses| statuses.len()),
        Some(desired.containers.len())
    );
    found
}

/// Every container runs, has ended for good, or lacks an image that must not be pulled; a pod that has ended holds nothing.
fn check_running(world: &World, desired: &DesiredPod) {
    let observed = world.observe();
    let mut is_finished = true;
    for container in &desired.containers {
        let facts = observed.containers.get(&container.name);
        let last = facts.and_then(|facts| facts.last());
        let ended = match last.map(|last| &last.state) {
            Some(AttemptState::Running { .. }) => false,
            Some(AttemptState::Exited(exit)) => match desired.restart_policy {
                RestartPolicy::Never => true,
                RestartPolicy::OnFailure if exit.exit_code == 0 => true,
                RestartPolicy::OnFailure | RestartPolicy::Always => {
                    let is_stuck = container.pull_policy == PullPolicy::Never;
                    assert!(
                        is_stuck && !observed.images.contains_key(&container.image),
                        "not restarted: {world:?}"
                    );
                    false
                }
            },
            None => {
                let is_stuck = container.pull_policy == PullPolicy::Never;
                assert!(
                    is_stuck && !observed.images.contains_key(&container.image),
                    "not started: {world:?}"
                );
                false
            }
            Some(AttemptState::Created) => panic!("not started: {world:?}"),
        };
        is_finished &= ended;
        assert!(
            facts.is_none_or(|facts| facts.attempts.len() <= 2),
            "old attempts are kept: {world:?}"
        );
    }
    if is_finished {
        assert!(
            observed.shim == ShimState::Absent && observed.namespaces == Presence::Absent,
            "{world:?}"
        );
        assert!(observed.cgroup.is_none() && observed.network.is_none(), "{world:?}");
    }
}
