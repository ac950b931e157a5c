//! The status of one container, with a kubelet's reasons and messages.

use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
};

use crate::pod::{
    Attempt, AttemptState, ContainerFacts, DesiredContainer, DesiredPod, ExitRecord, FailureKind, Goal, ObservedPod,
    PullPolicy, StepFailure, StepKey, StepVerb, Time,
    restart::{self, Next},
};

/// The status of one container.
pub(super) fn status(
    desired: &DesiredPod,
    container: &DesiredContainer,
    observed: &ObservedPod,
    now: Time,
) -> ContainerStatus {
    let none = ContainerFacts::default();
    let facts = observed.containers.get(&container.name).unwrap_or(&none);
    let (last, before) = match facts.attempts.split_last() {
        Some((last, earlier)) => (Some(last), earlier.last()),
        None => (None, None),
    };
    let state = state(desired, container, observed, facts, now);
    let is_running = state.running.is_some();
    let shows_last = state.terminated.is_some() || last.is_some_and(|last| last.state.is_live());
    let ended = if shows_last { before } else { last };
    let number = last.map(|last| last.number).max(facts.last_log).unwrap_or(0);
    ContainerStatus {
        name: container.name.to_string(),
        image: container.image.clone(),
        image_id: last.map(|last| last.image.clone()).unwrap_or_default(),
        container_id: last.map(|last| id(desired, container, last)),
        restart_count: i32::try_from(number).unwrap_or(i32::MAX),
        ready: is_running,
        started: Some(is_running),
        last_state: Some(
            ended
                .and_then(|ended| terminated(desired, container, ended))
                .unwrap_or_default(),
        ),
        state: Some(state),
        ..ContainerStatus::default()
    }
}

/// `orlop://<uid>.<container>.<attempt>`: neither a uid nor a name holds a dot.
fn id(desired: &DesiredPod, container: &DesiredContainer, attempt: &Attempt) -> String {
    format!("orlop://{}.{}.{}", desired.uid, container.name, attempt.number)
}

fn state(
    desired: &DesiredPod,
    container: &DesiredContainer,
    observed: &ObservedPod,
    facts: &ContainerFacts,
    now: Time,
) -> ContainerState {
    let Some(last) = facts.last() else {
        return waiting(trouble(desired, container, observed, now));
    };
    match &last.state {
        AttemptState::Running { started_at } => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(started_at.to_k8s()),
            }),
            ..ContainerState::default()
        },
        AttemptState::Created => waiting(trouble(desired, container, observed, now)),
        AttemptState::Exited(_) => {
            let ended = || terminated(desired, container, last).unwrap_or_default();
            match (desired.goal, restart::next(desired, facts, now)) {
                (Goal::Stop { .. }, _) | (Goal::Run, Next::Stay) => ended(),
                (Goal::Run, Next::Wait { crashes, .. }) => waiting(Some(crash_loop(desired, container, crashes))),
                (Goal::Run, Next::Start { .. }) => match trouble(desired, container, observed, now) {
                    Some(trouble) => waiting(Some(trouble)),
                    None => ended(),
                },
            }
        }
    }
}

/// A reason and a message.
type Trouble = (&'static str, String);

fn waiting(trouble: Option<Trouble>) -> ContainerState {
    let (reason, message) = trouble.map_or(("ContainerCreating", None), |(reason, message)| (reason, Some(message)));
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message,
    };
    ContainerState {
        waiting: Some(waiting),
        ..ContainerState::default()
    }
}

fn crash_loop(desired: &DesiredPod, container: &DesiredContainer, crashes: u32) -> Trouble {
    let wait = duration(restart::delay(crashes, desired.backoffs.restart));
    let (name, pod) = (&container.name, desired.described());
    (
        "CrashLoopBackOff",
        format!("back-off {wait} restarting failed container={name} pod={pod}"),
    )
}

/// What keeps the container from its next start, when that is more than time.
fn trouble(desired: &DesiredPod, container: &DesiredContainer, observed: &ObservedPod, now: Time) -> Option<Trouble> {
    let failure = |verb| observed.failures.get(&StepKey::container(verb, &container.name));
    if is_never_pulled(container, observed) {
        let message = format!(
            "Container image {:?} is not present with pull policy of Never",
            container.image
        );
        return Some(("ErrImageNeverPull", message));
    }
    if let Some(failure) = failure(StepVerb::PullImage) {
        return Some(pull_trouble(desired, container, failure, now));
    }
    if let Some(failure) = failure(StepVerb::CreateContainer) {
        let reason = match failure.kind {
            FailureKind::Config => "CreateContainerConfigError",
            FailureKind::ImageName => "InvalidImageName",
            FailureKind::ImageInspect => "ImageInspectError",
            FailureKind::Step => "CreateContainerError",
        };
        return Some((reason, failure.message.clone()));
    }
    failure(StepVerb::StartContainer).map(|failure| ("RunContainerError", failure.message.clone()))
}

fn is_never_pulled(container: &DesiredContainer, observed: &ObservedPod) -> bool {
    container.pull_policy == PullPolicy::Never && !observed.images.contains_key(&container.image)
}

fn pull_trouble(desired: &DesiredPod, container: &DesiredContainer, failure: &StepFailure, now: Time) -> Trouble {
    let (image, message) = (&container.image, &failure.message);
    if failure.kind == FailureKind::ImageName {
        return (
            "InvalidImageName",
            format!("Failed to apply default image tag {image:?}: {message}"),
        );
    }
    match failure.shows_until(now, desired.backoffs.pull) {
        Some(_) => ("ErrImagePull", message.clone()),
        None => (
            "ImagePullBackOff",
            format!("Back-off pulling image {image:?}: ErrImagePull: {message}"),
        ),
    }
}

/// The state of an attempt that has ended; none for one that is live.
fn terminated(desired: &DesiredPod, container: &DesiredContainer, attempt: &Attempt) -> Option<ContainerState> {
    let AttemptState::Exited(exit) = &attempt.state else {
        return None;
    };
    let ended = ContainerStateTerminated {
        container_id: Some(id(desired, container, attempt)),
        exit_code: exit.exit_code,
        signal: None,
        reason: Some(exit_reason(exit).to_owned()),
        message: exit.message.clone(),
        started_at: exit.started_at.map(Time::to_k8s),
        finished_at: Some(exit.finished_at.to_k8s()),
    };
    Some(ContainerState {
        terminated: Some(ended),
        ..ContainerState::default()
    })
}

/// What a user reads about an end, as containerd names it. The signal is in the exit code, as there.
fn exit_reason(exit: &ExitRecord) -> &str {
    match &exit.reason {
        Some(reason) => reason,
        None if exit.oom_killed => "OOMKilled",
        None if exit.exit_code == 0 => "Completed",
        None => "Error",
    }
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`, `100ms`.
pub(crate) fn duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    if seconds == 0 {
        return match nanos {
            0 => "0s".to_owned(),
            1..1_000 => format!("{nanos}ns"),
            1_000..1_000_000 => format!("{}µs", f64::from(nanos) / 1e3),
            _ => format!("{}ms", f64::from(nanos) / 1e6),
        };
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let fraction = format!("{nanos:09}");
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let rest = format!("{}{point}{fraction}s", seconds % 60);
    match (hours, minutes) {
        (0, 0) => rest,
        (0, minutes) => format!("{minutes}m{rest}"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
    }
}
