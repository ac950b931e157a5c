//! From what the maps hold to what they should hold, in an order that no client notices.
//!
//! A region is written before a frontend points to it, a frontend changes by one update, and nothing is taken away that a
//! frontend still needs. After any prefix of the steps every frontend leads to backends of the old or of the new table.

use std::collections::BTreeMap;

use ebpf_common::maps::{Frontend4, Frontend6, Service, Slot4, Slot6};

use super::image::{Half, Image};

/// One change of one map. Each may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapStep {
    /// Begin to count for a Service port.
    AddCounters(u32),
    /// Write backends into slots that no frontend uses.
    Write4 {
        /// The first slot.
        base: u32,
        /// The backends.
        slots: Vec<Slot4>,
    },
    /// Write backends into slots that no frontend uses.
    Write6 {
        /// The first slot.
        base: u32,
        /// The backends.
        slots: Vec<Slot6>,
    },
    /// Take away a frontend that is not wanted any more.
    Withdraw4(Frontend4),
    /// Take away a frontend that is not wanted any more.
    Withdraw6(Frontend6),
    /// Let a frontend lead to a region, from now on.
    Publish4(Frontend4, Service),
    /// Let a frontend lead to a region, from now on.
    Publish6(Frontend6, Service),
    /// Stop counting for a Service port and forget its counts.
    DropCounters(u32),
}

/// The steps from `have` to `want`. To be asked only when all Services are known: what is not wanted goes.
pub fn diff(have: &Image, want: &Image) -> Vec<MapStep> {
    let mut steps: Vec<MapStep> = want
        .counters
        .difference(&have.counters)
        .copied()
        .map(MapStep::AddCounters)
        .collect();
    steps.extend(new_regions(&have.v4, &want.v4).map(|(base, slots)| MapStep::Write4 { base, slots }));
    steps.extend(new_regions(&have.v6, &want.v6).map(|(base, slots)| MapStep::Write6 { base, slots }));
    // Before the others come in, so that a full map has room for them.
    steps.extend(gone(&have.v4, &want.v4).map(MapStep::Withdraw4));
    steps.extend(gone(&have.v6, &want.v6).map(MapStep::Withdraw6));
    steps.extend(changed(&have.v4, &want.v4).map(|(key, service)| MapStep::Publish4(key, service)));
    steps.extend(changed(&have.v6, &want.v6).map(|(key, service)| MapStep::Publish6(key, service)));
    steps.extend(
        have.counters
            .difference(&want.counters)
            .copied()
            .map(MapStep::DropCounters),
    );
    steps
}

fn new_regions<K, S: PartialEq + Clone>(have: &Half<K, S>, want: &Half<K, S>) -> impl Iterator<Item = (u32, Vec<S>)> {
    want.regions
        .iter()
        .filter(|(base, slots)| have.regions.get(base) != Some(slots))
        .map(|(base, slots)| (*base, slots.clone()))
}

fn gone<K: Ord + Copy, S>(have: &Half<K, S>, want: &Half<K, S>) -> impl Iterator<Item = K> {
    have.services
        .keys()
        .filter(|key| !want.services.contains_key(key))
        .copied()
}

fn changed<K: Ord + Copy, S>(have: &Half<K, S>, want: &Half<K, S>) -> impl Iterator<Item = (K, Service)> {
    let differs = |(key, service): &(&K, &Service)| have.services.get(key) != Some(service);
    want.services
        .iter()
        .filter(differs)
        .map(|(key, service)| (*key, *service))
}

/// What one step makes of the maps, for keeping an account of them without reading them again.
pub fn apply(image: &mut Image, step: &MapStep) {
    match step {
        MapStep::AddCounters(id) => drop(image.counters.insert(*id)),
        MapStep::Write4 { base, slots } => write(&mut image.v4.regions, *base, slots),
        MapStep::Write6 { base, slots } => write(&mut image.v6.regions, *base, slots),
        MapStep::Withdraw4(key) => drop(image.v4.services.remove(key)),
        MapStep::Withdraw6(key) => drop(image.v6.services.remove(key)),
        MapStep::Publish4(key, service) => drop(image.v4.services.insert(*key, *service)),
        MapStep::Publish6(key, service) => drop(image.v6.services.insert(*key, *service)),
        MapStep::DropCounters(id) => drop(image.counters.remove(id)),
    }
}

