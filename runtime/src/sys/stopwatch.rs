//! When what happened while a container was made, in memory that its process shares with us. Only in the build that
//! measures (`floor`): elsewhere there is no clock, and [`lap`] is nothing.

/// What has just been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lap(u32);

impl Lap {
    pub(crate) const BEGUN: Self = Self(0);
    pub(crate) const PLANNED: Self = Self(1);
    pub(crate) const CONFINED: Self = Self(2);
    pub(crate) const PREPARED: Self = Self(3);
    pub(crate) const BORN: Self = Self(4);
    pub(crate) const HELPED: Self = Self(5);
    pub(crate) const READY: Self = Self(6);
    pub(crate) const STARTED: Self = Self(7);
    #[cfg(feature = "floor")]
    pub(crate) const ENDED: Self = Self(8);
    #[cfg(feature = "floor")]
    pub(crate) const REMOVED: Self = Self(9);
    const FIRST_STEP: u32 = 10;

    /// The child's step of this number.
    pub(crate) fn step(number: u32) -> Self {
        Self(Self::FIRST_STEP.saturating_add(number))
    }
}

#[cfg(not(feature = "floor"))]
pub(crate) fn lap(done: Lap) {
    let Lap(_) = done;
}

/// Says what the child's steps do, in their order.
#[cfg(not(feature = "floor"))]
pub(crate) fn name_steps(names: impl Iterator<Item = String>) {
    drop(names);
}

#[cfg(feature = "floor")]
pub(crate) use running::{lap, laps, name_steps, start};

#[cfg(feature = "floor")]
mod running {
    use std::cell::RefCell;
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

    use nix::errno::Errno;

    use super::Lap;

    /// What is done besides the child's steps, in the order of their numbers.
    const NAMES: [&str; Lap::FIRST_STEP as usize] = [
        "begin",
        "plan the steps",
        "make the cgroup",
        "open what the steps need",
        "clone3, until the child runs",
        "set limits, give words: while the child works",
        "hear that all is ready",
        "hear that the program runs",
        "wait for its end",
        "remove the cgroup",
    ];

    /// Laps beyond are not kept.
    const ROOM: usize = 500;

    /// Zeros are an empty one.
    struct Laps {
        count: AtomicU32,
        /// What was done, and the time in nanoseconds.
        list: [(AtomicU32, AtomicU64); ROOM],
    }

    static LAPS: AtomicPtr<Laps> = AtomicPtr::new(null_mut());

    thread_local! {
        /// What the child's steps do.
        static STEPS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// Says what the child's steps do, in their order. Without a stopwatch nobody asks, and it would take time.
    pub(crate) fn name_steps(names: impl Iterator<Item = String>) {
        if running().is_some() {
            STEPS.set(names.collect());
        }
    }

    /// Begins anew.
    pub(crate) fn start() -> nix::Result<()> {
        match running() {
            Some(laps) => laps.count.store(0, Ordering::Relaxed),
            None => LAPS.store(map()?, Ordering::Relaxed),
        }
        Ok(())
    }

    /// Memory that children share ([mmap(2)](https://man7.org/linux/man-pages/man2/mmap.2.html)).
    fn map() -> nix::Result<*mut Laps> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new mapping, at an address that the kernel chooses, touches nothing of ours.
        let address = unsafe { libc::mmap(null_mut(), size_of::<Laps>(), protection, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            Err(Errno::last())
        } else {
            Ok(address.cast())
        }
    }

    fn running() -> Option<&'static Laps> {
        // SAFETY: null, or mapped with this size for good; zeros are valid, and all that changes is atomic.
        unsafe { LAPS.load(Ordering::Relaxed).as_ref() }
    }

    /// Notes the time. Does not allocate: the child calls it.
    pub(crate) fn lap(done: Lap) {
        let Some(laps) = running() else { return };
        let index = usize::try_from(laps.count.fetch_add(1, Ordering::Relaxed));
        if let Some((what, when)) = index.ok().and_then(|index| laps.list.get(index)) {
            what.store(done.0, Ordering::Relaxed);
            when.store(now(), Ordering::Relaxed);
        }
    }

    /// Nanoseconds of the clock that all processes have in common.
    fn now() -> u64 {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is ours; this clock is always there.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
    }

    /// What was done since the start, in its order, with the nanoseconds since what was done before. For when no child runs
    /// any more.
    pub(crate) fn laps() -> Vec<(String, u64)> {
        let Some(laps) = running() else { return Vec::new() };
        let count = usize::try_from(laps.count.load(Ordering::Relaxed)).unwrap_or(ROOM);
        let list = laps.list.iter().take(count);
        let mut before = None;
        let spent = |(what, when): &(AtomicU32, AtomicU64)| {
            let (what, when) = (what.load(Ordering::Relaxed), when.load(Ordering::Relaxed));
            let spent = before
                .replace(when)
                .map_or(0, |before: u64| when.saturating_sub(before));
            (name(what), spent)
        };
        list.map(spent).collect()
    }

    fn name(done: u32) -> String {
        let done = usize::try_from(done).unwrap_or(usize::MAX);
        let step = || {
            done.checked_sub(NAMES.len())
                .and_then(|step| STEPS.with_borrow(|steps| steps.get(step).cloned()))
        };
        NAMES
            .get(done)
            .map(|name| (*name).to_owned())
            .or_else(step)
            .unwrap_or_default()
    }
}
