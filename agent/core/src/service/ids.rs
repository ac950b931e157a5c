//! Who owns what in the maps: the id of each Service port and the run of slots of each frontend. After a restart both are
//! read back from the kernel's maps, so that nothing that works moves.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::ServicePort;

/// How long a region rests after its last frontend has left it. A program that has read the old frontend a moment before
/// still finds the old backends there; it is done within microseconds.
pub const REST: Duration = Duration::from_secs(1);

/// Ids of Service ports, below `end`. An id that is free again is given last of all, so that what is still on its way in
/// the kernel under the old one is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    ports: HashMap<ServicePort, u32>,
    taken: BTreeSet<u32>,
    last: u32,
    end: u32,
}

impl Ids {
    /// Ids up to `last` have been in use before.
    pub fn after(last: u32, end: u32) -> Self {
        Self {
            last,
            end,
            ..Self::default()
        }
    }

    /// The id of a port: the one it has, the one that its frontends have in the maps unless another port has it by now,
    /// or a new one. `None` when all are taken.
    pub fn of(&mut self, port: &ServicePort, in_maps: Option<u32>) -> Option<u32> {
        if let Some(id) = self.ports.get(port) {
            return Some(*id);
        }
        let free = in_maps.filter(|id| (1..self.end).contains(id) && !self.taken.contains(id));
        let id = free.or_else(|| self.next())?;
        self.taken.insert(id);
        self.ports.insert(port.clone(), id);
        Some(id)
    }

    /// Makes room for so many ports at once.
    pub fn reserve(&mut self, ports: usize) {
        self.ports.reserve(ports.saturating_sub(self.ports.len()));
    }

    fn next(&mut self) -> Option<u32> {
        let (last, end) = (self.last, self.end);
        let mut round = (last.saturating_add(1).max(1)..end).chain(1..last.saturating_add(1).min(end));
        self.last = round.find(|id| !self.taken.contains(id))?;
        Some(self.last)
    }

    /// Forgets the ports that are not among `ports`.
    pub fn retain(&mut self, ports: &BTreeSet<&ServicePort>) {
        let taken = &mut self.taken;
        self.ports.retain(|port, id| {
            let stays = ports.contains(port);
            if !stays {
                taken.remove(id);
            }
            stays
        });
    }

    /// Forgets a port.
    pub fn forget(&mut self, port: &ServicePort) {
        if let Some(id) = self.ports.remove(port) {
            self.taken.remove(&id);
        }
    }

    /// The ids by port.
    pub fn ports(&self) -> &HashMap<ServicePort, u32> {
        &self.ports
    }
}

/// The runs of slots of one family's array: in use, at rest, or free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions {
    capacity: u32,
    used: BTreeMap<u32, u16>,
    resting: VecDeque<(Duration, u32, u16)>,
    /// Where to look for room next: onward from the last region, so that what was left last is used last.
    cursor: u32,
}

impl Regions {
    /// An array of `capacity` slots with these regions in use, by their first slots.
    pub fn new(capacity: u32, used: impl IntoIterator<Item = (u32, u16)>) -> Self {
        let used: BTreeMap<u32, u16> = used.into_iter().filter(|(_, count)| *count > 0).collect();
        let cursor = used.iter().map(|(base, count)| end(*base, *count)).max().unwrap_or(0);
        Self {
            capacity,
            used,
            resting: VecDeque::new(),
            cursor: cursor.min(capacity),
        }
    }

    /// Takes `count` slots in a row. `None` when there is no such room; regions at rest may make some later.
    pub fn take(&mut self, count: u16, now: Duration) -> Option<u32> {
        self.wake(now);
        let base = self
            .beyond(count)
            .or_else(|| self.gap(self.cursor, self.capacity, count))
            .or_else(|| self.gap(0, self.cursor, count))?;
        self.used.insert(base, count);
        self.cursor = end(base, count);
        Some(base)
    }

    /// Lets every region rest that is not among `in_use`. To be called when the maps have been brought up to date.
    pub fn retain(&mut self, in_use: &BTreeSet<u32>, now: Duration) {
        let resting: BTreeSet<u32> = self.resting.iter().map(|(_, base, _)| *base).collect();
        let left = self
            .used
            .iter()
            .filter(|(base, _)| !in_use.contains(base) && !resting.contains(base));
        self.resting.extend(left.map(|(base, count)| (now, *base, *count)));
    }

    /// Lets one region rest. To be called when the maps have been brought up to date.
    pub fn leave(&mut self, base: u32, now: Duration) {
        if let Some(count) = self.used.get(&base) {
            self.resting.push_back((now, base, *count));
        }
    }

