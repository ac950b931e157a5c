//! The node of the simulation: what is durable, what the agent remembers, and what can go wrong. Its hands refuse, by
//! panic, every step whose precondition does not hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use agent_core::pod::{
    Attempt, AttemptState, CgroupFacts, ContainerFacts, ContainerName, DesiredPod, ExitRecord, FailureKind, ImageFacts,
    ObservedPod, PodStep, Presence, ShimState, Signalled, StepFailure, StepKey, StopSignal, Time,
};

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    /// True in `percent` of a hundred cases.
    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent as usize
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// How likely each fault is, in percent; all zero is a good day.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    fail_before: u32,
    fail_after: u32,
    agent_dies: u32,
    container_exits: u32,
    shim_dies: u32,
    image_goes: u32,
    pins_go: u32,
    network_goes: u32,
    reboot: u32,
    clock_steps: u32,
}

impl Faults {
    /// A random subset of faults at random rates.
    pub(crate) fn swarm(rng: &mut Rng) -> Self {
        let mut rate = |most: usize| {
            if rng.chance(50) {
                u32::try_from(rng.below(most)).expect("a percentage")
            } else {
                0
            }
        };
        Self {
            fail_before: rate(40),
            fail_after: rate(40),
            agent_dies: rate(30),
            container_exits: rate(40),
            shim_dies: rate(10),
            image_goes: rate(10),
            pins_go: rate(10),
            network_goes: rate(10),
            reboot: rate(5),
            clock_steps: rate(10),
        }
    }
}

/// One attempt: what the shim wrote down, and whether a process is there.
#[derive(Debug)]
struct Recorded {
    number: u32,
    crashes: u32,
    state: AttemptState,
    is_alive: bool,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) faults: Faults,
    /// How often a container does not listen to SIGTERM, in percent; on good days too.
    ignores_term: u32,
    has_files: bool,
    namespaces: Presence,
    has_cgroup: bool,
    has_network: bool,
    shim: ShimState,
    images: BTreeSet<String>,
    attempts: BTreeMap<ContainerName, Vec<Recorded>>,
    logs: BTreeMap<ContainerName, u32>,
    /// The highest number that each container ever had, which no later attempt may fall below.
    highest: BTreeMap<ContainerName, u32>,
    memory: Memory,
}

/// What dies with the agent.
#[derive(Debug, Default)]
struct Memory {
    failures: BTreeMap<StepKey, StepFailure>,
    pulled: BTreeMap<ContainerName, u32>,
    signalled: BTreeMap<(ContainerName, u32), Signalled>,
}

