//! The status of a pod: what a kubelet would post. The status of one container is in `container.rs`.

mod container;

use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, PodCondition, PodIP, PodStatus};

pub(super) use container::duration;

use super::{DesiredPod, Goal, ObservedPod, Presence, Refusal, RestartPolicy, Time, resources};

/// The condition that says which limits this node can't enforce; only there while there are any.
pub const LIMITS_ENFORCED: &str = "LimitsEnforced";
/// The longest message of a condition, in characters.
const MAX_MESSAGE: usize = 1024;

/// The status of the pod. `previous` is the last one that was published: its transition times are kept.
pub fn status(desired: &DesiredPod, observed: &ObservedPod, previous: Option<&PodStatus>, now: Time) -> PodStatus {
    if let Some(refusal) = &desired.refusal {
        return refused(desired, observed, refusal);
    }
    let containers: Vec<ContainerStatus> = desired
        .containers
        .iter()
        .map(|wanted| container::status(desired, wanted, observed, now))
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

/// What a kubelet posts of a pod that it rejects.
fn refused(desired: &DesiredPod, observed: &ObservedPod, refusal: &Refusal) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(refusal.reason().to_owned()),
        message: Some(format!("Pod was rejected: {}", refusal.message())),
        start_time: observed.accepted_at.map(Time::to_k8s),
        qos_class: Some(resources::qos_class(desired).as_str().to_owned()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{
        Attempt, AttemptState, Backoff, ContainerFacts, ExitRecord, FailureKind, PullPolicy, StepFailure, StepKey,
        StepVerb,
        sample::{self, at, attempt, exited, name, running},
    };
    use std::time::Duration;

    fn told(desired: &DesiredPod, observed: &ObservedPod, now: u64) -> (PodStatus, ContainerStatus) {
        let status = status(desired, observed, None, at(now));
        let container = status.container_statuses.as_ref().unwrap()[0].clone();
        (status, container)
    }

    /// The reason and message of what the first container waits for.
    fn waits(desired: &DesiredPod, observed: &ObservedPod, now: u64) -> (String, String) {
        let waiting = told(desired, observed, now).1.state.unwrap().waiting.unwrap();
        (waiting.reason.unwrap(), waiting.message.unwrap_or_default())
    }

    #[test]
    fn the_phase_follows_a_kubelets_rules() {
        use RestartPolicy::{Always, Never, OnFailure};
        let (run, ok, bad) = (running(900), exited(0, 900, 990), exited(1, 900, 990));
        let created = AttemptState::Created;
        for (policy, states, stops, expected) in [
            (Always, vec![None], false, "Pending"),
            (Always, vec![Some(&created)], false, "Pending"),
            (Always, vec![Some(&run), None], false, "Pending"),
            (Always, vec![Some(&run)], false, "Running"),
            (Always, vec![Some(&run), Some(&bad)], false, "Running"),
            (Always, vec![Some(&ok)], false, "Running"),
            (Always, vec![Some(&bad)], false, "Running"),
            (OnFailure, vec![Some(&ok)], false, "Succeeded"),
            (OnFailure, vec![Some(&bad)], false, "Running"),
            (OnFailure, vec![Some(&ok), Some(&bad)], false, "Running"),
            (Never, vec![Some(&ok), Some(&ok)], false, "Succeeded"),
            (Never, vec![Some(&ok), Some(&bad)], false, "Failed"),
            (Never, vec![Some(&run), Some(&bad)], false, "Running"),
            (Always, vec![Some(&ok)], true, "Succeeded"),
            (Always, vec![Some(&bad)], true, "Failed"),
            (OnFailure, vec![Some(&bad)], true, "Failed"),
        ] {
            let mut pod = sample::pod();
            pod.restart_policy = policy;
            pod.containers = ["a", "b"]
                .iter()
                .take(states.len())
                .map(|name| sample::container(name))
                .collect();
            if stops {
                pod.goal = Goal::Stop {
                    since: at(990),
                    grace: Duration::from_secs(30),
                };
            }
            let mut observed = sample::ready(&pod);
            for (container, state) in pod.containers.iter().zip(&states) {
                let attempts = state.iter().map(|&state| attempt(0, state.clone())).collect();
                let facts = ContainerFacts {
                    attempts,
                    ..ContainerFacts::default()
                };
                observed.containers.insert(container.name.clone(), facts);
            }
            let found = told(&pod, &observed, 1000).0.phase;
            assert_eq!(found.as_deref(), Some(expected), "{policy:?} {states:?} stops {stops}");
        }
    }

    #[test]
    fn a_pod_that_is_refused_has_failed_with_the_reason() {
        let mut pod = sample::pod();
        pod.refusal = Some(Refusal::NodePorts("port 80/TCP is pod default/a's".into()));
        let status = status(&pod, &ObservedPod::default(), None, at(1000));
        assert_eq!(
            (status.phase.as_deref(), status.reason.as_deref()),
            (Some("Failed"), Some("NodePorts"))
        );
        let message = "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested \
                       pod ports: port 80/TCP is pod default/a's";
        assert_eq!(status.message.as_deref(), Some(message));
        assert!(status.container_statuses.is_none() && status.conditions.is_none());
    }

    #[test]
    fn a_running_pod_is_ready() {
        let mut pod = sample::pod();
        pod.node.addresses = vec!["192.0.2.1".parse().unwrap()];
        let (status, container) = told(&pod, &sample::with(&pod, attempt(2, running(900))), 1000);
        let conditions = status.conditions.unwrap();
        assert!(
            conditions.iter().all(|condition| condition.status == "True"),
            "{conditions:?}"
        );
        let kinds: Vec<&str> = conditions.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(
            kinds,
            [
                "PodReadyToStartContainers",
                "Initialized",
                "Ready",
                "ContainersReady",
                "PodScheduled"
            ]
        );
        assert_eq!(
            (status.pod_ip.as_deref(), status.host_ip.as_deref()),
            (Some("10.244.0.5"), Some("192.0.2.1"))
        );
        assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
        assert_eq!(
            (container.ready, container.started, container.restart_count),
            (true, Some(true), 2)
        );
        assert_eq!(container.container_id.as_deref(), Some("orlop://uid-1.app.2"));
        assert_eq!(container.image_id, "r@sha256:2");
    }

    #[test]
    fn a_crash_loop_says_how_long_it_waits_and_what_came_before() {
        let pod = sample::pod();
        let observed = sample::with(&pod, attempt(3, exited(7, 900, 1000)));
        let expected = "back-off 40s restarting failed container=app pod=web_default(uid-1)";
        assert_eq!(
            waits(&pod, &observed, 1001),
            ("CrashLoopBackOff".to_owned(), expected.to_owned())
        );
        let (status, container) = told(&pod, &observed, 1001);
        let last = container.last_state.unwrap().terminated.unwrap();
        assert_eq!((last.exit_code, last.reason.as_deref()), (7, Some("Error")));
        assert_eq!(status.phase.as_deref(), Some("Running"));
        let conditions = status.conditions.unwrap();
        assert_eq!(conditions[2].reason.as_deref(), Some("ContainersNotReady"));
        assert_eq!(
            conditions[2].message.as_deref(),
            Some("containers with unready status: [app]")
        );
    }

    #[test]
    fn what_keeps_a_container_waiting_is_named() {
        let failed = |verb, kind| {
            let failure = StepFailure {
                at: at(1000),
                count: 1,
                kind,
                message: "no such thing".to_owned(),
            };
            (StepKey::container(verb, &name("app")), failure)
        };
        let backoff = "Back-off pulling image \"image\": ErrImagePull: no such thing";
        for (verb, kind, now, reason, message) in [
            (
                StepVerb::PullImage,
                FailureKind::Step,
                1000,
                "ErrImagePull",
                "no such thing",
            ),
            (
                StepVerb::PullImage,
                FailureKind::Step,
                1005,
                "ImagePullBackOff",
                backoff,
            ),
            (
                StepVerb::PullImage,
                FailureKind::ImageName,
                1000,
                "InvalidImageName",
                "Failed to apply default image tag \"image\": no such thing",
            ),
            (
                StepVerb::CreateContainer,
                FailureKind::Config,
                1000,
                "CreateContainerConfigError",
                "no such thing",
            ),
            (
                StepVerb::CreateContainer,
                FailureKind::Step,
                1000,
                "CreateContainerError",
                "no such thing",
            ),
            (
                StepVerb::CreateContainer,
                FailureKind::ImageInspect,
                1000,
                "ImageInspectError",
                "no such thing",
            ),
            (
                StepVerb::StartContainer,
                FailureKind::Step,
                1000,
                "RunContainerError",
                "no such thing",
            ),
            (StepVerb::RemovePod, FailureKind::Step, 1000, "ContainerCreating", ""),
        ] {
            let pod = sample::pod();
            let mut observed = sample::ready(&pod);
            observed.failures.extend([failed(verb, kind)]);
            assert_eq!(
                waits(&pod, &observed, now),
                (reason.to_owned(), message.to_owned()),
                "{verb:?} {kind:?}"
            );
        }
    }

    #[test]
    fn an_image_that_is_never_pulled_is_named() {
        let mut pod = sample::pod();
        pod.containers[0].pull_policy = PullPolicy::Never;
        let mut observed = sample::ready(&pod);
        observed.images.clear();
        let message = "Container image \"image\" is not present with pull policy of Never";
        assert_eq!(
            waits(&pod, &observed, 1000),
            ("ErrImageNeverPull".to_owned(), message.to_owned())
        );
    }

    #[test]
    fn an_end_is_named_by_what_caused_it() {
        let end = |exit_code, oom_killed, reason: Option<&str>| ExitRecord {
            exit_code,
            oom_killed,
            reason: reason.map(str::to_owned),
            ..ExitRecord::default()
        };
        for (exit, expected) in [
            (end(0, false, None), "Completed"),
            (end(1, false, None), "Error"),
            (end(137, true, None), "OOMKilled"),
            (end(137, false, Some("ShimLost")), "ShimLost"),
            (end(128, false, Some("StartError")), "StartError"),
        ] {
            let mut pod = sample::pod();
            pod.restart_policy = RestartPolicy::Never;
            let observed = sample::with(&pod, attempt(0, AttemptState::Exited(exit)));
            let ended = told(&pod, &observed, 1000).1.state.unwrap().terminated.unwrap();
            assert_eq!(ended.reason.as_deref(), Some(expected));
        }
    }

    #[test]
    fn the_attempt_before_is_the_last_state_of_a_running_one() {
        let pod = sample::pod();
        let mut observed = sample::with(&pod, attempt(0, exited(5, 900, 950)));
        let second: Attempt = attempt(1, running(960));
        observed.containers.get_mut(&name("app")).unwrap().attempts.push(second);
        let container = told(&pod, &observed, 1000).1;
        assert_eq!(container.last_state.unwrap().terminated.unwrap().exit_code, 5);
        assert_eq!(container.restart_count, 1);
    }

    #[test]
    fn transition_times_stay_until_a_condition_changes() {
        let pod = sample::pod();
        let up = sample::with(&pod, attempt(0, running(900)));
        let first = status(&pod, &up, None, at(1000));
        let second = status(&pod, &up, Some(&first), at(2000));
        assert_eq!(first.conditions, second.conditions);
        let down = sample::with(&pod, attempt(3, exited(1, 900, 2900)));
        let third = status(&pod, &down, Some(&second), at(3000)).conditions.unwrap();
        let second = second.conditions.unwrap();
        assert_eq!(third[0].last_transition_time, second[0].last_transition_time);
        assert_ne!(third[2].last_transition_time, second[2].last_transition_time);
    }

    #[test]
    fn limits_that_are_not_enforced_are_told() {
        let pod = sample::pod();
        let mut observed = sample::ready(&pod);
        observed.unenforced = vec![
            "memory.max: no memory controller".to_owned(),
            "cpu.max: no cpu controller".to_owned(),
        ];
        let conditions = told(&pod, &observed, 1000).0.conditions.unwrap();
        let last = conditions.last().unwrap();
        assert_eq!((last.type_.as_str(), last.status.as_str()), (LIMITS_ENFORCED, "False"));
        let expected = "memory.max: no memory controller; cpu.max: no cpu controller";
        assert_eq!(last.message.as_deref(), Some(expected));
    }

    #[test]
    fn durations_print_as_in_go() {
        for (millis, expected) in [
            (0, "0s"),
            (100, "100ms"),
            (1500, "1.5s"),
            (10_000, "10s"),
            (80_000, "1m20s"),
            (300_000, "5m0s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), expected);
        }
        let mut pod = sample::pod();
        pod.backoffs.restart = Backoff {
            base: Duration::from_millis(50),
            cap: Duration::from_secs(1),
        };
        let observed = sample::with(&pod, attempt(1, exited(7, 999, 1000)));
        assert!(waits(&pod, &observed, 1000).1.starts_with("back-off 50ms restarting"));
    }
}
