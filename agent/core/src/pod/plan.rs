//! The plan: facts and time in, next steps out.

use super::{DesiredPod, ObservedPod, PodStep, Time};

/// What is to be done for a pod now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps whose preconditions all hold, so that none waits for another: perform the first or all of them, in order or
    /// at once, then look again. Empty when nothing is to be done before [`Self::wake_at`] or a change.
    pub steps: Vec<PodStep>,
    /// When to look again even if nothing changes.
    pub wake_at: Option<Time>,
}

/// What is to be done for the pod. Total, deterministic, and at rest once the node is as it shall be.
pub fn plan(_desired: &DesiredPod, _observed: &ObservedPod, _now: Time) -> Plan {
    Plan::default()
}
