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
        Goal::Run if desired.refusal.is_some() || restart::is_finished(desired, observed) => draft.finish(),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pod::{
        AttemptState, CgroupFacts, ContainerFacts, FailureKind, Presence, PullPolicy, StepFailure,
        sample::{self, at, attempt, exited, name, running},
    };

    fn verbs(pod: &DesiredPod, observed: &ObservedPod, now: u64) -> Vec<StepVerb> {
        plan(pod, observed, at(now)).steps.iter().map(PodStep::verb).collect()
    }

    fn failure(at_seconds: u64, count: u32) -> StepFailure {
        StepFailure {
            at: at(at_seconds),
            count,
            kind: FailureKind::Step,
            message: "no".to_owned(),
        }
    }

    #[test]
    fn a_pod_comes_up_in_order_and_its_image_at_once() {
        use StepVerb::{
            AttachNetwork, CreateContainer, PinNamespaces, PullImage, SetPodCgroup, StartContainer, StartShim,
        };
        let pod = sample::pod();
        let mut observed = ObservedPod::default();
        assert_eq!(verbs(&pod, &observed, 1000), [SetPodCgroup, PullImage]);
        observed.cgroup = Some(CgroupFacts::default());
        assert_eq!(verbs(&pod, &observed, 1000), [PinNamespaces, PullImage]);
        observed.namespaces = Presence::Partial;
        assert_eq!(verbs(&pod, &observed, 1000), [PinNamespaces, PullImage]);
        observed.namespaces = Presence::Whole;
        observed.images = sample::ready(&pod).images;
        assert_eq!(verbs(&pod, &observed, 1000), [AttachNetwork]);
        observed.network = Some(Vec::new());
        assert_eq!(verbs(&pod, &observed, 1000), [StartShim]);
        observed.shim = ShimState::Running;
        assert_eq!(verbs(&pod, &observed, 1000), [CreateContainer]);
        let observed = sample::with(&pod, attempt(0, AttemptState::Created));
        assert_eq!(verbs(&pod, &observed, 1000), [StartContainer]);
        let observed = sample::with(&pod, attempt(0, running(1000)));
        assert_eq!(plan(&pod, &observed, at(1000)), Plan::default());
    }

    #[test]
    fn the_host_network_is_neither_pinned_nor_attached() {
        let mut pod = sample::pod();
        pod.host_network = true;
        let mut observed = sample::ready(&pod);
        observed.network = None;
        observed.shim = ShimState::Absent;
        assert_eq!(verbs(&pod, &observed, 1000), [StepVerb::StartShim]);
        observed.namespaces = Presence::Absent;
        assert_eq!(
            plan(&pod, &observed, at(1000)).steps,
            [PodStep::PinNamespaces { hostname: None }]
        );
    }

    #[test]
    fn containers_start_one_after_the_other_and_a_failing_one_holds_nobody_up() {
        let mut pod = sample::pod();
        pod.containers.push(sample::container("side"));
        let mut observed = sample::ready(&pod);
        let first = |observed: &ObservedPod| {
            let steps = plan(&pod, observed, at(1000)).steps;
            steps.iter().map(|step| step.container().cloned()).collect::<Vec<_>>()
        };
        assert_eq!(first(&observed), [Some(name("app"))]);
        observed.failures.insert(
            StepKey::container(StepVerb::CreateContainer, &name("app")),
            failure(1000, 1),
        );
        assert_eq!(first(&observed), [Some(name("side"))]);
        let observed = sample::with(&pod, attempt(0, running(1000)));
        assert_eq!(first(&observed), [Some(name("side"))]);
    }

    #[test]
    fn the_pull_policy_decides_when_the_registry_is_asked() {
        use PullPolicy::{Always, IfNotPresent, Never};
        use StepVerb::{CreateContainer, PullImage};
        for (policy, is_present, pulled, expected) in [
            (IfNotPresent, false, None, vec![PullImage]),
            (IfNotPresent, true, None, vec![CreateContainer]),
            (Always, false, None, vec![PullImage]),
            (Always, true, None, vec![PullImage]),
            (Always, true, Some(1), vec![PullImage]),
            (Always, true, Some(2), vec![CreateContainer]),
            (Always, false, Some(2), vec![PullImage]),
            (Never, true, None, vec![CreateContainer]),
            (Never, false, None, vec![]),
        ] {
            let mut pod = sample::pod();
            pod.containers[0].pull_policy = policy;
            let mut observed = sample::ready(&pod);
            let facts = ContainerFacts {
                pulled,
                last_log: Some(1),
                ..ContainerFacts::default()
            };
            observed.containers.insert(name("app"), facts);
            if !is_present {
                observed.images.clear();
            }
            assert_eq!(
                verbs(&pod, &observed, 1000),
                expected,
                "{policy:?} present {is_present} pulled {pulled:?}"
            );
        }
    }

    #[test]
    fn a_failure_is_waited_out_and_wakes_the_plan() {
        let pod = sample::pod();
        let mut observed = sample::ready(&pod);
        let key = StepKey::container(StepVerb::CreateContainer, &name("app"));
        observed.failures.insert(key, failure(1000, 3));
        assert_eq!(
            plan(&pod, &observed, at(1000)),
            Plan {
                steps: Vec::new(),
                wake_at: Some(at(1004))
            }
        );
        assert_eq!(verbs(&pod, &observed, 1004), [StepVerb::CreateContainer]);
    }

    #[test]
    fn a_failed_pull_wakes_the_plan_when_its_status_changes_too() {
        let pod = sample::pod();
        let mut observed = sample::ready(&pod);
        observed.images.clear();
        observed
            .failures
            .insert(StepKey::container(StepVerb::PullImage, &name("app")), failure(1000, 2));
        assert_eq!(
            plan(&pod, &observed, at(1000)),
            Plan {
                steps: Vec::new(),
                wake_at: Some(at(1010))
            }
        );
        assert_eq!(
            plan(&pod, &observed, at(1010)),
            Plan {
                steps: Vec::new(),
                wake_at: Some(at(1020))
            }
        );
        assert_eq!(verbs(&pod, &observed, 1020), [StepVerb::PullImage]);
    }

    #[test]
    fn attempts_go_on_from_the_logs_when_records_were_lost() {
        let pod = sample::pod();
        let mut observed = sample::ready(&pod);
        observed.containers.insert(
            name("app"),
            ContainerFacts {
                last_log: Some(6),
                ..ContainerFacts::default()
            },
        );
        let create = PodStep::CreateContainer {
            container: name("app"),
            attempt: 7,
            crashes: 0,
        };
        assert_eq!(plan(&pod, &observed, at(1000)).steps, [create]);
    }

    #[test]
    fn a_lost_shim_is_cleared_away_before_anything_else() {
        let pod = sample::pod();
        let mut observed = sample::with(&pod, attempt(0, running(900)));
        for lost in [ShimState::Lost, ShimState::Absent] {
            observed.shim = lost;
            observed.cgroup = Some(CgroupFacts { populated: true });
            assert_eq!(verbs(&pod, &observed, 1000), [StepVerb::KillCgroup], "{lost:?}");
            observed.cgroup = Some(CgroupFacts { populated: false });
            assert_eq!(verbs(&pod, &observed, 1000), [StepVerb::RecordLostShim], "{lost:?}");
        }
    }

    #[test]
    fn a_lost_sandbox_ends_the_containers_and_starts_anew() {
        let pod = sample::pod();
        let mut observed = sample::with(&pod, attempt(0, running(900)));
        observed.namespaces = Presence::Partial;
        assert_eq!(verbs(&pod, &observed, 1000), [StepVerb::SignalContainer]);
        let mut observed = sample::with(&pod, attempt(0, exited(137, 900, 1000)));
        observed.namespaces = Presence::Partial;
        assert_eq!(verbs(&pod, &observed, 1000), [StepVerb::PinNamespaces]);
    }

    #[test]
    fn a_stopped_pod_gets_term_then_kill_then_is_taken_down() {
        use crate::pod::{Signalled, StopSignal};
        let mut pod = sample::pod();
        pod.goal = Goal::Stop {
            since: at(1000),
            grace: Duration::from_secs(30),
        };
        let mut observed = sample::with(&pod, attempt(0, running(900)));
        let signal = |signal| PodStep::SignalContainer {
            container: name("app"),
            attempt: 0,
            signal,
        };
        let told = |observed: &mut ObservedPod, signal, seconds| {
            let facts = observed.containers.get_mut(&name("app")).unwrap();
            facts.attempts[0].signalled = Some(Signalled {
                signal,
                at: at(seconds),
            });
        };
        let term = Plan {
            steps: vec![signal(StopSignal::Stop)],
            wake_at: Some(at(1030)),
        };
        assert_eq!(plan(&pod, &observed, at(1001)), term);
        told(&mut observed, StopSignal::Stop, 1001);
        assert_eq!(
            plan(&pod, &observed, at(1002)),
            Plan {
                steps: Vec::new(),
                wake_at: Some(at(1030))
            }
        );
        assert_eq!(plan(&pod, &observed, at(1030)).steps, [signal(StopSignal::Kill)]);
        told(&mut observed, StopSignal::Kill, 1030);
        assert_eq!(
            plan(&pod, &observed, at(1030)),
            Plan {
                steps: Vec::new(),
                wake_at: Some(at(1035))
            }
        );
        assert_eq!(plan(&pod, &observed, at(1035)).steps, [signal(StopSignal::Kill)]);
    }

    #[test]
    fn a_container_without_grace_or_start_is_killed_at_once() {
        use crate::pod::StopSignal;
        let kill = [PodStep::SignalContainer {
            container: name("app"),
            attempt: 0,
            signal: StopSignal::Kill,
        }];
        let mut pod = sample::pod();
        pod.goal = Goal::Stop {
            since: at(1000),
            grace: Duration::ZERO,
        };
        assert_eq!(
            plan(&pod, &sample::with(&pod, attempt(0, running(900))), at(1000)).steps,
            kill
        );
        pod.goal = Goal::Stop {
            since: at(1000),
            grace: Duration::from_secs(30),
        };
        assert_eq!(
            plan(&pod, &sample::with(&pod, attempt(0, AttemptState::Created)), at(1000)).steps,
            kill
        );
    }

    #[test]
    fn what_was_made_is_taken_down_in_the_reverse_order() {
        use StepVerb::{
            DetachNetwork, KillCgroup, RemoveCgroup, RemoveContainer, RemovePod, StopShim, UnpinNamespaces,
        };
        let mut pod = sample::pod();
        pod.goal = Goal::Stop {
            since: at(1000),
            grace: Duration::ZERO,
        };
        let mut observed = sample::with(&pod, attempt(0, exited(0, 900, 1000)));
        assert_eq!(verbs(&pod, &observed, 1000), [RemoveContainer]);
        observed.containers.clear();
        assert_eq!(verbs(&pod, &observed, 1000), [StopShim]);
        observed.shim = ShimState::Absent;
        assert_eq!(verbs(&pod, &observed, 1000), [KillCgroup]);
        observed.cgroup = Some(CgroupFacts { populated: false });
        assert_eq!(verbs(&pod, &observed, 1000), [DetachNetwork]);
        observed.network = None;
        assert_eq!(verbs(&pod, &observed, 1000), [UnpinNamespaces]);
        observed.namespaces = Presence::Absent;
        assert_eq!(verbs(&pod, &observed, 1000), [RemoveCgroup]);
        observed.cgroup = None;
        assert_eq!(verbs(&pod, &observed, 1000), [RemovePod]);
        observed.has_files = false;
        assert!(observed.is_gone());
        assert_eq!(plan(&pod, &observed, at(1000)), Plan::default());
    }

    #[test]
    fn a_pod_that_has_ended_keeps_its_records_and_files_alone() {
        let mut pod = sample::pod();
        pod.restart_policy = crate::pod::RestartPolicy::Never;
        let mut observed = sample::with(&pod, attempt(0, exited(3, 900, 1000)));
        assert_eq!(verbs(&pod, &observed, 1000), [StepVerb::StopShim]);
        observed = ObservedPod {
            containers: observed.containers,
            has_files: true,
            ..ObservedPod::default()
        };
        assert_eq!(plan(&pod, &observed, at(1000)), Plan::default());
    }

    #[test]
    fn an_orphan_of_which_only_the_uid_is_known_is_removed() {
        let uid = crate::pod::PodUid::parse("gone").unwrap();
        let orphan = DesiredPod::orphan(uid, at(1000), Duration::from_secs(30));
        let observed = sample::with(&sample::pod(), attempt(4, running(900)));
        assert_eq!(verbs(&orphan, &observed, 1000), [StepVerb::SignalContainer]);
        assert_eq!(
            verbs(
                &orphan,
                &ObservedPod {
                    has_files: true,
                    ..ObservedPod::default()
                },
                1000
            ),
            [StepVerb::RemovePod]
        );
    }

    #[test]
    fn a_container_that_the_pod_no_longer_names_ends_and_goes() {
        let pod = sample::pod();
        let mut observed = sample::with(&pod, attempt(0, running(900)));
        let facts = |state| ContainerFacts {
            attempts: vec![attempt(0, state)],
            ..ContainerFacts::default()
        };
        observed.containers.insert(name("old"), facts(running(900)));
        assert_eq!(verbs(&pod, &observed, 1000), [StepVerb::SignalContainer]);
        observed.containers.insert(name("old"), facts(exited(0, 900, 1000)));
        assert_eq!(verbs(&pod, &observed, 1000), [StepVerb::RemoveContainer]);
    }
}
