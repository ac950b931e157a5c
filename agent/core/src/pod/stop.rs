//! Stopping: SIGTERM, the grace, SIGKILL; then everything that was made for the pod, in the reverse order.

use std::time::Duration;

use super::{
    Attempt, AttemptState, ContainerName, PodStep, Presence, ShimState, Signalled, StopSignal, Time, plan::Draft,
};

/// How long a killed process may take to go before it is killed once more.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

impl Draft<'_> {
    /// Ends the pod and removes every trace of it.
    pub(super) fn stop(&mut self, since: Time, grace: Duration) {
        let observed = self.observed;
        if observed.has_live_attempts() {
            return self.end_live(|_| (since, grace));
        }
        for (name, attempt) in observed.attempts() {
            self.offer(PodStep::RemoveContainer {
                container: name.clone(),
                attempt: attempt.number,
            });
        }
        let has_attempts = observed.attempts().next().is_some();
        if !has_attempts && self.take_down() && observed.has_files {
            self.offer(PodStep::RemovePod);
        }
    }

    /// The pod has run to its end: its records and logs stay until it is removed, nothing else does.
    pub(super) fn finish(&mut self) {
        if self.observed.has_live_attempts() {
            return self.end_all();
        }
        let (desired, observed) = (self.desired, self.observed);
        for (name, facts) in observed
            .containers
            .iter()
            .filter(|(name, _)| desired.container(name).is_some())
        {
            self.remove_old(name, facts);
        }
        self.end_unwanted();
        self.take_down();
    }

    /// Ends every container, with the pod's own grace counted from the first signal.
    pub(super) fn end_all(&mut self) {
        let (now, grace) = (self.now, self.desired.grace);
        self.end_live(|attempt| (attempt.signalled.map_or(now, |signalled| signalled.at), grace));
    }

    /// Ends one container, with the pod's own grace counted from the first signal.
    pub(super) fn end_one(&mut self, name: &ContainerName, attempt: &Attempt) {
        let since = attempt.signalled.map_or(self.now, |signalled| signalled.at);
        self.end(name, attempt, since, self.desired.grace);
    }

    /// Ends and removes containers that the pod no longer names.
    pub(super) fn end_unwanted(&mut self) {
        let (desired, observed) = (self.desired, self.observed);
        for (name, attempt) in observed
            .attempts()
            .filter(|(name, _)| desired.container(name).is_none())
        {
            if attempt.state.is_live() {
                self.end_one(name, attempt);
            } else {
                self.offer(PodStep::RemoveContainer {
                    container: name.clone(),
                    attempt: attempt.number,
                });
            }
        }
    }

    fn end_live(&mut self, term: impl Fn(&Attempt) -> (Time, Duration)) {
        let observed = self.observed;
        for (name, attempt) in observed.attempts().filter(|(_, attempt)| attempt.state.is_live()) {
            let (since, grace) = term(attempt);
            self.end(name, attempt, since, grace);
        }
    }

    /// The next signal to a live attempt that has `grace` from `since`. One that has not started has nothing to finish.
    fn end(&mut self, name: &ContainerName, attempt: &Attempt, since: Time, grace: Duration) {
        let is_killed = attempt
            .signalled
            .is_some_and(|signalled| signalled.signal == StopSignal::Kill);
        match self.now.waits_until(since, grace) {
            Some(until) if !is_killed && attempt.state != AttemptState::Created => {
                if attempt.signalled.is_none() {
                    self.signal(name, attempt, StopSignal::Stop);
                }
                self.wake(until);
            }
            Some(_) | None => self.kill(name, attempt),
        }
    }

    /// Kills an attempt, again when it has not gone after a while.
    pub(super) fn kill(&mut self, name: &ContainerName, attempt: &Attempt) {
        let killed_at = match attempt.signalled {
            Some(Signalled {
                signal: StopSignal::Kill,
                at,
            }) => Some(at),
            Some(Signalled {
                signal: StopSignal::Stop,
                ..
            })
            | None => None,
        };
        match killed_at.and_then(|at| self.now.waits_until(at, KILL_PATIENCE)) {
            Some(until) => self.wake(until),
            None => self.signal(name, attempt, StopSignal::Kill),
        }
    }

    fn signal(&mut self, name: &ContainerName, attempt: &Attempt, signal: StopSignal) {
        self.offer(PodStep::SignalContainer {
            container: name.clone(),
            attempt: attempt.number,
            signal,
        });
    }

    /// Takes down what the containers shared, in the reverse order; true when nothing of it is left.
    fn take_down(&mut self) -> bool {
        let observed = self.observed;
        let step = match observed.cgroup {
            _ if observed.shim == ShimState::Running => PodStep::StopShim,
            Some(cgroup) if cgroup.populated => PodStep::KillCgroup,
            _ if observed.network.is_some() => PodStep::DetachNetwork,
            _ if observed.namespaces != Presence::Absent => PodStep::UnpinNamespaces,
            Some(_) => PodStep::RemoveCgroup,
            None => return true,
        };
        self.offer(step);
        false
    }
}
