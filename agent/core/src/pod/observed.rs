//! What the node says about one pod. Everything in here was looked at, not remembered, with three exceptions that the
//! agent keeps in memory and may forget at the price of one repeated step: [`ObservedPod::failures`],
//! [`ContainerFacts::pulled`] and [`Attempt::signalled`].

use std::{collections::BTreeMap, net::IpAddr};

use super::{Backoff, ContainerName, StepKey, Time};

/// The facts of one pod. The default is a pod of which nothing exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedPod {
    /// When this node first took the pod on (the birth of its directory); becomes `status.startTime`.
    pub accepted_at: Option<Time>,
    /// A directory of the pod exists: below the root, run or log directory. What `RemovePod` ends.
    pub has_files: bool,
    /// Every namespace that the pod shares (net, ipc and uts; ipc alone on the host network) is pinned.
    pub namespaces: Presence,
    /// The pod's cgroup, when there is one.
    pub cgroup: Option<CgroupFacts>,
    /// The pod's addresses while it is attached to the pod network. Never set on the host network.
    pub network: Option<Vec<IpAddr>>,
    /// The pod's shim.
    pub shim: ShimState,
    /// The images that are complete in the store, among those that the pod names: by the name the pod uses.
    pub images: BTreeMap<String, ImageFacts>,
    /// The containers of which anything is known, whether the pod still wants them or not.
    pub containers: BTreeMap<ContainerName, ContainerFacts>,
    /// Steps whose last try failed; a success takes the entry away. The agent also drops an entry when what it
    /// complained about has changed (a ConfigMap that arrived), so that nobody waits for the back-off.
    pub failures: BTreeMap<StepKey, StepFailure>,
    /// Limits that this host can't enforce, in words for the user, as hands and shim reported them.
    pub unenforced: Vec<String>,
}

/// How much of a set of things exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// Nothing.
    #[default]
    Absent,
    /// Some of it: a step was cut short. Making and removing both go on from here.
    Partial,
    /// All of it.
    Whole,
}

/// The pod's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupFacts {
    /// A live process is in it or below it (`cgroup.events`).
    pub populated: bool,
}

/// Whether the pod's shim answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShimState {
    /// There is none, and no record that one died with live containers.
    #[default]
    Absent,
    /// It answers.
    Running,
    /// It was there and does not answer: refused connection, or its process is gone.
    Lost,
}

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// The digest of its configuration, `sha256:…`.
    pub id: String,
    /// `repository@sha256:…`, for `status.imageID`; the id when it never had a repository.
    pub reference: String,
}

/// What is known of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFacts {
    /// Its attempts that still have a record, ascending by number.
    pub attempts: Vec<Attempt>,
    /// The attempt for which this agent has pulled the image; forgotten with the agent. Only `imagePullPolicy: Always`
    /// looks at it.
    pub pulled: Option<u32>,
    /// The highest attempt that has a log file: numbers go on from it when records were lost with `/run`.
    pub last_log: Option<u32>,
}

impl ContainerFacts {
    /// The newest attempt.
    pub fn last(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// The number that the next attempt gets: the count of restarts so far, as a user sees it.
    pub fn next_number(&self) -> u32 {
        let recorded = self.last().map(|attempt| attempt.number);
        recorded.max(self.last_log).map_or(0, |number| number.saturating_add(1))
    }
}

/// One attempt at running a container: (pod uid, container, number) names exactly one directory, cgroup and log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// From zero.
    pub number: u32,
    /// How many ends in a row, without a long run between them, came before this attempt. Carried in the annotations
    /// of its spec ([`crate::pod::spec::crashes`]), so that a new agent goes on with the same back-off.
    pub crashes: u32,
    /// The image that it was made from, as `status.imageID` shows it.
    pub image: String,
    /// Where it is.
    pub state: AttemptState,
    /// The last signal that this agent sent to end it, and when it last sent it.
    pub signalled: Option<Signalled>,
}

/// Where an attempt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// Set up and waiting for its start.
    Created,
    /// Its process runs.
    Running {
        /// Since when.
        started_at: Time,
    },
    /// It has ended, and the end is on record.
    Exited(ExitRecord),
}

impl AttemptState {
    /// Whether a process of it exists.
    pub fn is_live(&self) -> bool {
        match self {
            Self::Created | Self::Running { .. } => true,
            Self::Exited(_) => false,
        }
    }
}

/// How an attempt ended, from the shim's `exit.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitRecord {
    /// The exit code; 128 + signal for one that was killed, 137 for one whose shim was lost.
    pub exit_code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// When it started; none when it never did.
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Time,
    /// The kernel killed it for memory.
    pub oom_killed: bool,
    /// A reason that the code does not tell: `StartError`, `ShimLost`.
    pub reason: Option<String>,
    /// More about it, for `status.….terminated.message`.
    pub message: Option<String>,
}

/// A signal that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signalled {
    /// Which.
    pub signal: StopSignal,
    /// When it was last sent.
    pub at: Time,
}

/// The two signals that end a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopSignal {
    /// The image's stop signal, SIGTERM unless it names another.
    Stop,
    /// SIGKILL.
    Kill,
}

/// The last error of a step that has not succeeded since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFailure {
    /// When it failed.
    pub at: Time,
    /// How often in a row; from one.
    pub count: u32,
    /// What kind of failure, as far as a user is told apart.
    pub kind: FailureKind,
    /// The whole chain of errors, one line.
    pub message: String,
}

/// Kinds of failure that a container's status names differently; the step itself says the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureKind {
    /// Told by the step alone.
    #[default]
    Step,
    /// What the container refers to is missing or unfit: `CreateContainerConfigError`.
    Config,
    /// The image's name can't be read: `InvalidImageName`.
    ImageName,
    /// The image is in the store and can't be read: `ImageInspectError`.
    ImageInspect,
}

impl StepFailure {
    /// Until when a user is shown the error itself, and only then that it is waited out: for half of the wait.
    pub fn shows_until(&self, now: Time, backoff: Backoff) -> Option<Time> {
        now.waits_until(self.at, backoff.delay(self.count) / 2)
    }
}

impl ObservedPod {
    /// Whether nothing of the pod is left on the node.
    pub fn is_gone(&self) -> bool {
        !self.has_files
            && self.namespaces == Presence::Absent
            && self.cgroup.is_none()
            && self.network.is_none()
            && self.shim == ShimState::Absent
            && !self.has_live_attempts()
    }

    /// Whether any attempt of any container has a process.
    pub fn has_live_attempts(&self) -> bool {
        self.attempts().any(|(_, attempt)| attempt.state.is_live())
    }

    /// Every attempt of every container.
    pub fn attempts(&self) -> impl Iterator<Item = (&ContainerName, &Attempt)> {
        self.containers
            .iter()
            .flat_map(|(name, facts)| facts.attempts.iter().map(move |attempt| (name, attempt)))
    }
}
