//! The steps that a plan is made of. Every step may be repeated, cut short and repeated again; hands do no more than it
//! says.

use serde::{Deserialize, Serialize};

use super::{ContainerName, DesiredPod, PodCgroup, StopSignal};

/// One step for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodStep {
    /// Make the pod's cgroup and write these limits; what the host can't enforce is reported, not an error.
    SetPodCgroup(PodCgroup),
    /// Pin the namespaces that the containers share.
    PinNamespaces {
        /// Set in the pod's uts namespace. None on the host network: then only ipc is pinned.
        hostname: Option<String>,
    },
    /// Attach the pinned network namespace to the pod network.
    AttachNetwork,
    /// Bind the pod's socket and start its shim.
    StartShim,
    /// Have the image complete in the store; ask the registry even when it is there already.
    PullImage {
        /// For which container.
        container: ContainerName,
        /// For which attempt of it: becomes [`super::ContainerFacts::pulled`].
        attempt: u32,
        /// As the pod names it.
        image: String,
    },
    /// Set an attempt up, so that only its start is missing.
    CreateContainer {
        /// Which container.
        container: ContainerName,
        /// Its number.
        attempt: u32,
        /// How many ends in a row came before; goes into the spec's annotations.
        crashes: u32,
    },
    /// Start an attempt that is set up.
    StartContainer {
        /// Which container.
        container: ContainerName,
        /// Its number.
        attempt: u32,
    },
    /// Send a signal to the attempt's first process; no error when it is gone.
    SignalContainer {
        /// Which container.
        container: ContainerName,
        /// Its number.
        attempt: u32,
        /// Which signal.
        signal: StopSignal,
    },
    /// Remove an attempt that has ended: its record, its layer, its cgroup; not its log.
    RemoveContainer {
        /// Which container.
        container: ContainerName,
        /// Its number.
        attempt: u32,
    },
    /// Kill everything in the pod's cgroup and wait, bounded, until it is empty.
    KillCgroup,
    /// The shim is dead and the cgroup empty: write an exit record (137, `ShimLost`) for every attempt without one, and
    /// remove the dead shim's socket.
    RecordLostShim,
    /// Let the shim end; it has no live container.
    StopShim,
    /// Detach the pod from the network and give its addresses back.
    DetachNetwork,
    /// Unpin the pod's namespaces.
    UnpinNamespaces,
    /// Remove the pod's cgroup and those below it; all are empty.
    RemoveCgroup,
    /// Remove every directory of the pod, logs included. The last step.
    RemovePod,
}

/// The kind of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each names the step of the same name")]
pub enum StepVerb {
    SetPodCgroup,
    PinNamespaces,
    AttachNetwork,
    StartShim,
    PullImage,
    CreateContainer,
    StartContainer,
    SignalContainer,
    RemoveContainer,
    KillCgroup,
    RecordLostShim,
    StopShim,
    DetachNetwork,
    UnpinNamespaces,
    RemoveCgroup,
    RemovePod,
}

/// What a failure is counted under: the same step for another attempt goes on with the same back-off.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepKey {
    /// The kind of step.
    pub verb: StepVerb,
    /// The container, for the steps of one.
    pub container: Option<ContainerName>,
}

impl StepKey {
    /// The key of a step of the pod as a whole.
    pub const fn pod(verb: StepVerb) -> Self {
        Self { verb, container: None }
    }

    /// The key of a step of one container.
    pub fn container(verb: StepVerb, container: &ContainerName) -> Self {
        Self {
            verb,
            container: Some(container.clone()),
        }
    }
}

impl PodStep {
    /// What a failure of this step is counted under.
    pub fn key(&self) -> StepKey {
        StepKey {
            verb: self.verb(),
            container: self.container().cloned(),
        }
    }

    /// Whether the step fixes variables that tell of Services: those of a container are fixed with it, so that one that is
    /// made before the Services have addresses would lack them for ever.
    pub const fn takes_services(&self, pod: &DesiredPod) -> bool {
        matches!(self, Self::CreateContainer { .. }) && pod.enable_service_links
    }

    /// The kind of this step.
    pub const fn verb(&self) -> StepVerb {
        match self {
            Self::SetPodCgroup(_) => StepVerb::SetPodCgroup,
            Self::PinNamespaces { .. } => StepVerb::PinNamespaces,
            Self::AttachNetwork => StepVerb::AttachNetwork,
            Self::StartShim => StepVerb::StartShim,
            Self::PullImage { .. } => StepVerb::PullImage,
            Self::CreateContainer { .. } => StepVerb::CreateContainer,
            Self::StartContainer { .. } => StepVerb::StartContainer,
            Self::SignalContainer { .. } => StepVerb::SignalContainer,
            Self::RemoveContainer { .. } => StepVerb::RemoveContainer,
            Self::KillCgroup => StepVerb::KillCgroup,
            Self::RecordLostShim => StepVerb::RecordLostShim,
            Self::StopShim => StepVerb::StopShim,
            Self::DetachNetwork => StepVerb::DetachNetwork,
            Self::UnpinNamespaces => StepVerb::UnpinNamespaces,
            Self::RemoveCgroup => StepVerb::RemoveCgroup,
            Self::RemovePod => StepVerb::RemovePod,
        }
    }

    /// The container that this step is about.
    pub const fn container(&self) -> Option<&ContainerName> {
        match self {
            Self::PullImage { container, .. }
            | Self::CreateContainer { container, .. }
            | Self::StartContainer { container, .. }
            | Self::SignalContainer { container, .. }
            | Self::RemoveContainer { container, .. } => Some(container),
            Self::SetPodCgroup(_)
            | Self::PinNamespaces { .. }
            | Self::AttachNetwork
            | Self::StartShim
            | Self::KillCgroup
            | Self::RecordLostShim
            | Self::StopShim
            | Self::DetachNetwork
            | Self::UnpinNamespaces
            | Self::RemoveCgroup
            | Self::RemovePod => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::sample;

    #[test]
    fn services_are_waited_for_where_a_container_is_made_that_asks_for_them() {
        let container = sample::name("a");
        let create = PodStep::CreateContainer {
            container: container.clone(),
            attempt: 0,
            crashes: 0,
        };
        let start = PodStep::StartContainer { container, attempt: 0 };
        let mut pod = sample::pod();
        for (step, asked, expected) in [
            (&create, true, true),
            (&create, false, false),
            (&start, true, false),
            (&PodStep::AttachNetwork, true, false),
        ] {
            pod.enable_service_links = asked;
            assert_eq!(step.takes_services(&pod), expected, "{step:?}, asked: {asked}");
        }
    }
}
