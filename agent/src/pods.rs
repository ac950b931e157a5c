//! The set of pods: one task for each that is wanted or that an earlier agent left behind. Which step a pod needs is
//! `agent-core`'s to say, how a task goes about it is `pod_task`'s.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use agent_core::pod::PodUid;
use agent_core::pod::host_port::{self, Admission, Holder, HostPort};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, watch};

use crate::events::Subject;
use crate::host_ports;
use crate::node::{self, Node};
use crate::orphans;
use crate::pod_task::{self, Facts};
use crate::record::{Record, Stop};
use crate::sources::WantedReceiver;
use crate::sources::wanted::{Key, Sourced, Wanted, key};

/// Milliseconds that a pod has to end when its manifest does not say.
const GRACE: u64 = 30_000;

/// A running task of the set.
struct Task {
    record: watch::Sender<Record>,
    key: Key,
    /// `namespace/name`
    name: String,
    /// Ports of the node that it has, or had until its pod ended.
    ports: Vec<HostPort>,
}

/// Runs the set until the agent ends. Pods of earlier agents are adopted at once, and end only after the first full list
/// of what is wanted.
pub async fn run(node: Arc<Node>, mut wanted: WantedReceiver, facts: watch::Receiver<Facts>) {
    let (ended, mut ends) = mpsc::channel(64);
    let mut set = Set {
        node,
        facts,
        ended,
        tasks: BTreeMap::new(),
        orphans_are_gone: false,
    };
    set.adopt();
    loop {
        let now = wanted.borrow_and_update().clone();
        if let Some(now) = now {
            set.follow(&now);
            set.remove_orphans_once().await;
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            Some(uid) = ends.recv() => set.forget(&uid),
        }
    }
}

struct Set {
    node: Arc<Node>,
    facts: watch::Receiver<Facts>,
    ended: mpsc::Sender<PodUid>,
    tasks: BTreeMap<PodUid, Task>,
    orphans_are_gone: bool,
}