    /// Slots that are neither in use nor at rest.
    pub fn free(&self) -> u32 {
        let used: u64 = self.used.values().map(|count| u64::from(*count)).sum();
        self.capacity.saturating_sub(u32::try_from(used).unwrap_or(u32::MAX))
    }

    fn wake(&mut self, now: Duration) {
        while let Some((since, base, _)) = self.resting.front()
            && now.saturating_sub(*since) >= REST
        {
            self.used.remove(base);
            self.resting.pop_front();
        }
    }

    /// The cursor, where nothing is in use beyond it and there is room: there is nothing to look for then.
    fn beyond(&self, count: u16) -> Option<u32> {
        let last = self.used.last_key_value().map_or(0, |(base, count)| end(*base, *count));
        (last <= self.cursor && end(self.cursor, count) <= self.capacity).then_some(self.cursor)
    }

    /// The first run of `count` free slots that lies in `from..to`.
    fn gap(&self, from: u32, to: u32, count: u16) -> Option<u32> {
        let before = self.used.range(..from).next_back();
        let mut start = before.map_or(from, |(base, count)| end(*base, *count).max(from));
        for (base, taken) in self.used.range(from..to) {
            if end(start, count) <= *base {
                break;
            }
            start = start.max(end(*base, *taken));
        }
        (end(start, count) <= to).then_some(start)
    }
}

fn end(base: u32, count: u16) -> u32 {
    base.saturating_add(u32::from(count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Protocol, ServiceName};
    use super::*;

    fn port(number: u16) -> ServicePort {
        let service = ServiceName {
            namespace: "default".into(),
            name: "web".into(),
        };
        ServicePort {
            service,
            protocol: Protocol::Tcp,
            port: number,
        }
    }

    #[test]
    fn an_id_comes_from_the_maps_once() {
        let mut ids = Ids::after(9, 100);
        assert_eq!(ids.of(&port(1), Some(4)), Some(4));
        assert_eq!(ids.of(&port(2), Some(4)), Some(10));
        assert_eq!(ids.of(&port(3), None), Some(11));
        assert_eq!(ids.of(&port(1), None), Some(4));
    }

    #[test]
    fn an_id_is_given_again_after_all_others() {
        let mut ids = Ids::after(0, 4);
        assert_eq!(
            [1, 2, 3, 4].map(|number| ids.of(&port(number), None)),
            [Some(1), Some(2), Some(3), None]
        );
        ids.retain(&[&port(1), &port(3)].into());
        assert_eq!(ids.of(&port(4), None), Some(2));
        assert_eq!(Ids::after(500, 4).of(&port(1), Some(600)), Some(1));
    }

    #[test]
    fn a_region_rests_before_it_is_taken_again() {
        let mut regions = Regions::new(4, []);
        assert_eq!(regions.take(4, Duration::ZERO), Some(0));
        regions.retain(&BTreeSet::new(), Duration::ZERO);
        assert_eq!(regions.take(1, REST / 2), None);
        assert_eq!(regions.take(1, REST), Some(0));
    }

    #[test]
    fn regions_of_the_last_run_are_not_taken() {
        let mut regions = Regions::new(10, [(2, 3), (7, 2)]);
        assert_eq!(regions.take(2, Duration::ZERO), Some(0));
        assert_eq!(regions.take(3, Duration::ZERO), None);
        assert_eq!(regions.take(2, Duration::ZERO), Some(5));
        assert_eq!(regions.take(1, Duration::ZERO), Some(9));
        assert_eq!(regions.free(), 0);
    }

    proptest! {
        #[test]
        fn regions_never_overlap(turns in proptest::collection::vec((1..20_u16, any::<prop::sample::Index>(), 0..1500_u64), 1..80)) {
            let mut regions = Regions::new(100, []);
            let (mut held, mut now) = (BTreeMap::<u32, u16>::new(), Duration::ZERO);
            for (count, leaver, wait) in turns {
                now += Duration::from_millis(wait);
                if let Some(base) = regions.take(count, now) {
                    prop_assert!(end(base, count) <= 100);
                    for (other, taken) in &held {
                        prop_assert!(end(base, count) <= *other || end(*other, *taken) <= base);
                    }
                    held.insert(base, count);
                }
                if !held.is_empty() {
                    let base = *held.keys().nth(leaver.index(held.len())).unwrap();
                    held.remove(&base);
                }
                regions.retain(&held.keys().copied().collect(), now);
            }
        }
    }
}
