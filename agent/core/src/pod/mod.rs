//! One pod: [`DesiredPod`] and [`ObservedPod`] and the time in, a [`Plan`] and a `PodStatus` out. Nothing here touches
//! the world: hands in the agent perform a [`PodStep`], look again, and ask again.
//!
//! ```text
//! manifest ─► DesiredPod ─┐
//!                         ├─► plan(desired, observed, now) ─► steps, wake_at
//! the node ─► ObservedPod ┘ └► status(desired, observed, previous, now) ─► PodStatus
//! ```
//!
//! Failure is a state: what a step's error left behind is a [`StepFailure`] among the facts, and its back-off is
//! computed from it. Nobody remembers why a step was taken, so an agent that was killed simply looks again.

pub(crate) mod accept;
mod desired;
pub mod env;
pub mod event;
pub mod host_port;
mod name;
mod observed;
mod plan;
mod quantity;
mod resources;
mod restart;
#[cfg(test)]
mod sample;
pub mod spec;
mod start;
mod status;
mod step;
mod stop;
mod time;

pub use desired::*;
pub use name::{ContainerName, NameError, PodUid};
pub use observed::*;
pub use plan::{Plan, plan};
pub use quantity::{Amount, QuantityError};
pub use resources::*;
pub use spec::SpecError;
pub use status::{LIMITS_ENFORCED, status};
pub use step::{PodStep, StepKey, StepVerb};
pub use time::{Backoff, Backoffs, Time};
