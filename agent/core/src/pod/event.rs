//! Events with a kubelet's reasons and messages: from a step or a change of status to what a user reads.

use std::{collections::VecDeque, time::Duration};

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::{
    ContainerName, DesiredPod, Goal, ObservedPod, PodStep, Presence, StepVerb, Time,
    status::{LIMITS_ENFORCED, duration},
};

/// How many different events of one pod are kept; the one seen longest ago goes first.
pub const MAX_EVENTS: usize = 64;

/// One event of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether it is a warning.
    pub is_warning: bool,
    /// `Pulled`, `BackOff`, …
    pub reason: &'static str,
    /// One line.
    pub message: String,
    /// `spec.containers{name}` of the container that it is about.
    pub field: Option<String>,
}

/// How a step went.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// It is about to be performed.
    Begun,
    /// It succeeded.
    Done {
        /// How long it took.
        took: Duration,
        /// The size of the image that it pulled, in bytes; zero for other steps.
        image_bytes: u64,
    },
    /// It failed, with the whole chain of errors in one line.
    Failed(&'a str),
}

impl Event {
    fn new(
        is_warning: bool,
        reason: &'static str,
        message: impl Into<String>,
        container: Option<&ContainerName>,
    ) -> Self {
        let field = container.map(|name| format!("spec.containers{{{name}}}"));
        Self {
            is_warning,
            reason,
            message: message.into(),
            field,
        }
    }
}

/// What a step that begins, succeeds or fails tells the user. `observed` is what the step was planned from.
pub fn of_step(pod: &DesiredPod, observed: &ObservedPod, step: &PodStep, outcome: Outcome<'_>) -> Vec<Event> {
    match outcome {
        Outcome::Begun => of_beginning(pod, observed, step),
        Outcome::Done { took, image_bytes } => of_success(step, took, image_bytes).into_iter().collect(),
        Outcome::Failed(error) => of_failure(step, error),
    }
}

fn of_beginning(pod: &DesiredPod, observed: &ObservedPod, step: &PodStep) -> Vec<Event> {
    let name = step.container();
    let facts = name.and_then(|name| observed.containers.get(name));
    let normal = |reason, message: String| Event::new(false, reason, message, name);
    if let PodStep::PullImage { image, .. } = step {
        return vec![normal("Pulling", format!("Pulling image {image:?}"))];
    }
    if let PodStep::CreateContainer { container, attempt, .. } = step {
        let image = pod
            .container(container)
            .map(|container| container.image.as_str())
            .unwrap_or_default();
        let was_pulled = facts.and_then(|facts| facts.pulled) == Some(*attempt);
        let present = || {
            normal(
                "Pulled",
                format!("Container image {image:?} already present on machine"),
            )
        };
        return (!was_pulled).then(present).into_iter().collect();
    }
    let is_signalled = facts
        .and_then(|facts| facts.last())
        .is_some_and(|last| last.signalled.is_some());
    let (PodStep::SignalContainer { container, .. }, false) = (step, is_signalled) else {
        return Vec::new();
    };
    let is_sandbox_lost = pod.goal == Goal::Run && observed.namespaces != Presence::Whole;
    let lost = || {
        Event::new(
            false,
            "SandboxChanged",
            "Pod sandbox changed, it will be killed and re-created.",
            None,
        )
    };
    let killing = normal("Killing", format!("Stopping container {container}"));
    is_sandbox_lost.then(lost).into_iter().chain([killing]).collect()
}

fn of_success(step: &PodStep, took: Duration, image_bytes: u64) -> Option<Event> {
    let name = step.container();
    match step.verb() {
        StepVerb::PullImage => {
            let PodStep::PullImage { image, .. } = step else {
                return None;
            };
            let took = duration(Duration::from_millis(took.as_millis().try_into().unwrap_or(u64::MAX)));
            let message = format!(
                "Successfully pulled image {image:?} in {took} ({took} including waiting). Image size: {image_bytes} bytes."
            );
            Some(Event::new(false, "Pulled", message, name))
        }
        StepVerb::CreateContainer => Some(Event::new(false, "Created", "Container created", name)),
        StepVerb::StartContainer => Some(Event::new(false, "Started", "Container started", name)),
        StepVerb::RecordLostShim => {
            let message = "The pod's shim was lost; its containers were killed and count as ended with 137";
            Some(Event::new(true, "ShimLost", message, None))
        }
        StepVerb::SetPodCgroup
        | StepVerb::PinNamespaces
        | StepVerb::AttachNetwork
        | StepVerb::StartShim
        | StepVerb::SignalContainer
        | StepVerb::RemoveContainer
        | StepVerb::KillCgroup
        | StepVerb::StopShim
        | StepVerb::DetachNetwork
        | StepVerb::UnpinNamespaces
        | StepVerb::RemoveCgroup
        | StepVerb::RemovePod => None,
    }
}

