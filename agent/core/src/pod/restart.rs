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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::sample::{self, at, attempt, exited};

    fn after(number: u32, state: AttemptState) -> ContainerFacts {
        ContainerFacts {
            attempts: vec![attempt(number, state)],
            ..ContainerFacts::default()
        }
    }

    #[test]
    fn the_policy_decides_who_starts_again() {
        for (policy, code, starts) in [
            (RestartPolicy::Always, 0, true),
            (RestartPolicy::Always, 1, true),
            (RestartPolicy::OnFailure, 0, false),
            (RestartPolicy::OnFailure, 137, true),
            (RestartPolicy::Never, 0, false),
            (RestartPolicy::Never, 1, false),
        ] {
            let mut pod = sample::pod();
            pod.restart_policy = policy;
            let next = next(&pod, &after(0, exited(code, 1000, 1001)), at(9999));
            assert_eq!(next != Next::Stay, starts, "{policy:?} after {code}");
        }
    }

    #[test]
    fn the_wait_doubles_with_every_end_as_in_a_kubelet() {
        let pod = sample::pod();
        for (number, wait) in [
            (0, 0),
            (1, 10),
            (2, 20),
            (3, 40),
            (4, 80),
            (5, 160),
            (6, 300),
            (7, 300),
            (99, 300),
        ] {
            let facts = after(number, exited(1, 1000, 1001));
            let expected = match wait {
                0 => Next::Start { crashes: number + 1 },
                _ => Next::Wait {
                    until: at(1001 + wait),
                    crashes: number + 1,
                },
            };
            assert_eq!(next(&pod, &facts, at(1001)), expected, "after attempt {number}");
            assert_eq!(next(&pod, &facts, at(1001 + wait)), Next::Start { crashes: number + 1 });
        }
    }

    #[test]
    fn a_run_of_more_than_ten_minutes_starts_the_count_anew() {
        let pod = sample::pod();
        let ran = |seconds: u64| next(&pod, &after(5, exited(1, 1000, 1000 + seconds)), at(1000 + seconds));
        assert_eq!(
            ran(600),
            Next::Wait {
                until: at(1760),
                crashes: 6
            }
        );
        assert_eq!(ran(601), Next::Start { crashes: 1 });
    }

    #[test]
    fn what_is_live_stays_and_what_never_ran_starts() {
        let pod = sample::pod();
        assert_eq!(
            next(&pod, &ContainerFacts::default(), at(0)),
            Next::Start { crashes: 0 }
        );
        assert_eq!(next(&pod, &after(3, AttemptState::Created), at(0)), Next::Stay);
        assert_eq!(next(&pod, &after(3, sample::running(5)), at(0)), Next::Stay);
    }
}
