//! Whether a container that has ended starts again, and when: the restart policy and the crash-loop back-off.

use std::time::Duration;

use super::{Attempt, AttemptState, Backoff, ContainerFacts, DesiredPod, ExitRecord, ObservedPod, RestartPolicy, Time};

/// What comes next for a container without a live attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: it has run to its end.
    Stay,
    /// It starts again, not before this moment.
    Wait {
        /// When the back-off is over.
        until: Time,
        /// As in [`Self::Start`].
        crashes: u32,
    },
    /// It starts.
    Start {
        /// How many ends in a row came before ([`Attempt::crashes`]).
        crashes: u32,
    },
}

/// What comes next for a container whose last attempt is not live.
pub(super) fn next(pod: &DesiredPod, facts: &ContainerFacts, now: Time) -> Next {
    let Some(last) = facts.last() else {
        return Next::Start { crashes: 0 };
    };
    let AttemptState::Exited(exit) = &last.state else {
        return Next::Stay;
    };
    if !restarts(pod.restart_policy, exit) {
        return Next::Stay;
    }
    let crashes = crashes(last, exit, pod.backoffs.restart);
    match now.waits_until(exit.finished_at, delay(crashes, pod.backoffs.restart)) {
        Some(until) => Next::Wait { until, crashes },
        None => Next::Start { crashes },
    }
}

/// Whether the policy starts a container again after this end.
pub(super) fn restarts(policy: RestartPolicy, exit: &ExitRecord) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit.exit_code != 0,
        RestartPolicy::Never => false,
    }
}

/// Whether every container has run to its end and none starts again.
pub(super) fn is_finished(pod: &DesiredPod, observed: &ObservedPod) -> bool {
    pod.containers.iter().all(|container| {
        let last = observed.containers.get(&container.name).and_then(ContainerFacts::last);
        match last.map(|attempt| &attempt.state) {
            Some(AttemptState::Exited(exit)) => !restarts(pod.restart_policy, exit),
            Some(AttemptState::Created | AttemptState::Running { .. }) | None => false,
        }
    })
}

/// The wait before the start that follows `crashes` ends in a row: the first restart comes at once, as a kubelet's does.
pub(super) fn delay(crashes: u32, backoff: Backoff) -> Duration {
    backoff.delay(crashes.saturating_sub(1))
}

/// The ends in a row, this one included. A run longer than twice the longest wait starts the count anew.
fn crashes(last: &Attempt, exit: &ExitRecord, backoff: Backoff) -> u32 {
    let ran = exit
        .started_at
        .map_or(Duration::ZERO, |start| exit.finished_at.since(start));
    if ran > backoff.cap * 2 {
        1
    } else {
        last.crashes.saturating_add(1)
    }
}
