//! Time as a value, and how long to wait after a failure. There is no clock here.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1, jiff::Timestamp};

use super::StepVerb;

/// A moment: nanoseconds since the Unix epoch. Wall time may step; nothing here breaks when it does, waits only become
/// shorter or longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

impl Time {
    /// The moment `nanos` nanoseconds after the epoch.
    pub const fn from_unix_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the epoch.
    pub const fn unix_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment and `wait` more, at most the end of time.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// Until when a wait that began at `start` goes on; none when it is over. A start further ahead than the wait itself
    /// comes from a clock that has stepped back: that wait is over too, so that no step of a clock stops a pod.
    pub fn waits_until(self, start: Self, wait: Duration) -> Option<Self> {
        let end = start.after(wait);
        (self < end && start <= self.after(wait)).then_some(end)
    }

    /// As Kubernetes writes it: whole seconds, UTC.
    pub fn to_k8s(self) -> v1::Time {
        let seconds = i64::try_from(self.0 / 1_000_000_000).unwrap_or(i64::MAX);
        v1::Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
    }
}

/// Waits that double: `base`, 2 × `base`, … up to `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
}

impl Backoff {
    /// The wait after failure number `count`, which counts from one; no wait before the first.
    pub fn delay(&self, count: u32) -> Duration {
        match count.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => self
                .base
                .saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX))
                .min(self.cap),
        }
    }
}

/// The waits of one pod. The defaults are a kubelet's; tests make them short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoffs {
    /// Between the end of a container and its next start. A run longer than twice the cap starts the count anew.
    pub restart: Backoff,
    /// Between pulls of one image.
    pub pull: Backoff,
    /// Between attempts at any other step.
    pub step: Backoff,
}

impl Backoffs {
    /// The waits between failures of one kind of step.
    pub fn of(&self, verb: StepVerb) -> Backoff {
        if verb == StepVerb::PullImage {
            self.pull
        } else {
            self.step
        }
    }
}

impl Default for Backoffs {
    fn default() -> Self {
        let kubelet = Backoff {
            base: Duration::from_secs(10),
            cap: Duration::from_secs(300),
        };
        let step = Backoff {
            base: Duration::from_secs(1),
            cap: Duration::from_secs(30),
        };
        Self {
            restart: kubelet,
            pull: kubelet,
            step,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Time {
        Time::from_unix_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_wait_ends_and_survives_a_clock_that_steps() {
        let wait = Duration::from_secs(10);
        for (now, start, until) in [
            (100, 100, Some(110)),
            (109, 100, Some(110)),
            (110, 100, None),
            (99, 100, Some(110)),
            (90, 100, Some(110)),
            (89, 100, None),
            (0, 1_000_000, None),
        ] {
            assert_eq!(
                at(now).waits_until(at(start), wait),
                until.map(at),
                "now {now}, start {start}"
            );
        }
        assert_eq!(at(5).waits_until(at(5), Duration::ZERO), None);
    }

    #[test]
    fn a_delay_doubles_up_to_its_cap() {
        let backoff = Backoffs::default().restart;
        let seconds: Vec<u64> = (0..9).map(|count| backoff.delay(count).as_secs()).collect();
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(backoff.delay(u32::MAX), backoff.cap);
    }

    #[test]
    fn a_moment_prints_as_kubernetes_does() {
        let json = serde_json::to_string(&at(1_700_000_000).to_k8s()).unwrap();
        assert_eq!(json, "\"2023-11-14T22:13:20Z\"");
    }
}
