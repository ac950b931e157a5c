//! The plan: facts and time in, next steps out. Here stands what a pod needs next as a whole; how containers start is in
//! `start.rs`, how they end and what is taken down after them in `stop.rs`.

use super::{DesiredPod, Goal, ObservedPod, PodStep, ShimState, StepKey, StepVerb, Time, restart};

/// What is to be done for a pod now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps whose preconditions all hold, so that none waits for another: perform the first or all of them, in order or
    /// at once, then look again. Empty when nothing is to be done before [`Self::wake_at`] or a change.
    pub steps: Vec<PodStep>,
    /// When to look again even if nothing changes; always later than now.
    pub wake_at: Option<Time>,
}

/// What is to be done for the pod. Total, deterministic, and at rest once the node is as it shall be: then the plan is
/// empty and has no time to wake.
pub fn plan(desired: &DesiredPod, observed: &ObservedPod, now: Time) -> Plan {
    let mut draft = Draft {
        desired,
        observed,
        now,
        plan: Plan::default(),
    };
    match desired.goal {
        Goal::Run | Goal::Stop { .. } if is_shim_lost(observed) => draft.recover(),
        Goal::Run if restart::is_finished(desired, observed) => draft.finish(),
        Goal::Run => draft.run(),
        Goal::Stop { since, grace } => draft.stop(since, grace),
    }
    draft.plan
}

/// A shim that does not answer, or none where a container still counts as live.
fn is_shim_lost(observed: &ObservedPod) -> bool {
    match observed.shim {
        ShimState::Running => false,
        ShimState::Lost => true,
        ShimState::Absent => observed.has_live_attempts(),
    }
}

/// A plan in the making.
pub(super) struct Draft<'a> {
    pub(super) desired: &'a DesiredPod,
    pub(super) observed: &'a ObservedPod,
    pub(super) now: Time,
    plan: Plan,
}

impl Draft<'_> {
    /// Adds a step, unless its last failure is still waited out; says whether it was added.
    pub(super) fn offer(&mut self, step: PodStep) -> bool {
        if self.is_waited_out(&step.key()) {
            return false;
        }
        self.plan.steps.push(step);
        true
    }

    /// Looks again at `until` at the latest.
    pub(super) fn wake(&mut self, until: Time) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(until, |earlier| earlier.min(until)));
    }

    /// Whether the last failure of the step is still waited out; if so, for the end of that the plan wakes, and for the
    /// moment from which the status of a pull names the wait instead of the error.
    fn is_waited_out(&mut self, key: &StepKey) -> bool {
        let Some(failure) = self.observed.failures.get(key) else {
            return false;
        };
        let backoff = self.desired.backoffs.of(key.verb);
        let Some(until) = self.now.waits_until(failure.at, backoff.delay(failure.count)) else {
            return false;
        };
        self.wake(until);
        if let Some(until) = failure
            .shows_until(self.now, backoff)
            .filter(|_| key.verb == StepVerb::PullImage)
        {
            self.wake(until);
        }
        true
    }

    /// Ends what a dead shim left behind: first every process, then the records.
    fn recover(&mut self) {
        let populated = self.observed.cgroup.is_some_and(|cgroup| cgroup.populated);
        self.offer(if populated {
            PodStep::KillCgroup
        } else {
            PodStep::RecordLostShim
        });
    }
}
