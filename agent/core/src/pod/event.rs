//! Events with a kubelet's reasons and messages, from what happened to what a user reads.

use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;

use super::{DesiredPod, PodStep};

/// How many different events of one pod are kept; the oldest goes first.
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

/// What a step that begins, succeeds or fails tells the user.
pub fn of_step(_pod: &DesiredPod, _step: &PodStep, _outcome: Outcome<'_>) -> Option<Event> {
    None
}

/// What a change of status tells the user: back-off, a lost shim, limits that can't be enforced.
pub fn of_change(_pod: &DesiredPod, _before: Option<&PodStatus>, _after: &PodStatus) -> Vec<Event> {
    Vec::new()
}