fn of_failure(step: &PodStep, error: &str) -> Vec<Event> {
    let warn = |reason, message: String| Event::new(true, reason, message, step.container());
    match step.verb() {
        StepVerb::PullImage => {
            let PodStep::PullImage { image, .. } = step else {
                return Vec::new();
            };
            let failed = warn("Failed", format!("Failed to pull image {image:?}: {error}"));
            vec![failed, warn("Failed", "Error: ErrImagePull".to_owned())]
        }
        StepVerb::CreateContainer | StepVerb::StartContainer => vec![warn("Failed", format!("Error: {error}"))],
        StepVerb::SetPodCgroup | StepVerb::PinNamespaces | StepVerb::AttachNetwork | StepVerb::StartShim => {
            vec![warn(
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {error}"),
            )]
        }
        StepVerb::SignalContainer
        | StepVerb::RemoveContainer
        | StepVerb::KillCgroup
        | StepVerb::RecordLostShim
        | StepVerb::StopShim
        | StepVerb::DetachNetwork
        | StepVerb::UnpinNamespaces
        | StepVerb::RemoveCgroup
        | StepVerb::RemovePod => vec![warn("FailedKillPod", format!("error killing pod: {error}"))],
    }
}

/// What a change of status tells the user: back-off, an image that is never pulled, limits that can't be enforced.
pub fn of_change(pod: &DesiredPod, before: Option<&PodStatus>, after: &PodStatus) -> Vec<Event> {
    let old = before
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default();
    let new = after.container_statuses.as_deref().unwrap_or_default();
    let mut events: Vec<Event> = pod
        .containers
        .iter()
        .flat_map(|container| {
            let reason = waiting_reason(new, &container.name)?;
            (waiting_reason(old, &container.name) != Some(reason)).then(|| of_waiting(pod, &container.name, reason))
        })
        .flatten()
        .collect();
    events.extend(of_limits(before, after));
    events.extend(of_refusal(pod, before));
    events
}

fn of_refusal(pod: &DesiredPod, before: Option<&PodStatus>) -> Option<Event> {
    let refusal = pod.refusal.as_ref().filter(|_| before.is_none())?;
    Some(Event::new(true, refusal.reason(), refusal.message(), None))
}

fn waiting_reason<'a>(statuses: &'a [ContainerStatus], name: &ContainerName) -> Option<&'a str> {
    let status = statuses.iter().find(|status| status.name == name.as_str())?;
    status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

fn of_waiting(pod: &DesiredPod, name: &ContainerName, reason: &str) -> Vec<Event> {
    let image = pod
        .container(name)
        .map(|container| container.image.as_str())
        .unwrap_or_default();
    let event = |is_warning, reason, message| Event::new(is_warning, reason, message, Some(name));
    match reason {
        "ImagePullBackOff" => vec![
            event(false, "BackOff", format!("Back-off pulling image {image:?}")),
            event(true, "Failed", "Error: ImagePullBackOff".to_owned()),
        ],
        "CrashLoopBackOff" => {
            let message = format!("Back-off restarting failed container {name} in pod {}", pod.described());
            vec![event(true, "BackOff", message)]
        }
        "ErrImageNeverPull" => vec![
            event(
                true,
                "ErrImageNeverPull",
                format!("Container image {image:?} is not present with pull policy of Never"),
            ),
            event(true, "Failed", "Error: ErrImageNeverPull".to_owned()),
        ],
        _ => Vec::new(),
    }
}

fn of_limits(before: Option<&PodStatus>, after: &PodStatus) -> Option<Event> {
    let message = |status: &PodStatus| {
        let conditions = status.conditions.as_deref().unwrap_or_default();
        conditions
            .iter()
            .find(|condition| condition.type_ == LIMITS_ENFORCED)?
            .message
            .clone()
    };
    let now = message(after)?;
    (before.and_then(message).as_ref() != Some(&now)).then(|| Event::new(true, "LimitsNotEnforced", now, None))
}

/// An event and when it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What happened.
    pub event: Event,
    /// How often.
    pub count: u32,
    /// For the first time.
    pub first: Time,
    /// For the last time.
    pub last: Time,
}

/// The events of one pod, the one seen last at the end; at most [`MAX_EVENTS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventLog(VecDeque<Seen>);