impl World {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        Self {
            now: Time::from_unix_nanos(1_000_000_000_000_000),
            faults: Faults::swarm(rng),
            ignores_term: rng.pick(&[0, 0, 50, 100]),
            has_files: false,
            namespaces: Presence::Absent,
            has_cgroup: false,
            has_network: false,
            shim: ShimState::Absent,
            images: BTreeSet::new(),
            attempts: BTreeMap::new(),
            logs: BTreeMap::new(),
            highest: BTreeMap::new(),
            memory: Memory::default(),
        }
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    /// Whether nothing of the pod is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.observe().is_gone() && !self.has_live() && self.attempts.is_empty() && self.logs.is_empty()
    }

    fn has_live(&self) -> bool {
        self.attempts.values().flatten().any(|attempt| attempt.is_alive)
    }

    pub(crate) fn observe(&self) -> ObservedPod {
        let known = self
            .attempts
            .keys()
            .chain(self.logs.keys())
            .chain(self.memory.pulled.keys());
        let names: BTreeSet<&ContainerName> = known.collect();
        let facts = |name: &ContainerName| ContainerFacts {
            attempts: self
                .attempts
                .get(name)
                .into_iter()
                .flatten()
                .map(|attempt| self.facts(name, attempt))
                .collect(),
            pulled: self.memory.pulled.get(name).copied(),
            last_log: self.logs.get(name).copied(),
        };
        let image = |name: &String| {
            (
                name.clone(),
                ImageFacts {
                    id: name.clone(),
                    reference: name.clone(),
                },
            )
        };
        ObservedPod {
            accepted_at: Some(self.now),
            has_files: self.has_files,
            namespaces: self.namespaces,
            cgroup: self.has_cgroup.then(|| CgroupFacts {
                populated: self.has_live(),
            }),
            network: self.has_network.then(|| vec![std::net::IpAddr::from([10, 0, 0, 2])]),
            shim: self.shim,
            images: self.images.iter().map(image).collect(),
            containers: names.into_iter().map(|name| (name.clone(), facts(name))).collect(),
            failures: self.memory.failures.clone(),
            unenforced: Vec::new(),
        }
    }

    fn facts(&self, name: &ContainerName, attempt: &Recorded) -> Attempt {
        Attempt {
            number: attempt.number,
            crashes: attempt.crashes,
            image: "image".to_owned(),
            state: attempt.state.clone(),
            signalled: self.memory.signalled.get(&(name.clone(), attempt.number)).copied(),
        }
    }

    /// What happens to a node without anybody's doing.
    pub(crate) fn misbehave(&mut self, rng: &mut Rng) {
        let now = self.now;
        let exits = self.faults.container_exits;
        for attempt in self.attempts.values_mut().flatten().filter(|attempt| attempt.is_alive) {
            if rng.chance(exits) {
                end(attempt, self.shim, rng.pick(&[0, 0, 1, 137]), now);
            }
        }
        if rng.chance(self.faults.shim_dies) && self.shim == ShimState::Running {
            self.shim = ShimState::Lost;
            let takes_all = rng.chance(50);
            self.attempts
                .values_mut()
                .flatten()
                .for_each(|attempt| attempt.is_alive &= !takes_all);
        }
        if rng.chance(self.faults.image_goes) {
            self.images.pop_first();
        }
        if rng.chance(self.faults.pins_go) && self.namespaces == Presence::Whole {
            self.namespaces = rng.pick(&[Presence::Partial, Presence::Absent]);
        }
        if rng.chance(self.faults.network_goes) {
            self.has_network = false;
        }
        if rng.chance(self.faults.clock_steps) {
            let step = rng.pick(&[1_000_000, 60_000_000_000, 86_400_000_000_000]);
            self.now = Time::from_unix_nanos(self.now.unix_nanos() - step);
        }
        if rng.chance(self.faults.reboot) {
            self.reboot();
        }
    }

    /// Everything below `/run` and in the kernel is gone; the pod's directories, images and logs are not.
    fn reboot(&mut self) {
        self.namespaces = Presence::Absent;
        self.has_cgroup = false;
        self.has_network = false;
        self.shim = ShimState::Absent;
        self.attempts.clear();
        self.memory = Memory::default();
    }

    /// Performs a step, unless a fault comes before or after it; false when the agent died.
    pub(crate) fn perform(&mut self, step: &PodStep, desired: &DesiredPod, rng: &mut Rng) -> bool {
        let fails_before = rng.chance(self.faults.fail_before);
        if !fails_before {
            // The facts may be older than the steps of this round, as in the agent: only a first step is sure to fit.
            self.act(step, desired, rng);
        }
        if fails_before || rng.chance(self.faults.fail_after) {
            let count = self
                .memory
                .failures
                .get(&step.key())
                .map_or(1, |failure| failure.count + 1);
            let failure = StepFailure {
                at: self.now,
                count,
                kind: FailureKind::Step,
                message: "fault".to_owned(),
            };
            self.memory.failures.insert(step.key(), failure);
        } else {
            self.memory.failures.remove(&step.key());
        }
        let dies = rng.chance(self.faults.agent_dies);
        if dies {
            self.memory = Memory::default();
        }
        !dies
    }

    fn act(&mut self, step: &PodStep, desired: &DesiredPod, rng: &mut Rng) {
        match step {
            PodStep::SetPodCgroup(_) => {
                self.has_files = true;
                self.has_cgroup = true;
            }
            PodStep::PinNamespaces { .. } => {
                assert!(!self.has_live(), "namespaces are pinned under running containers");
                self.has_files = true;
                self.namespaces = Presence::Whole;
            }
            PodStep::AttachNetwork => {
                assert!(self.namespaces == Presence::Whole && !desired.host_network);
                self.has_network = true;
            }
            PodStep::StartShim => {
                assert!(self.shim == ShimState::Absent && self.has_cgroup && !self.has_live());
                self.has_files = true;
                self.shim = ShimState::Running;
            }
            PodStep::PullImage {
                container,
                attempt,
                image,
            } => {
                self.images.insert(image.clone());
                self.memory.pulled.insert(container.clone(), *attempt);
            }
            PodStep::CreateContainer {
                container,
                attempt,
                crashes,
            } => {
                self.create(container, *attempt, *crashes, desired);
            }
            PodStep::StartContainer { container, attempt } => self.start(container, *attempt),
            PodStep::SignalContainer {
                container,
                attempt,
                signal,
            } => self.signal(container, *attempt, *signal, rng),
            PodStep::RemoveContainer { container, attempt } => self.remove(container, *attempt),
            PodStep::KillCgroup => {
                self.attempts
                    .values_mut()
                    .flatten()
                    .for_each(|attempt| attempt.is_alive = false);
            }
            PodStep::RecordLostShim => self.record_lost_shim(),
            PodStep::StopShim => {
                assert!(
                    self.shim == ShimState::Running && !self.has_live(),
                    "a shim is stopped under its containers"
                );
                self.shim = ShimState::Absent;
            }
            PodStep::DetachNetwork => {
                assert!(!self.has_live(), "the network is taken from running containers");
                self.has_network = false;
            }
            PodStep::UnpinNamespaces => {
                assert!(!self.has_live() && !self.has_network);
                self.namespaces = Presence::Absent;
            }
            PodStep::RemoveCgroup => {
                assert!(!self.has_live() && self.shim == ShimState::Absent);
                self.has_cgroup = false;
            }
            PodStep::RemovePod => {
                assert!(self.attempts.is_empty() && !self.has_cgroup && self.namespaces == Presence::Absent);
                assert!(
                    matches!(desired.goal, agent_core::pod::Goal::Stop { .. }),
                    "a pod that shall run is removed"
                );
                self.has_files = false;
                self.logs.clear();
            }
        }
    }

    fn create(&mut self, name: &ContainerName, number: u32, crashes: u32, desired: &DesiredPod) {
        assert_eq!(self.shim, ShimState::Running);
        assert!(self.namespaces == Presence::Whole && self.has_cgroup);
        assert!(
            self.has_network || desired.host_network,
            "a container starts without its network"
        );
        let container = desired.container(name).expect("a container of the pod");
        assert!(
            self.images.contains(&container.image),
            "a container starts without its image"
        );
        let attempts = self.attempts.entry(name.clone()).or_default();
        assert!(
            attempts.iter().all(|attempt| !attempt.is_alive),
            "two live attempts of {name}"
        );
        let highest = self.highest.insert(name.clone(), number);
        assert!(
            highest.is_none_or(|highest| number > highest),
            "attempt {number} of {name} after {highest:?}"
        );
        attempts.push(Recorded {
            number,
            crashes,
            state: AttemptState::Created,
            is_alive: true,
        });
        self.logs.insert(name.clone(), number);
    }

    fn find(&mut self, name: &ContainerName, number: u32) -> &mut Recorded {
        let attempts = self.attempts.get_mut(name).expect("an attempt that exists");
        attempts
            .iter_mut()
            .find(|attempt| attempt.number == number)
            .expect("an attempt that exists")
    }

    fn start(&mut self, name: &ContainerName, number: u32) {
        assert_eq!(self.shim, ShimState::Running);
        let started_at = self.now;
        let attempt = self.find(name, number);
        assert_eq!(attempt.state, AttemptState::Created, "started twice");
        attempt.state = AttemptState::Running { started_at };
    }

    fn signal(&mut self, name: &ContainerName, number: u32, signal: StopSignal, rng: &mut Rng) {
        let (now, shim) = (self.now, self.shim);
        assert_eq!(shim, ShimState::Running);
        let obeys = signal == StopSignal::Kill || !rng.chance(self.ignores_term);
        let attempt = self.find(name, number);
        if obeys && attempt.is_alive {
            end(attempt, shim, if signal == StopSignal::Kill { 137 } else { 143 }, now);
        }
        self.memory
            .signalled
            .insert((name.clone(), number), Signalled { signal, at: now });
    }

    fn remove(&mut self, name: &ContainerName, number: u32) {
        assert!(!self.find(name, number).state.is_live(), "a live attempt is removed");
        let attempts = self.attempts.get_mut(name).expect("an attempt that exists");
        attempts.retain(|attempt| attempt.number != number);
        if attempts.is_empty() {
            self.attempts.remove(name);
        }
    }

    fn record_lost_shim(&mut self) {
        assert!(
            self.shim != ShimState::Running && !self.has_live(),
            "a shim is given up while its containers live"
        );
        let now = self.now;
        for attempt in self
            .attempts
            .values_mut()
            .flatten()
            .filter(|attempt| attempt.state.is_live())
        {
            attempt.state = exited(attempt, 137, now);
        }
        self.shim = ShimState::Absent;
    }
}

/// A process ends; the end is recorded only by a shim that lives.
fn end(attempt: &mut Recorded, shim: ShimState, code: i32, now: Time) {
    attempt.is_alive = false;
    if shim == ShimState::Running {
        attempt.state = exited(attempt, code, now);
    }
}

fn exited(attempt: &Recorded, exit_code: i32, finished_at: Time) -> AttemptState {
    let started_at = match attempt.state {
        AttemptState::Running { started_at } => Some(started_at),
        AttemptState::Created | AttemptState::Exited(_) => None,
    };
    AttemptState::Exited(ExitRecord {
        exit_code,
        started_at,
        finished_at,
        ..ExitRecord::default()
    })
}
