//! The hands: each file owns one outside system. This one performs a [`PodStep`] with them. Nothing here decides.

pub mod cgroup;
pub mod container;
pub mod devices;
pub mod files;
pub mod image;
pub mod inspector;
mod limits;
pub mod maps;
pub mod namespaces;
pub mod network;
pub mod shim;
pub mod shm;
pub mod sockets;

use std::collections::BTreeMap;
use std::net::IpAddr;

use agent_core::pod::{DesiredPod, FailureKind, ObservedPod, PodStep};
use k8s_openapi::api::core::v1::ConfigMap;
use runtime::proto::UnixNanos;
use runtime::shim::record;

use crate::image::SnapshotId;
use crate::node::{self, Node};
use crate::paths::PodPaths;
use shim::ShimLink;

/// How long a shim may take to answer; what it does for longer, it does in the background.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(30);

/// A step that failed.
#[derive(Debug)]
pub struct StepError {
    /// What a container's status calls it.
    pub kind: FailureKind,
    /// The cause.
    pub error: anyhow::Error,
}

impl StepError {
    /// A failure that the container's configuration is to blame for.
    pub fn config(error: impl Into<anyhow::Error>) -> StepError {
        StepError {
            kind: FailureKind::Config,
            error: error.into(),
        }
    }

    /// The whole chain of causes in one line, each once.
    pub fn message(&self) -> String {
        format!("{:#}", self.error)
    }
}

impl<E: Into<anyhow::Error>> From<E> for StepError {
    fn from(error: E) -> StepError {
        StepError {
            kind: FailureKind::Step,
            error: error.into(),
        }
    }
}

/// What steps refer to besides the pod.
pub struct Scene<'a> {
    /// The node.
    pub node: &'a Node,
    /// The pod.
    pub pod: &'a DesiredPod,
    /// Its paths.
    pub paths: &'a PodPaths,
    /// The last look at it.
    pub observed: &'a ObservedPod,
    /// The ConfigMaps of its namespace.
    pub config_maps: &'a BTreeMap<String, ConfigMap>,
    /// Variables that tell of its namespace's Services.
    pub services: &'a [(String, String)],
}

impl Scene<'_> {
    /// The pod's addresses: the network's, or the node's on the host network.
    pub fn addresses(&self) -> &[IpAddr] {
        match &self.observed.network {
            Some(addresses) => addresses,
            None if self.pod.host_network => &self.node.facts.addresses,
            None => &[],
        }
    }
}

/// Performs a step that blocks; pulling and starting a shim wait, and are [`image::pull`] and [`shim::start`]. Returns
/// the limits that this host can't enforce.
pub fn perform(scene: &Scene<'_>, link: &mut ShimLink, step: &PodStep) -> Result<Vec<String>, StepError> {
    let (node, paths) = (scene.node, scene.paths);
    match step {
        PodStep::SetPodCgroup(group) => return Ok(cgroup::set(&node.cgroup_root, &paths.cgroup, &group.limits)?),
        PodStep::PinNamespaces { hostname } => {
            namespaces::pin(&paths.namespaces(), hostname.as_deref())?;
            shm::mount_at(&paths.shm())?;
        }
        PodStep::AttachNetwork => network::attach(&node.network, scene.pod, paths)?,
        PodStep::CreateContainer {
            container,
            attempt,
            crashes,
        } => {
            return container::create(scene, link, container, *attempt, *crashes);
        }
        PodStep::StartContainer { container, attempt } => container::start(paths, link, container, *attempt)?,
        PodStep::SignalContainer {
            container,
            attempt,
            signal,
        } => {
            container::signal(scene, link, container, *attempt, *signal)?;
        }
        PodStep::RemoveContainer { container, attempt } => container::remove(scene, link, container, *attempt)?,
        PodStep::KillCgroup => cgroup::kill(&paths.cgroup)?,
        PodStep::RecordLostShim => record_lost_shim(paths, link)?,
        PodStep::StopShim => stop_shim(paths, link)?,
        PodStep::DetachNetwork => network::detach(&node.network, scene.pod)?,
        PodStep::UnpinNamespaces => {
            shm::remove(&paths.shm())?;
            namespaces::release(&paths.namespaces())?;
        }
        PodStep::RemoveCgroup => cgroup::remove(&paths.cgroup)?,
        PodStep::RemovePod => remove_pod(scene)?,
        PodStep::PullImage { .. } | PodStep::StartShim => {
            unreachable!("the pod's task performs the steps that wait itself")
        }
    }
    Ok(Vec::new())
}

/// Every process is dead: what has no exit record gets one, what was never whole goes.
fn record_lost_shim(paths: &PodPaths, link: &mut ShimLink) -> Result<(), StepError> {
    link.close();
    let now = UnixNanos(i64::try_from(node::now().unix_nanos()).unwrap_or(i64::MAX));
    let records = record::read_pod(&paths.run)?;
    for state in &records.containers {
        record::write_lost(&paths.run, &state.key, now)?;
    }
    for key in &records.incomplete {
        record::remove(&paths.run, key)?;
    }
    remove_file(&paths.shim_socket())?;
    Ok(())
}

fn stop_shim(paths: &PodPaths, link: &mut ShimLink) -> Result<(), StepError> {
    link.close();
    let socket = paths.shim_socket();
    let connection = runtime::client::Connection::connect(&socket, ANSWER)?;
    let pid = connection.welcome().pid;
    connection.shutdown(ANSWER)?;
    // The socket stays behind a shim that ended by itself or otherwise; gone, it does not look lost.
    remove_file(&socket)?;
    wait_for_end(pid);
    Ok(())
}

/// The shim has answered and only has to exit; what it leaves is looked for later in any case.
fn wait_for_end(pid: u32) {
    for _ in 0..200 {
        if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn remove_pod(scene: &Scene<'_>) -> Result<(), StepError> {
    let uid = scene.pod.uid.as_str();
    network::detach(&scene.node.network, scene.pod)?;
    for id in scene.node.images.snapshots() {
        if id.pod() == uid {
            scene.node.images.remove_snapshot(&id)?;
        }
    }
    files::remove(scene.paths)?;
    Ok(())
}

/// The writable layer of an attempt.
fn snapshot_id(
    pod: &DesiredPod,
    container: &agent_core::pod::ContainerName,
    attempt: u32,
) -> Result<SnapshotId, StepError> {
    Ok(SnapshotId::new(pod.uid.as_str(), container.as_str(), attempt)?)
}

fn remove_file(path: &std::path::Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
