//! A pod's limit as departure times: each packet is due when the one before it has had its time on a link of the limit's
//! rate, and a rest is credited up to a burst. Whoever holds packets until they are due paces them; whoever drops those
//! that are due too late polices them. Both are the same reckoning.

use crate::plain::plain;

/// Most limits, at all sides of all pods.
pub const MAX_LIMITS: u32 = 3 * 65_536;
/// Longest that a packet may wait, whatever the burst; the queue that holds it takes packets for no later than this.
const PATIENCE_MAX: u64 = 2 * NANOSECONDS;
const NANOSECONDS: u64 = 1_000_000_000;

/// Bytes of a value of `pod_limits`: a [`Limit`], and behind it the kernel's lock of the entry.
pub const ENTRY_BYTES: usize = size_of::<Limit>() + 8;

plain! {
    Limit: 40,
    LimitKey: 4,
}

/// Where a limit is looked at.
#[repr(u16)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What the pod receives, before the queue of the node's end of its link.
    Received,
    /// What the pod sends, before the queue of its own end.
    Sent,
    /// What the pod has sent, on the node, where the pod can't take it away.
    Arrived,
}

/// Key of `pod_limits`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitKey {
    place: u16,
    side: u16,
}

impl LimitKey {
    /// One side of the limits of the pod that has this place.
    pub const fn new(place: u16, side: Side) -> Self {
        Self {
            place,
            side: side as u16,
        }
    }
}

/// One pod's limit at one side, and how far it is used.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Bytes a second.
    rate: u64,
    /// Nanoseconds of rest that are credited.
    credit: u64,
    /// Nanoseconds that a packet may wait.
    patience: u64,
    /// When the next packet is due, in nanoseconds since the boot; with the credit, that may be long ago.
    due: u64,
    /// The node's end of the pod's link, whose limit this is.
    link: u32,
    unused: u32,
}

impl Limit {
    /// A limit of so many bytes a second for a link. `burst` bytes go at once after a rest, and as many as `queue` wait.
    pub const fn new(link: u32, rate: u64, burst: u32, queue: u32) -> Self {
        let patience = time(rate, queue);
        Self {
            rate,
            credit: time(rate, burst),
            patience: if patience < PATIENCE_MAX {
                patience
            } else {
                PATIENCE_MAX
            },
            due: 0,
            link,
            unused: 0,
        }
    }

    /// As a value of `pod_limits`.
    pub fn to_entry(self) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[..size_of::<Self>()].copy_from_slice(&self.to_bytes());
        entry
    }

    /// Reads [`Self::to_entry`] back.
    pub fn of_entry(entry: &[u8; ENTRY_BYTES]) -> Self {
        let mut bytes = [0; size_of::<Self>()];
        bytes.copy_from_slice(&entry[..size_of::<Self>()]);
        Self::from_bytes(bytes)
    }

    /// The node's end of the pod's link.
    pub const fn link(&self) -> u32 {
        self.link
    }

    /// Nanoseconds that a packet of so many bytes takes.
    #[inline(always)]
    pub const fn time_of(&self, bytes: u32) -> u64 {
        time(self.rate, bytes)
    }

    /// When a packet departs that takes so many nanoseconds; `None` when that is too late.
    #[inline(always)]
    pub const fn departure(&mut self, now: u64, time: u64) -> Option<u64> {
        let earliest = now.saturating_sub(self.credit);
        let due = if self.due > earliest { self.due } else { earliest };
        let departure = if due > now { due } else { now };
        if departure - now > self.patience {
            return None;
        }
        self.due = due.saturating_add(time);
        Some(departure)
    }
}

/// Rounded up: a limit is not exceeded by what a division leaves. No rate is a rate of 1, for a program can't panic.
#[inline(always)]
const fn time(rate: u64, bytes: u32) -> u64 {
    let rate = if rate == 0 { 1 } else { rate };
    (bytes as u64 * NANOSECONDS).div_ceil(rate)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = NANOSECONDS;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let mut limit = Limit::new(7, 1_000_000, 3_000, 28_000);
        let time = limit.time_of(1_000);
        assert_eq!((limit.link(), time), (7, SECOND / 1_000));
        assert_eq!(Limit::of_entry(&limit.to_entry()), limit);
        let departures = [(); 6].map(|()| limit.departure(SECOND, time).unwrap() - SECOND);
        assert_eq!(departures, [0, 0, 0, 0, time, 2 * time]);
    }

    #[test]
    fn what_would_wait_too_long_is_dropped_and_costs_nothing() {
        let mut limit = Limit::new(7, 1_000_000, 1_000, 3_000);
        let time = limit.time_of(1_000);
        let went = (0..100).filter(|_| limit.departure(SECOND, time).is_some()).count();
        assert_eq!(went, 5);
        assert_eq!(limit.departure(2 * SECOND, time), Some(2 * SECOND));
    }

    #[test]
    fn no_number_is_too_large_or_too_small() {
        for (rate, burst, queue) in [(0, 0, 0), (1, u32::MAX, u32::MAX), (u64::MAX, u32::MAX, u32::MAX)] {
            let mut limit = Limit::new(7, rate, burst, queue);
            assert!(limit.patience <= PATIENCE_MAX);
            assert_eq!(limit.departure(5, limit.time_of(u32::MAX)), Some(5));
            let _ = limit.departure(u64::MAX, u64::MAX);
        }
    }

    proptest! {
        /// Whatever is sent and whenever: up to each departure no more has departed than the rate and one burst allow, and
        /// departures are in order.
        #[test]
        fn no_more_departs_than_the_limit_allows(
            rate in 1_000_u64..10_000_000_000,
            burst in 1_u32..10_000_000,
            packets in prop::collection::vec((0_u64..20_000_000, 60_u32..65_000), 1..200),
        ) {
            let mut limit = Limit::new(7, rate, burst, burst);
            let (mut now, mut sent, mut last) = (SECOND, 0_u128, 0);
            for (pause, bytes) in packets {
                now += pause;
                let time = limit.time_of(bytes);
                let Some(departure) = limit.departure(now, time) else { continue };
                prop_assert!(departure >= last && departure - now <= limit.patience);
                let passed = u128::from(departure - SECOND);
                let allowed = passed * u128::from(rate) / u128::from(SECOND) + u128::from(burst) + 1;
                // One packet may begin before the one before it has had its time.
                prop_assert!(sent <= allowed, "{sent} bytes before {passed} ns, not {allowed}");
                sent += u128::from(bytes);
                last = departure;
            }
        }

        /// What was paced passes the same limit behind it, however late it arrives, if no later than packets may wait.
        #[test]
        fn what_is_paced_is_not_policed(
            rate in 1_000_u64..1_000_000_000,
            packets in prop::collection::vec((0_u64..20_000_000, 60_u32..65_000, 0_u64..25_000_000), 1..200),
        ) {
            let queue = 65_536 + u32::try_from(rate / 40).unwrap();
            let (mut pacer, mut police) = (Limit::new(7, rate, 65_536, queue), Limit::new(7, rate, 65_536, queue));
            let (mut now, mut arrival) = (SECOND, 0);
            for (pause, bytes, lateness) in packets {
                now += pause;
                let time = pacer.time_of(bytes);
                let Some(departure) = pacer.departure(now, time) else { continue };
                arrival = (departure + lateness).max(arrival);
                prop_assert!(police.departure(arrival, time).is_some());
            }
        }
    }
}