impl Set {
    /// Takes on what earlier agents recorded.
    fn adopt(&mut self) {
        for (path, record) in recorded(self.node.config.places.pod_runs()) {
            match record {
                Ok(Some(record)) => self.start(record),
                // Killed between making the directory and writing the record: nothing runs in there.
                Ok(None) => drop(std::fs::remove_dir_all(&path)),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the record of a pod can't be read");
                    let message = format!("{}: {error}; the pod is left alone", path.display());
                    self.node.events.warning(Subject::Node, "UnreadableRecord", message);
                }
            }
        }
    }

    /// Starts what is newly wanted and stops what is not wanted any more, or not as it is. A pod waits until another one
    /// of its name, or an earlier life of its own, is gone.
    fn follow(&mut self, wanted: &Wanted) {
        for (uid, task) in &self.tasks {
            let wanted = wanted.pods.get(&task.key).map(|sourced| &sourced.object);
            match wanted.filter(|pod| pod.metadata.uid.as_deref() == Some(uid.as_str())) {
                Some(pod) if pod.spec == task.record.borrow().pod.spec => relabel(task, pod),
                Some(_) | None => stop(task),
            }
        }
        for (key, sourced) in &wanted.pods {
            if self.tasks.values().any(|task| task.key == *key) {
                continue;
            }
            let mut record = new_record(sourced);
            match self.admit(&record) {
                Admission::Admitted => {}
                Admission::Waits => continue,
                Admission::Refused(port) => record.port_taken = Some(port),
            }
            self.start(record);
        }
    }

    /// Whether a pod may have its ports of the node beside the pods that are there, and have not ended.
    fn admit(&self, record: &Record) -> Admission {
        let shown = self.node.board.now();
        let has_ended = |uid: &PodUid| {
            let status = shown.get(uid).and_then(|view| view.pod.status.as_ref());
            let phase = status.and_then(|status| status.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        };
        let holders = self.tasks.iter().filter(|(uid, _)| !has_ended(uid));
        let holders = holders.map(|(_, task)| Holder {
            name: &task.name,
            ports: &task.ports,
            is_going: task.record.borrow().stop.is_some(),
        });
        let others = self.node.attached.borrow().clone().unwrap_or_default();
        let others: Vec<(String, Vec<HostPort>)> = others.iter().map(host_ports::held).collect();
        let others = others.iter().map(|(name, ports)| Holder {
            name,
            ports,
            is_going: false,
        });
        host_port::admit(&ports(record, &self.node), holders.chain(others))
    }

    /// Nothing is removed before the first full list: what is wanted may have outlived its record. No pod is started
    /// meanwhile, or it would look like an orphan itself; one whose record can't be read is none.
    async fn remove_orphans_once(&mut self) {
        if std::mem::replace(&mut self.orphans_are_gone, true) {
            return;
        }
        let node = Arc::clone(&self.node);
        let recorded = recorded(node.config.places.pod_runs()).into_iter();
        let recorded = recorded.filter_map(|(path, _)| Some(path.file_name()?.to_string_lossy().into_owned()));
        let known = recorded
            .chain(self.tasks.keys().map(|uid| uid.as_str().to_owned()))
            .collect();
        // What goes wrong in there is logged there.
        let _ = tokio::task::spawn_blocking(move || orphans::remove(&node, &known)).await;
    }

    fn start(&mut self, record: Record) {
        let Some(uid) = record
            .pod
            .metadata
            .uid
            .as_deref()
            .and_then(|uid| PodUid::parse(uid).ok())
        else {
            tracing::error!(pod = ?record.pod.metadata.name, "a pod has no usable uid");
            return;
        };
        let key = key(&record.pod.metadata);
        let (namespace, name) = &key;
        let name = format!("{namespace}/{name}");
        let ports = ports(&record, &self.node);
        let (sender, receiver) = watch::channel(record);
        let task = Task {
            record: sender,
            key,
            name,
            ports,
        };
        self.tasks.insert(uid.clone(), task);
        let work = pod_task::run(Arc::clone(&self.node), uid.clone(), receiver, self.facts.clone());
        let ended = self.ended.clone();
        tokio::spawn(async move {
            // A task that panics must not leave its pod unattended: the set starts it anew.
            if tokio::spawn(work).await.is_err() {
                tracing::error!(pod = %uid, "the pod's task panicked; it starts anew");
                tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            }
            // The set ends only with the agent.
            let _ = ended.send(uid).await;
        });
    }

    /// A task has ended: its pod is gone, or it was refused, or the task panicked and the record remains.
    fn forget(&mut self, uid: &PodUid) {
        let Some(task) = self.tasks.remove(uid) else { return };
        self.node.board.remove(uid);
        let run = self.node.config.places.pod_runs().join(uid.as_str());
        if run.exists() {
            // Only a panic ends a task before its pod is gone.
            let record = task.record.borrow().clone();
            self.start(record);
        } else {
            self.node.events.forget(&Subject::Pod(uid.as_str().into()));
        }
    }
}

/// The ports of the node that a pod has; none if it is refused.
fn ports(record: &Record, node: &Node) -> Vec<HostPort> {
    let pod = pod_task::accept(record, node).ok().filter(|pod| pod.refusal.is_none());
    pod.map(|pod| host_port::asked(&pod)).unwrap_or_default()
}

/// Labels and annotations may change while a pod runs.
fn relabel(task: &Task, wanted: &Pod) {
    task.record.send_if_modified(|record| {
        let (metadata, wanted) = (&mut record.pod.metadata, &wanted.metadata);
        let is_new = metadata.labels != wanted.labels || metadata.annotations != wanted.annotations;
        if is_new {
            metadata.labels.clone_from(&wanted.labels);
            metadata.annotations.clone_from(&wanted.annotations);
        }
        is_new
    });
}

fn stop(task: &Task) {
    let since = node::now().unix_nanos();
    task.record.send_if_modified(|record| {
        let is_new = record.stop.is_none();
        if is_new {
            record.stop = Some(Stop {
                since,
                grace: grace(&record.pod),
            });
        }
        is_new
    });
}

fn grace(pod: &Pod) -> u64 {
    let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(GRACE, |seconds| seconds.saturating_mul(1000))
}

fn new_record(sourced: &Sourced<Pod>) -> Record {
    Record {
        pod: sourced.object.clone(),
        origin: sourced.file.clone(),
        accepted_at: node::now().unix_nanos(),
        port_taken: None,
        stop: None,
    }
}

fn recorded(dir: PathBuf) -> Vec<(PathBuf, std::io::Result<Option<Record>>)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .map(|path| (path.clone(), Record::read(&path)))
        .collect()
}
