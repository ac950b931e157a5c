//! Starting: first what the containers share, then the containers, one after the other.

use super::{
    AttemptState, ContainerFacts, ContainerName, DesiredContainer, PodStep, Presence, PullPolicy, ShimState,
    plan::Draft,
    resources,
    restart::{self, Next},
};

impl Draft<'_> {
    /// Keeps the pod running.
    pub(super) fn run(&mut self) {
        if self.is_sandbox_lost() {
            return self.end_all();
        }
        self.end_unwanted();
        let mut may_start = !self.offer_shared();
        for container in &self.desired.containers {
            let is_busy = self.keep(container, may_start);
            may_start &= !is_busy;
        }
    }

    /// Containers that run while their namespaces are no longer pinned can't be joined by a new one: all start anew.
    fn is_sandbox_lost(&self) -> bool {
        self.observed.namespaces != Presence::Whole && self.observed.has_live_attempts()
    }

    /// The next thing that the containers share and that is missing; false when all of it is there.
    fn offer_shared(&mut self) -> bool {
        let (desired, observed) = (self.desired, self.observed);
        let step = if observed.cgroup.is_none() {
            PodStep::SetPodCgroup(resources::pod_cgroup(desired))
        } else if observed.namespaces != Presence::Whole {
            PodStep::PinNamespaces {
                hostname: (!desired.host_network).then(|| desired.hostname.clone()),
            }
        } else if !desired.host_network && observed.network.is_none() {
            PodStep::AttachNetwork
        } else if observed.shim != ShimState::Running {
            PodStep::StartShim
        } else {
            return false;
        };
        self.offer(step);
        true
    }

    /// One container's next step; true when there is one, so that later containers wait for it to start first.
    fn keep(&mut self, container: &DesiredContainer, may_start: bool) -> bool {
        let none = ContainerFacts::default();
        let facts = self.observed.containers.get(&container.name).unwrap_or(&none);
        self.remove_old(&container.name, facts);
        let Some(last) = facts.last() else {
            return self.create(container, facts, 0, may_start);
        };
        if last.signalled.is_some() && last.state.is_live() {
            self.end_one(&container.name, last);
            return false;
        }
        match last.state {
            AttemptState::Running { .. } => false,
            AttemptState::Created => {
                let (container, attempt) = (container.name.clone(), last.number);
                may_start && self.offer(PodStep::StartContainer { container, attempt })
            }
            AttemptState::Exited(_) => match restart::next(self.desired, facts, self.now) {
                Next::Stay => false,
                Next::Wait { until, .. } => {
                    self.wake(until);
                    false
                }
                Next::Start { crashes } => self.create(container, facts, crashes, may_start),
            },
        }
    }

    /// The step towards a new attempt: its image, then the attempt itself. Images come before their turn to start.
    fn create(&mut self, container: &DesiredContainer, facts: &ContainerFacts, crashes: u32, may_start: bool) -> bool {
        if facts.attempts.iter().any(|attempt| attempt.state.is_live()) {
            return false;
        }
        let (name, attempt) = (container.name.clone(), facts.next_number());
        let is_present = self.observed.images.contains_key(&container.image);
        let must_pull = match container.pull_policy {
            PullPolicy::Always => !is_present || facts.pulled != Some(attempt),
            PullPolicy::IfNotPresent => !is_present,
            PullPolicy::Never if is_present => false,
            PullPolicy::Never => return false,
        };
        if must_pull {
            return self.offer(PodStep::PullImage {
                container: name,
                attempt,
                image: container.image.clone(),
            });
        }
        may_start
            && self.offer(PodStep::CreateContainer {
                container: name,
                attempt,
                crashes,
            })
    }

    /// Keeps two attempts of a container, the present and the one before; a live one that is not the last is a mistake
    /// that only a kill mends.
    pub(super) fn remove_old(&mut self, name: &ContainerName, facts: &ContainerFacts) {
        let Some((_, earlier)) = facts.attempts.split_last() else {
            return;
        };
        let keep = earlier.len().saturating_sub(1);
        for (index, attempt) in earlier.iter().enumerate() {
            if attempt.state.is_live() {
                self.kill(name, attempt);
            } else if index < keep {
                self.offer(PodStep::RemoveContainer {
                    container: name.clone(),
                    attempt: attempt.number,
                });
            }
        }
    }
}
