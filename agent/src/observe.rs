//! Gathers what the node says about one pod: pins, shim, records, links, cgroup, images, files. It changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use agent_core::pod::{
    Attempt, AttemptState, ContainerFacts, ContainerName, DesiredPod, ExitRecord, ImageFacts, ObservedPod, Presence,
    ShimState, Signalled, StepFailure, StepKey, Time, spec,
};
use cni::pod_network::{self, NetworkError};
use runtime::client::ClientError;
use runtime::proto::{self, ContainerKey, ContainerState, ExitReason, Status, UnixNanos};
use runtime::shim::record::{self, RecordError};

use crate::hands::namespaces::{self, Shared};
use crate::hands::shim::ShimLink;
use crate::hands::{cgroup, files, shm};
use crate::image::Reference;
use crate::node::Node;
use crate::paths::PodPaths;

/// How long the shim may take to list its containers.
const LIST: std::time::Duration = std::time::Duration::from_secs(10);

/// What a pod's task keeps in memory. Lost with the agent, at the price of one repeated step each.
#[derive(Debug, Default)]
pub struct Memory {
    /// When the node took the pod on, from its record.
    pub accepted_at: Option<Time>,
    /// Steps whose last try failed.
    pub failures: BTreeMap<StepKey, StepFailure>,
    /// The attempt for which a container's image was pulled.
    pub pulled: BTreeMap<ContainerName, u32>,
    /// Signals sent.
    pub signalled: BTreeMap<(ContainerName, u32), Signalled>,
    /// Limits of the pod's cgroup that this host can't enforce.
    pub unenforced: Vec<String>,
    /// What the specs of attempts say: they never change.
    specs: BTreeMap<(ContainerName, u32), SpecNotes>,
}

impl Memory {
    /// Of a pod that the node took on at that time.
    pub fn new(accepted_at: Time) -> Memory {
        Memory {
            accepted_at: Some(accepted_at),
            ..Memory::default()
        }
    }

    /// Forgets attempts that are gone, so that a container that restarts for years costs nothing.
    fn forget_others(&mut self, present: &BTreeMap<ContainerName, ContainerFacts>) {
        let is_present = |(name, number): &(ContainerName, u32)| {
            present
                .get(name)
                .is_some_and(|facts| facts.attempts.iter().any(|attempt| attempt.number == *number))
        };
        self.specs.retain(|key, _| is_present(key));
        self.signalled.retain(|key, _| is_present(key));
    }
}

#[derive(Clone, Debug)]
struct SpecNotes {
    crashes: u32,
    image: String,
}