impl EventLog {
    /// Adds an event, or counts it once more.
    pub fn add(&mut self, event: Event, now: Time) {
        let known = self
            .0
            .iter()
            .position(|seen| seen.event == event)
            .and_then(|index| self.0.remove(index));
        let (first, count) = known.map_or((now, 1), |seen| (seen.first, seen.count.saturating_add(1)));
        if self.0.len() >= MAX_EVENTS {
            self.0.pop_front();
        }
        self.0.push_back(Seen {
            event,
            count,
            first,
            last: now,
        });
    }

    /// The events, the one seen last at the end.
    pub fn iter(&self) -> impl Iterator<Item = &Seen> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{
        StopSignal,
        sample::{self, at, attempt, exited, name, running},
        status,
    };

    fn lines(events: &[Event]) -> Vec<String> {
        let line = |event: &Event| {
            let kind = if event.is_warning { "Warning" } else { "Normal" };
            format!("{kind} {} {}", event.reason, event.message)
        };
        events.iter().map(line).collect()
    }

    #[test]
    fn steps_tell_what_a_kubelet_tells() {
        let pod = sample::pod();
        let observed = sample::with(&pod, attempt(0, running(900)));
        let (container, attempt) = (name("app"), 0);
        let pull = PodStep::PullImage {
            container: container.clone(),
            attempt,
            image: "image".to_owned(),
        };
        let create = PodStep::CreateContainer {
            container: container.clone(),
            attempt,
            crashes: 0,
        };
        let start = PodStep::StartContainer {
            container: container.clone(),
            attempt,
        };
        let term = PodStep::SignalContainer {
            container,
            attempt,
            signal: StopSignal::Stop,
        };
        let done = Outcome::Done {
            took: Duration::from_millis(1500),
            image_bytes: 42,
        };
        let failed = Outcome::Failed("no");
        let pulled =
            "Normal Pulled Successfully pulled image \"image\" in 1.5s (1.5s including waiting). Image size: 42 bytes.";
        let refused = [
            "Warning Failed Failed to pull image \"image\": no",
            "Warning Failed Error: ErrImagePull",
        ];
        let sandbox = "Warning FailedCreatePodSandBox Failed to create pod sandbox: no";
        for (step, outcome, expected) in [
            (&pull, Outcome::Begun, vec!["Normal Pulling Pulling image \"image\""]),
            (&pull, done, vec![pulled]),
            (&pull, failed, refused.to_vec()),
            (
                &create,
                Outcome::Begun,
                vec!["Normal Pulled Container image \"image\" already present on machine"],
            ),
            (&create, done, vec!["Normal Created Container created"]),
            (&create, failed, vec!["Warning Failed Error: no"]),
            (&start, done, vec!["Normal Started Container started"]),
            (&term, Outcome::Begun, vec!["Normal Killing Stopping container app"]),
            (&term, done, vec![]),
            (&PodStep::AttachNetwork, failed, vec![sandbox]),
            (&PodStep::AttachNetwork, done, vec![]),
            (
                &PodStep::RemovePod,
                failed,
                vec!["Warning FailedKillPod error killing pod: no"],
            ),
        ] {
            assert_eq!(
                lines(&of_step(&pod, &observed, step, outcome)),
                expected,
                "{step:?} {outcome:?}"
            );
        }
    }

    #[test]
    fn a_back_off_is_told_when_it_begins() {
        let pod = sample::pod();
        let before = status(&pod, &sample::with(&pod, attempt(1, running(900))), None, at(1000));
        let after = status(
            &pod,
            &sample::with(&pod, attempt(1, exited(1, 900, 1000))),
            None,
            at(1000),
        );
        let expected = ["Warning BackOff Back-off restarting failed container app in pod web_default(uid-1)"];
        assert_eq!(lines(&of_change(&pod, Some(&before), &after)), expected);
        assert!(of_change(&pod, Some(&after), &after).is_empty());
    }

    #[test]
    fn a_log_counts_what_repeats_and_forgets_the_oldest() {
        let mut log = EventLog::default();
        let event = |number: usize| Event::new(false, "Pulled", format!("{number}"), None);
        for number in 0..MAX_EVENTS {
            log.add(event(number), at(number as u64));
        }
        log.add(event(0), at(1000));
        log.add(event(MAX_EVENTS), at(1001));
        assert_eq!(log.iter().count(), MAX_EVENTS);
        let repeated = log.iter().find(|seen| seen.event == event(0)).unwrap();
        assert_eq!((repeated.count, repeated.first, repeated.last), (2, at(0), at(1000)));
        assert!(log.iter().all(|seen| seen.event != event(1)));
    }
}
