//! One pod's task: look, plan, perform, look again. It wakes when something changes, when the shim tells something and
//! when the plan says so; what a step led to it learns by looking.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_core::pod::{
    Backoffs, ContainerName, DesiredPod, FailureKind, Goal, ObservedPod, PodStep, PodUid, Refusal, Signalled,
    StepFailure, Time, event, plan, status,
};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};

use crate::events::{Events, Kind, Subject};
use crate::hands::shim::ShimLink;
use crate::hands::{self, Scene, StepError};
use crate::node::{Node, now};
use crate::observe::{Memory, ObserveError, observe};
use crate::paths::PodPaths;
use crate::record::Record;
use crate::service_env::ServiceVariables;
use crate::status::PodView;

/// Between looks at a pod that can't be looked at.
const BLIND: Duration = Duration::from_secs(1);
/// The longest time without a look: what nobody tells of is found then.
const IDLE: Duration = Duration::from_secs(60);

/// What containers may refer to besides their pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// ConfigMaps by namespace and name.
    pub config_maps: Arc<BTreeMap<String, BTreeMap<String, ConfigMap>>>,
    /// Variables that tell of Services, by namespace; none before the Services have addresses.
    pub service_env: Option<Arc<ServiceVariables>>,
}

/// Keeps the pod as its record says, until nothing of it is left.
pub async fn run(node: Arc<Node>, uid: PodUid, record: watch::Receiver<Record>, facts: watch::Receiver<Facts>) {
    let Some(mut task) = PodTask::new(node, record.clone(), facts) else {
        return wait_for_stop(record).await;
    };
    tracing::info!(pod = %uid, name = %task.pod.name, namespace = %task.pod.namespace, "pod accepted");
    while task.turn().await {}
    tracing::info!(pod = %uid, name = %task.pod.name, namespace = %task.pod.namespace, "pod gone");
}

/// A refused pod stays refused until its manifest changes.
async fn wait_for_stop(mut record: watch::Receiver<Record>) {
    // The set drops the record only when the agent ends.
    let _ = record.wait_for(|record| record.stop.is_some()).await;
}

struct PodTask {
    node: Arc<Node>,
    record: watch::Receiver<Record>,
    written: Option<Record>,
    facts: watch::Receiver<Facts>,
    images: watch::Receiver<()>,
    pod: Arc<DesiredPod>,
    paths: Arc<PodPaths>,
    link: ShimLink,
    memory: Memory,
    pulls: JoinSet<Pull>,
    pulling: BTreeMap<ContainerName, u32>,
    seen: ObservedPod,
    shown: Option<PodStatus>,
}

/// A pull that has ended.
struct Pull {
    step: PodStep,
    container: ContainerName,
    attempt: u32,
    took: Duration,
    result: Result<u64, StepError>,
}

impl PodTask {
    /// None when the pod can't be accepted; that is reported.
    fn new(node: Arc<Node>, record: watch::Receiver<Record>, facts: watch::Receiver<Facts>) -> Option<PodTask> {
        let pod = match accept(&record.borrow(), &node) {
            Ok(pod) => Arc::new(pod),
            Err(message) => {
                tracing::error!(message, "pod refused");
                node.events.warning(Subject::Node, "FailedValidation", message);
                return None;
            }
        };
        let paths = Arc::new(PodPaths::new(&node.config.places, &node.cgroup_root, &pod));
        let accepted_at = Time::from_unix_nanos(record.borrow().accepted_at);
        let memory = Memory::new(accepted_at);
        let written = Record::read(&paths.run).ok().flatten();
        Some(PodTask {
            images: node.new_images.subscribe(),
            node,
            record,
            written,
            facts,
            pod,
            paths,
            link: ShimLink::default(),
            memory,
            pulls: JoinSet::new(),
            pulling: BTreeMap::new(),
            seen: ObservedPod::default(),
            shown: None,
        })
    }

    /// One look and what follows from it; false when the pod is gone.
    async fn turn(&mut self) -> bool {
        while let Some(ended) = self.pulls.try_join_next() {
            self.end_pull(ended);
        }
        if let Err(error) = self.follow_record() {
            self.warn("FailedSync", format!("write the pod's record: {error}"));
            tokio::time::sleep(BLIND).await;
            return true;
        }
        let observed = match self.look().await {
            Ok(observed) => observed,
            Err(error) => {
                let message = format!("{:#}", anyhow::Error::from(error));
                tracing::warn!(pod = %self.pod.uid, message, "pod can't be looked at");
                self.warn("FailedSync", message);
                tokio::time::sleep(BLIND).await;
                return true;
            }
        };
        self.show(&observed);
        self.seen = observed.clone();
        let plan = plan(&self.pod, &observed, now());
        let mut has_acted = false;
        for step in plan.steps {
            let is_last = matches!(step, PodStep::RemovePod);
            match self.act(step, &observed).await {
                Acted::Done if is_last => return false,
                Acted::Done | Acted::Failed => has_acted = true,
                Acted::Waiting => {}
            }
        }
        if !has_acted {
            self.wait(plan.wake_at).await;
        }
        true
    }