/// Why a pod could not be looked at.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum ObserveError {
    #[error("ask the pod's shim")]
    Shim(#[from] ClientError),
    #[error("read the shim's records")]
    Record(#[from] RecordError),
    #[error("list the pod network")]
    Network(#[from] NetworkError),
}

/// Looks at everything of the pod. Blocks.
pub fn observe(
    node: &Node,
    pod: &DesiredPod,
    paths: &PodPaths,
    link: &mut ShimLink,
    memory: &mut Memory,
) -> Result<ObservedPod, ObserveError> {
    let (shim, states) = shim(paths, link)?;
    let unenforced = unenforced(&memory.unenforced, &states);
    Ok(ObservedPod {
        accepted_at: memory.accepted_at,
        has_files: files::exist(paths),
        namespaces: namespaces(paths, pod.host_network),
        cgroup: cgroup::look(&paths.cgroup),
        network: network(node, pod)?,
        shim,
        images: images(node, pod),
        containers: containers(pod, paths, &states, memory),
        failures: memory.failures.clone(),
        unenforced,
    })
}

/// The shim, and the containers that it or its records tell of.
fn shim(paths: &PodPaths, link: &mut ShimLink) -> Result<(ShimState, Vec<ContainerState>), ObserveError> {
    let socket = paths.shim_socket();
    let state = if socket.symlink_metadata().is_err() {
        link.close();
        ShimState::Absent
    } else {
        // A link that broke since the last look says nothing about the shim: the second try connects anew.
        let listed = match link.ask(&socket, |connection| connection.list(LIST)) {
            Err(error) if !error.is_shim_gone() => link.ask(&socket, |connection| connection.list(LIST)),
            other => other,
        };
        match listed {
            Ok(states) => return Ok((ShimState::Running, states)),
            Err(error) if error.is_shim_gone() => ShimState::Lost,
            Err(error) => return Err(error.into()),
        }
    };
    Ok((state, record::read_pod(&paths.run)?.containers))
}

fn namespaces(paths: &PodPaths, on_host_network: bool) -> Presence {
    let dir = paths.namespaces();
    let pinned = namespaces::pinned(&dir);
    let has_shm = shm::is_mounted(&paths.shm());
    let wanted = Shared::of_pod(on_host_network);
    if has_shm && wanted.iter().all(|shared| pinned.contains(shared)) {
        Presence::Whole
    } else if has_shm || !pinned.is_empty() || dir.exists() || paths.shm().exists() {
        Presence::Partial
    } else {
        Presence::Absent
    }
}

fn network(node: &Node, pod: &DesiredPod) -> Result<Option<Vec<IpAddr>>, ObserveError> {
    if pod.host_network {
        return Ok(None);
    }
    let attached = pod_network::list(&node.network)?;
    let ours = attached
        .into_iter()
        .find(|link| link.container_id == pod.uid.as_str() && link.complete);
    Ok(ours.map(|link| link.addresses))
}

fn images(node: &Node, pod: &DesiredPod) -> BTreeMap<String, ImageFacts> {
    let facts = |name: &String| {
        let image = node.images.resolve(&name.parse::<Reference>().ok()?)?;
        Some((
            name.clone(),
            ImageFacts {
                id: image.id.to_string(),
                reference: image.repo_digest(),
            },
        ))
    };
    pod.containers
        .iter()
        .filter_map(|container| facts(&container.image))
        .collect()
}

fn unenforced(of_pod: &[String], states: &[ContainerState]) -> Vec<String> {
    let all = of_pod.iter().chain(states.iter().flat_map(|state| &state.unenforced));
    let unique: std::collections::BTreeSet<&String> = all.collect();
    unique.into_iter().cloned().collect()
}

fn containers(
    pod: &DesiredPod,
    paths: &PodPaths,
    states: &[ContainerState],
    memory: &mut Memory,
) -> BTreeMap<ContainerName, ContainerFacts> {
    let mut containers: BTreeMap<ContainerName, ContainerFacts> = BTreeMap::new();
    for container in &pod.containers {
        let facts = containers.entry(container.name.clone()).or_default();
        facts.pulled = memory.pulled.get(&container.name).copied();
        facts.last_log = files::last_log(&paths.container_logs(&container.name));
    }
    for state in states {
        if let Ok(name) = ContainerName::parse(state.key.container.as_str()) {
            let attempt = attempt(&paths.run, &name, state, memory);
            containers.entry(name).or_default().attempts.push(attempt);
        }
    }
    memory.forget_others(&containers);
    containers.retain(|_, facts| *facts != ContainerFacts::default());
    containers
        .values_mut()
        .for_each(|facts| facts.attempts.sort_by_key(|attempt| attempt.number));
    containers
}

fn attempt(run: &Path, name: &ContainerName, state: &ContainerState, memory: &mut Memory) -> Attempt {
    let key = (name.clone(), state.key.attempt);
    let notes = memory
        .specs
        .entry(key.clone())
        .or_insert_with(|| spec_notes(run, &state.key))
        .clone();
    Attempt {
        number: state.key.attempt,
        crashes: notes.crashes,
        image: notes.image,
        state: attempt_state(state),
        signalled: memory.signalled.get(&key).copied(),
    }
}

fn attempt_state(state: &ContainerState) -> AttemptState {
    match (&state.exit, state.status) {
        (Some(exit), _) => AttemptState::Exited(exit_record(exit)),
        (None, Status::Created) => AttemptState::Created,
        (None, Status::Running | Status::Exited) => AttemptState::Running {
            started_at: time(state.started_at.unwrap_or(state.created_at)),
        },
    }
}

fn exit_record(exit: &proto::ExitRecord) -> ExitRecord {
    let reason = match exit.reason {
        ExitReason::Completed | ExitReason::Error | ExitReason::OomKilled => None,
        ExitReason::StartError | ExitReason::ShimLost => Some(exit.reason.as_str().to_string()),
    };
    ExitRecord {
        exit_code: exit.exit_code,
        signal: exit.signal,
        started_at: exit.started_at.map(time),
        finished_at: time(exit.finished_at),
        oom_killed: exit.oom_killed,
        reason,
        message: Some(exit.message.clone()).filter(|message| !message.is_empty()),
    }
}

fn spec_notes(run: &Path, key: &ContainerKey) -> SpecNotes {
    let path = record::container_dir(run, key).join("config.json");
    let spec = fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    SpecNotes {
        crashes: spec::crashes(&spec, key.attempt),
        image: spec::image(&spec).to_string(),
    }
}

fn time(nanos: UnixNanos) -> Time {
    Time::from_unix_nanos(u64::try_from(nanos.0).unwrap_or(0))
}