/// Regions that the new one overlaps were free; what is known of them is not true any more.
fn write<S: Clone>(regions: &mut BTreeMap<u32, Vec<S>>, base: u32, slots: &[S]) {
    let end = |base: u32, slots: &[S]| u64::from(base) + slots.len() as u64;
    let last = end(base, slots);
    regions.retain(|other, old| end(*other, old) <= u64::from(base) || u64::from(*other) >= last);
    regions.insert(base, slots.to_vec());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use ebpf_common::lookup::{Choice, Maps, choose};
    use ebpf_common::maps::{Region, TCP};
    use proptest::prelude::*;

    use super::super::image::{Capacity, Ledger};
    use super::super::table::{Entry, Frontend, ServiceTable};
    use super::super::{Protocol, ServiceName, ServicePort};
    use super::*;

    /// The kernel's maps as a program sees them: slots keep whatever was written last.
    #[derive(Clone)]
    struct Kernel {
        services: BTreeMap<Frontend4, Service>,
        slots: Vec<Option<Slot4>>,
        counters: BTreeSet<u32>,
    }

    impl Maps<Frontend4, Slot4> for Kernel {
        fn service(&self, frontend: &Frontend4) -> Option<Service> {
            self.services.get(frontend).copied()
        }

        fn slot(&self, index: u32) -> Option<Slot4> {
            self.slots.get(index as usize).copied().flatten()
        }
    }

    impl Kernel {
        /// A write of several slots is cut anywhere, so it counts as one change for each slot.
        fn perform(&mut self, step: &MapStep, mut after_each: impl FnMut(&Kernel)) {
            match step {
                MapStep::Write4 { base, slots } => {
                    for (offset, slot) in slots.iter().enumerate() {
                        self.slots[*base as usize + offset] = Some(*slot);
                        after_each(self);
                    }
                }
                MapStep::Withdraw4(key) => drop(self.services.remove(key)),
                MapStep::Publish4(key, service) => drop(self.services.insert(*key, *service)),
                MapStep::AddCounters(id) => drop(self.counters.insert(*id)),
                MapStep::DropCounters(id) => drop(self.counters.remove(id)),
                MapStep::Write6 { .. } | MapStep::Withdraw6(_) | MapStep::Publish6(..) => {}
            }
            after_each(self);
        }

        /// Every backend that a frontend can lead to.
        fn backends(&self, key: &Frontend4) -> Option<BTreeSet<SocketAddr>> {
            let count = u64::from(self.services.get(key)?.region.count()).max(1);
            let mut found = BTreeSet::new();
            for slot in 0..count {
                let draw = u32::try_from((slot << 32).div_ceil(count)).unwrap();
                match choose(self, key, || draw) {
                    Choice::NotAService => return None,
                    Choice::Refused { .. } => {}
                    Choice::Backend { slot, .. } => {
                        let (address, port) = slot.endpoint();
                        found.insert(SocketAddr::new(address.into(), port));
                    }
                }
            }
            Some(found)
        }

        /// What a new agent reads after a restart.
        fn dump(&self) -> Image {
            let mut image = Image {
                counters: self.counters.clone(),
                ..Image::default()
            };
            for (key, service) in &self.services {
                let region: Region = service.region;
                let run = (0..u32::from(region.count())).map(|offset| self.slot(region.base() + offset).unwrap());
                image.v4.services.insert(*key, *service);
                if region.count() > 0 {
                    image.v4.regions.insert(region.base(), run.collect());
                }
            }
            image
        }
    }

    /// A table: for each frontend a bit set of backends.
    fn table(rows: &BTreeMap<u8, u8>) -> ServiceTable {
        let mut table = ServiceTable::default();
        for (number, backends) in rows {
            let service = ServiceName {
                namespace: "default".into(),
                name: format!("s{number}"),
            };
            let owner = ServicePort {
                service,
                protocol: Protocol::Tcp,
                port: 80,
            };
            let backend = |bit: u8| SocketAddr::new(Ipv4Addr::new(10, 244, *number, bit).into(), 8080);
            let backends = (0..8).filter(|bit| backends & (1 << bit) != 0).map(backend).collect();
            let address = SocketAddr::new(Ipv4Addr::new(10, 96, 0, *number).into(), 80);
            table.frontends.insert(
                Frontend {
                    address,
                    protocol: Protocol::Tcp,
                },
                Entry { owner, backends },
            );
        }
        table
    }

    fn key(frontend: &Frontend) -> Frontend4 {
        let SocketAddr::V4(address) = frontend.address else {
            unreachable!("only IPv4 in this table")
        };
        Frontend4::new(*address.ip(), address.port(), TCP)
    }

    fn expected(table: &ServiceTable) -> BTreeMap<Frontend4, BTreeSet<SocketAddr>> {
        table
            .frontends
            .iter()
            .map(|(key_, entry)| (key(key_), entry.backends.iter().copied().collect()))
            .collect()
    }

    fn check(kernel: &Kernel, old: &ServiceTable, new: &ServiceTable) {
        let (old, new) = (expected(old), expected(new));
        for key in old.keys().chain(new.keys()) {
            let now = kernel.backends(key);
            assert!(
                now.as_ref() == old.get(key) || now.as_ref() == new.get(key),
                "{key:?} leads to {now:?}, not to {:?} or {:?}",
                old.get(key),
                new.get(key)
            );
        }
    }

    const SLOTS: u32 = 64;

    fn small() -> Capacity {
        Capacity {
            frontends: (16, 16),
            slots: (SLOTS, SLOTS),
        }
    }

    /// A turn of history: a new table, how long after the last, and whether the agent is killed in the middle of it.
    type Turn = (BTreeMap<u8, u8>, u64, Option<prop::sample::Index>);

    fn history() -> impl Strategy<Value = Vec<Turn>> {
        let rows = proptest::collection::btree_map(0..8_u8, any::<u8>(), 0..8);
        proptest::collection::vec(
            (
                rows,
                0..2500_u64,
                proptest::option::weighted(0.3, any::<prop::sample::Index>()),
            ),
            1..12,
        )
    }

    proptest! {
        /// After every single change each frontend leads to exactly its old or exactly its new backends, whatever came
        /// before and wherever an agent was killed; and with enough room the end is the table.
        #[test]
        fn no_prefix_of_the_steps_breaks_a_service(history in history()) {
            let empty = Kernel { services: BTreeMap::new(), slots: vec![None; SLOTS as usize], counters: BTreeSet::new() };
            let mut kernel = empty;
            let mut have = Image::default();
            let mut ledger = Ledger::restore(&have, small());
            let (mut now, mut old) = (Duration::ZERO, ServiceTable::default());
            for (rows, wait, killed) in history {
                now += Duration::from_millis(wait);
                let mut new = table(&rows);
                let (want, problems) = ledger.image(&new, &have, now);
                keep_old(&mut new, &old, &problems);
                let steps = diff(&have, &want);
                let cut = killed.map_or(steps.len(), |cut| cut.index(steps.len() + 1));
                for step in &steps[..cut] {
                    kernel.perform(step, |kernel| check(kernel, &old, &new));
                    apply(&mut have, step);
                }
                if cut == steps.len() {
                    prop_assert_eq!(&expected(&new), &reached(&kernel));
                    old = new;
                    ledger.settle(&want, now);
                    have = want;
                } else {
                    // Whatever the maps hold is the old table of the agent that comes next.
                    old = seen(&kernel, &old, &new);
                    have = kernel.dump();
                    ledger = Ledger::restore(&have, small());
                }
            }
        }

        #[test]
        fn an_image_that_is_reached_needs_no_steps(rows in proptest::collection::btree_map(0..8_u8, any::<u8>(), 0..8)) {
            let mut ledger = Ledger::restore(&Image::default(), small());
            let table = table(&rows);
            let (want, _) = ledger.image(&table, &Image::default(), Duration::ZERO);
            let mut have = Image::default();
            for step in diff(&have, &want) {
                apply(&mut have, &step);
            }
            prop_assert_eq!(&have, &want);
            let (again, _) = Ledger::restore(&have, small()).image(&table, &have, Duration::ZERO);
            prop_assert_eq!(diff(&have, &again), vec![]);
        }
    }

    fn reached(kernel: &Kernel) -> BTreeMap<Frontend4, BTreeSet<SocketAddr>> {
        kernel
            .services
            .keys()
            .filter_map(|key| Some((*key, kernel.backends(key)?)))
            .collect()
    }

    /// A Service that found no room stays as it was.
    fn keep_old(new: &mut ServiceTable, old: &ServiceTable, problems: &super::super::image::Problems) {
        let stuck: Vec<Frontend> = new
            .frontends
            .iter()
            .filter(|(_, entry)| problems.contains_key(&entry.owner.service))
            .map(|(frontend, _)| *frontend)
            .collect();
        for frontend in stuck {
            match old.frontends.get(&frontend) {
                Some(entry) => drop(new.frontends.insert(frontend, entry.clone())),
                None => drop(new.frontends.remove(&frontend)),
            }
        }
    }

    /// The table of what an agent left behind when it was killed.
    fn seen(kernel: &Kernel, old: &ServiceTable, new: &ServiceTable) -> ServiceTable {
        let mut seen = ServiceTable::default();
        for (frontend, entry) in old.frontends.iter().chain(&new.frontends) {
            if let Some(backends) = kernel.backends(&key(frontend)) {
                let entry = Entry {
                    owner: entry.owner.clone(),
                    backends: backends.into_iter().collect(),
                };
                seen.frontends.insert(*frontend, entry);
            }
        }
        seen
    }

    #[test]
    fn the_order_is_counters_slots_withdrawals_frontends() {
        let mut ledger = Ledger::restore(&Image::default(), small());
        let (have, _) = ledger.image(&table(&[(1, 1)].into()), &Image::default(), Duration::ZERO);
        let (want, _) = ledger.image(&table(&[(2, 3)].into()), &have, Duration::ZERO);
        let kinds: Vec<&str> = diff(&have, &want)
            .iter()
            .map(|step| match step {
                MapStep::AddCounters(_) => "add counters",
                MapStep::Write4 { .. } | MapStep::Write6 { .. } => "write",
                MapStep::Withdraw4(_) | MapStep::Withdraw6(_) => "withdraw",
                MapStep::Publish4(..) | MapStep::Publish6(..) => "publish",
                MapStep::DropCounters(_) => "drop counters",
            })
            .collect();
        assert_eq!(kinds, ["add counters", "write", "withdraw", "publish", "drop counters"]);
    }
}
