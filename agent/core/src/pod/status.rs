//! The status of a pod: what a kubelet would post. The status of one container is in `status_container.rs`.

use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, PodCondition, PodIP, PodStatus};

use super::{DesiredPod, Goal, ObservedPod, Presence, RestartPolicy, Time, resources, status_container};

/// The condition that says which limits this node can't enforce; only there while there are any.
pub const LIMITS_ENFORCED: &str = "LimitsEnforced";
/// The longest message of a condition, in characters.
const MAX_MESSAGE: usize = 1024;

/// The status of the pod. `previous` is the last one that was published: its transition times are kept.
pub fn status(desired: &DesiredPod, observed: &ObservedPod, previous: Option<&PodStatus>, now: Time) -> PodStatus {
    let containers: Vec<ContainerStatus> = desired
        .containers
        .iter()
        .map(|container| status_container::status(desired, container, observed, now))
        .collect();
    let phase = phase(desired, &containers);
    let texts = |addresses: &[std::net::IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (host_ips, pod_ips) = (texts(&desired.node.addresses), texts(pod_addresses(desired, observed)));
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions(desired, observed, phase, &containers, previous, now)),
        start_time: observed.accepted_at.map(Time::to_k8s),
        host_ip: host_ips.first().cloned(),
        host_ips: some(host_ips.into_iter().map(|ip| HostIP { ip }).collect()),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: some(pod_ips.into_iter().map(|ip| PodIP { ip }).collect()),
        qos_class: Some(resources::qos_class(desired).as_str().to_owned()),
        container_statuses: Some(containers),
        ..PodStatus::default()
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

fn pod_addresses<'a>(desired: &'a DesiredPod, observed: &'a ObservedPod) -> &'a [std::net::IpAddr] {
    let is_up = observed.namespaces == Presence::Whole;
    match &observed.network {
        _ if desired.host_network && is_up => &desired.node.addresses,
        Some(addresses) => addresses,
        None => &[],
    }
}

/// A kubelet's rules (`getPhase`): what has not run yet makes a pod pending, what runs or will run again makes it
/// running, and what ended for good decides between the last two.
fn phase(desired: &DesiredPod, containers: &[ContainerStatus]) -> &'static str {
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for container in containers {
        let state = container.state.as_ref();
        let ended_before = container
            .last_state
            .as_ref()
            .is_some_and(|last| last.terminated.is_some());
        match state.and_then(|state| state.terminated.as_ref()) {
            _ if state.is_some_and(|state| state.running.is_some()) => running += 1,
            Some(ended) => {
                stopped += 1;
                succeeded += usize::from(ended.exit_code == 0);
            }
            None if ended_before => stopped += 1,
            None => waiting += 1,
        }
    }
    let ends = matches!(desired.goal, Goal::Stop { .. });
    match desired.restart_policy {
        _ if waiting > 0 => "Pending",
        _ if running > 0 => "Running",
        RestartPolicy::Always if !ends => "Running",
        _ if stopped == succeeded => "Succeeded",
        RestartPolicy::Never => "Failed",
        RestartPolicy::Always | RestartPolicy::OnFailure if ends => "Failed",
        RestartPolicy::Always | RestartPolicy::OnFailure => "Running",
    }
}

/// A condition before it has its transition time.
struct Condition {
    kind: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Condition {
    fn plain(kind: &'static str, holds: bool) -> Self {
        Self {
            kind,
            holds,
            reason: None,
            message: None,
        }
    }

    /// With the transition time of the previous condition, unless it said otherwise.
    fn dated(self, previous: Option<&PodStatus>, now: Time) -> PodCondition {
        let status = if self.holds { "True" } else { "False" };
        let before = previous.and_then(|status| status.conditions.as_ref());
        let same = before.and_then(|all| all.iter().find(|old| old.type_ == self.kind && old.status == status));
        let since = same
            .and_then(|old| old.last_transition_time.clone())
            .unwrap_or_else(|| now.to_k8s());
        PodCondition {
            type_: self.kind.to_owned(),
            status: status.to_owned(),
            reason: self.reason.map(str::to_owned),
            message: self.message,
            last_transition_time: Some(since),
            ..PodCondition::default()
        }
    }
}

fn conditions(
    desired: &DesiredPod,
    observed: &ObservedPod,
    phase: &str,
    containers: &[ContainerStatus],
    previous: Option<&PodStatus>,
    now: Time,
) -> Vec<PodCondition> {
    let is_up = observed.namespaces == Presence::Whole && (desired.host_network || observed.network.is_some());
    let completed = (phase == "Succeeded").then_some("PodCompleted");
    let initialized = Condition {
        reason: completed,
        ..Condition::plain("Initialized", true)
    };
    let all = [
        Condition::plain("PodReadyToStartContainers", is_up),
        initialized,
        readiness("Ready", phase, containers),
        readiness("ContainersReady", phase, containers),
        Condition::plain("PodScheduled", true),
    ];
    all.into_iter()
        .chain(unenforced(observed))
        .map(|condition| condition.dated(previous, now))
        .collect()
}

/// Ready is what runs: there are no probes yet.
fn readiness(kind: &'static str, phase: &str, containers: &[ContainerStatus]) -> Condition {
    let unready: Vec<&str> = containers
        .iter()
        .filter(|c| !c.ready)
        .map(|c| c.name.as_str())
        .collect();
    match phase {
        "Succeeded" => Condition {
            reason: Some("PodCompleted"),
            ..Condition::plain(kind, false)
        },
        "Failed" => Condition {
            reason: Some("PodFailed"),
            ..Condition::plain(kind, false)
        },
        _ if unready.is_empty() => Condition::plain(kind, true),
        _ => Condition {
            reason: Some("ContainersNotReady"),
            message: Some(format!("containers with unready status: [{}]", unready.join(" "))),
            ..Condition::plain(kind, false)
        },
    }
}

fn unenforced(observed: &ObservedPod) -> Option<Condition> {
    let text: String = observed.unenforced.join("; ").chars().take(MAX_MESSAGE).collect();
    (!observed.unenforced.is_empty()).then(|| Condition {
        reason: Some("NotSupportedByNode"),
        message: Some(text),
        ..Condition::plain(LIMITS_ENFORCED, false)
    })
}