    /// Takes over what has changed in the record, after writing it down: a stop is remembered before it is begun.
    fn follow_record(&mut self) -> io::Result<()> {
        let record = self.record.borrow_and_update().clone();
        let goal = record.goal();
        if self.written.as_ref() != Some(&record) {
            record.write(&self.paths.run)?;
            let pod = accept(&record, &self.node).map_err(io::Error::other)?;
            self.pod = Arc::new(pod);
            self.written = Some(record);
        }
        if matches!(goal, Goal::Stop { .. }) && !self.pulling.is_empty() {
            self.pulls.abort_all();
            self.pulling.clear();
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<ObservedPod, ObserveError> {
        let (node, pod, paths) = (Arc::clone(&self.node), Arc::clone(&self.pod), Arc::clone(&self.paths));
        let mut memory = std::mem::take(&mut self.memory);
        let work = move |link: &mut ShimLink| {
            let observed = observe(&node, &pod, &paths, link, &mut memory);
            (memory, observed)
        };
        let (memory, observed) = self.blocking(work).await;
        self.memory = memory;
        observed
    }

    /// Runs work that blocks; it has the link to the shim meanwhile.
    async fn blocking<T: Send + 'static>(&mut self, work: impl FnOnce(&mut ShimLink) -> T + Send + 'static) -> T {
        let mut link = std::mem::take(&mut self.link);
        let done: JoinHandle<(ShimLink, T)> = tokio::task::spawn_blocking(move || {
            let result = work(&mut link);
            (link, result)
        });
        match done.await {
            Ok((link, result)) => {
                self.link = link;
                result
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Cancelled with the whole agent, which is ending.
            Err(_) => std::future::pending().await,
        }
    }

    fn show(&mut self, observed: &ObservedPod) {
        let status = status(&self.pod, observed, self.shown.as_ref(), now());
        for event in event::of_change(&self.pod, self.shown.as_ref(), &status) {
            self.tell(&event);
        }
        self.shown = Some(status.clone());
        let record = self.record.borrow();
        let pod = object(&record, &self.pod, status);
        let origin = Some(record.origin.clone());
        self.node.board.show(PodView {
            desired: DesiredPod::clone(&self.pod),
            pod,
            origin,
        });
    }

    /// Performs a step, or sees to it that it is being performed.
    async fn act(&mut self, step: PodStep, observed: &ObservedPod) -> Acted {
        if let PodStep::PullImage {
            container,
            attempt,
            image,
        } = &step
        {
            if self.pulling.get(container) != Some(attempt) {
                self.pulling.insert(container.clone(), *attempt);
                let (container, attempt, image) = (container.clone(), *attempt, image.clone());
                self.begin_pull(step, container, attempt, image);
            }
            return Acted::Waiting;
        }
        // kubelet fails such a container and tries again; here it waits for the next facts.
        if step.takes_services(&self.pod) && self.facts.borrow().service_env.is_none() {
            return Acted::Waiting;
        }
        self.tell_step(&step, event::Outcome::Begun);
        let begun = Instant::now();
        let result = self.perform(&step, observed).await;
        tracing::debug!(pod = %self.pod.uid, ?step, took = ?begun.elapsed(), failed = result.is_err(), "step");
        self.settle(&step, begun.elapsed(), result.map(|()| 0))
    }

    async fn perform(&mut self, step: &PodStep, observed: &ObservedPod) -> Result<(), StepError> {
        if let PodStep::StartShim = step {
            return Ok(hands::shim::start(&self.node.config.podshim, &self.paths, &self.node.shims_cgroup()).await?);
        }
        if let PodStep::SignalContainer {
            container,
            attempt,
            signal,
        } = step
        {
            let key = (container.clone(), *attempt);
            self.memory.signalled.insert(
                key,
                Signalled {
                    signal: *signal,
                    at: now(),
                },
            );
        }
        let (node, pod, paths) = (Arc::clone(&self.node), Arc::clone(&self.pod), Arc::clone(&self.paths));
        let (facts, observed, of_pod) = (self.facts.borrow().clone(), observed.clone(), step.clone());
        let work = move |link: &mut ShimLink| {
            let none = BTreeMap::new();
            let scene = Scene {
                node: &node,
                pod: &pod,
                paths: &paths,
                observed: &observed,
                config_maps: facts.config_maps.get(&pod.namespace).unwrap_or(&none),
                services: facts
                    .service_env
                    .as_deref()
                    .and_then(|all| all.get(&pod.namespace))
                    .map_or(&[], Vec::as_slice),
            };
            hands::perform(&scene, link, &of_pod)
        };
        let unenforced = self.blocking(work).await?;
        if let PodStep::SetPodCgroup(_) = step {
            self.memory.unenforced = unenforced;
        }
        Ok(())
    }

    fn begin_pull(&mut self, step: PodStep, container: ContainerName, attempt: u32, image: String) {
        self.tell_step(&step, event::Outcome::Begun);
        let store = self.node.images.clone();
        self.pulls.spawn(async move {
            let begun = Instant::now();
            let result = hands::image::pull(&store, &image).await.map(|image| image.size);
            Pull {
                step,
                container,
                attempt,
                took: begun.elapsed(),
                result,
            }
        });
    }

    fn end_pull(&mut self, ended: Result<Pull, JoinError>) {
        let Ok(pull) = ended else {
            // Aborted, or it panicked and the next look plans it again.
            self.pulling.clear();
            return;
        };
        self.pulling.remove(&pull.container);
        if pull.result.is_ok() {
            self.memory.pulled.insert(pull.container, pull.attempt);
        }
        self.settle(&pull.step, pull.took, pull.result);
    }

    /// Remembers a failure or forgets it; tells the user.
    fn settle(&mut self, step: &PodStep, took: Duration, result: Result<u64, StepError>) -> Acted {
        let key = step.key();
        match result {
            Ok(image_bytes) => {
                self.memory.failures.remove(&key);
                self.tell_step(step, event::Outcome::Done { took, image_bytes });
                Acted::Done
            }
            Err(failure) => {
                let message = failure.message();
                tracing::warn!(pod = %self.pod.uid, ?step, message, "step failed");
                let count = self
                    .memory
                    .failures
                    .get(&key)
                    .map_or(0, |before| before.count)
                    .saturating_add(1);
                let entry = StepFailure {
                    at: now(),
                    count,
                    kind: failure.kind,
                    message: message.clone(),
                };
                self.memory.failures.insert(key, entry);
                self.tell_step(step, event::Outcome::Failed(&message));
                Acted::Failed
            }
        }
    }

    /// Waits for a reason to look again.
    async fn wait(&mut self, wake_at: Option<Time>) {
        let until = wake_at.map_or(IDLE, |at| at.since(now()).min(IDLE));
        tokio::select! {
            // The set drops the record only when the agent ends.
            changed = self.record.changed() => if changed.is_err() { std::future::pending::<()>().await },
            changed = self.facts.changed() => if changed.is_ok() { self.retry_config() },
            changed = self.images.changed() => if changed.is_err() { std::future::pending::<()>().await },
            () = self.link.told() => {}
            Some(ended) = self.pulls.join_next() => self.end_pull(ended),
            () = tokio::time::sleep(until) => {}
        }
    }

    /// What a container refers to has changed: nobody waits for the back-off of what it lacked before.
    fn retry_config(&mut self) {
        self.memory
            .failures
            .retain(|_, failure| failure.kind != FailureKind::Config);
    }

    fn tell_step(&self, step: &PodStep, outcome: event::Outcome<'_>) {
        for event in event::of_step(&self.pod, &self.seen, step, outcome) {
            self.tell(&event);
        }
    }

    fn tell(&self, event: &event::Event) {
        let kind = if event.is_warning { Kind::Warning } else { Kind::Normal };
        self.events().add(
            self.subject(),
            kind,
            event.reason,
            event.message.clone(),
            event.field.clone(),
        );
    }

    fn warn(&self, reason: &str, message: String) {
        self.events().warning(self.subject(), reason, message);
    }

    fn events(&self) -> &Events {
        &self.node.events
    }

    fn subject(&self) -> Subject {
        Subject::Pod(self.pod.uid.as_str().into())
    }
}

/// How a step went.
enum Acted {
    Done,
    Failed,
    /// Not begun or not over; what it waits for wakes the task.
    Waiting,
}

/// The pod that a record asks for, or what is wrong with it.
pub(crate) fn accept(record: &Record, node: &Node) -> Result<DesiredPod, String> {
    let accepted = DesiredPod::accept(&record.pod, record.goal(), &node.facts, Backoffs::default());
    let mut pod = accepted.map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        format!("{}: {}", record.origin.display(), errors.join("; "))
    })?;
    pod.refusal = record.port_taken.clone().map(Refusal::NodePorts);
    Ok(pod)
}

/// The pod as a client sees it.
fn object(record: &Record, desired: &DesiredPod, status: PodStatus) -> Pod {
    let mut pod = record.pod.clone();
    pod.metadata.creation_timestamp = Some(Time::from_unix_nanos(record.accepted_at).to_k8s());
    if let Goal::Stop { since, grace } = desired.goal {
        pod.metadata.deletion_timestamp = Some(since.after(grace).to_k8s());
        pod.metadata.deletion_grace_period_seconds = i64::try_from(grace.as_secs()).ok();
    }
    if let Some(spec) = &mut pod.spec {
        spec.node_name.get_or_insert_with(|| desired.node.name.clone());
    }
    pod.status = Some(status);
    pod
}
