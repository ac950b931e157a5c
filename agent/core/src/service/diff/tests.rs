//! Histories of tables, performed change by change on maps in memory.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ebpf_common::lookup::{Caller, Choice, World, choose};
use ebpf_common::maps::{Affinity, AffinityKey, Region, TCP, Traits};
use proptest::prelude::*;

use super::super::image::{Capacity, Ledger};
use super::super::table::{Entry, Frontend, Kind, Rules, Scope, ServiceTable};
use super::super::topology::Backends;
use super::super::{Protocol, ServiceName, ServicePort};
use super::*;

/// The kernel's maps as a program sees them: slots keep whatever was written last.
#[derive(Clone)]
struct Kernel {
    services: BTreeMap<Frontend4, Service>,
    slots: Vec<Option<Slot4>>,
    counters: BTreeSet<u32>,
    members: BTreeSet<Member>,
    draw: u32,
}

impl World<Frontend4, Slot4> for Kernel {
    fn service(&self, frontend: &Frontend4) -> Option<Service> {
        self.services.get(frontend).copied()
    }

    fn slot(&self, index: u32) -> Option<Slot4> {
        self.slots.get(index as usize).copied().flatten()
    }

    fn caller(&self) -> Caller {
        Caller {
            is_node: true,
            address: None,
            identity: [0; 4],
        }
    }

    fn draw(&self, _: Traits) -> u32 {
        self.draw
    }

    fn now(&self) -> u32 {
        0
    }

    fn affinity(&self, _: &AffinityKey) -> Option<Affinity> {
        None
    }

    fn keep(&self, key: &AffinityKey, affinity: &Affinity) {
        let member = Member::new(key.id(), &affinity.backend(), Traits::NONE);
        assert!(
            self.members.contains(&member),
            "a client could not come back to {member:?}"
        );
    }

    fn is_member(&self, member: &Member) -> bool {
        self.members.contains(member)
    }

    fn allows(&self, _: u32, _: &[u32; 4]) -> bool {
        true
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
            MapStep::AddMember(member) => drop(self.members.insert(*member)),
            MapStep::DropMember(member) => drop(self.members.remove(member)),
            MapStep::Write6 { .. }
            | MapStep::Withdraw6(_)
            | MapStep::Publish6(..)
            | MapStep::AddRange(_)
            | MapStep::DropRange(_)
            | MapStep::SetClient(..)
            | MapStep::DropClient(_) => {}
        }
        after_each(self);
    }

    /// Every backend that a frontend can lead to.
    fn backends(&self, key: &Frontend4) -> Option<BTreeSet<SocketAddr>> {
        let count = u64::from(self.services.get(key)?.region.count()).max(1);
        let mut found = BTreeSet::new();
        for slot in 0..count {
            let draw = u32::try_from((slot << 32).div_ceil(count)).unwrap();
            match choose(&Kernel { draw, ..self.clone() }, key) {
                Choice::NotAService => return None,
                Choice::Refused { .. } | Choice::Dropped { .. } => {}
                Choice::Backend { backend, .. } => {
                    found.insert(SocketAddr::new(backend.ip(), u16::from_be(backend.port)));
                }
            }
        }
        Some(found)
    }

    /// What a new agent reads after a restart.
    fn dump(&self) -> Image {
        let mut image = Image {
            counters: self.services.values().map(|service| service.id).collect(),
            members: self.members.clone(),
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
            name: format!("s{number}").into(),
        };
        let owner = ServicePort {
            service,
            protocol: Protocol::Tcp,
            port: 80,
        };
        let backend = |bit: u8| SocketAddr::new(Ipv4Addr::new(10, 244, *number, bit).into(), 8080);
        let backends: Backends = (0..8).filter(|bit| backends & (1 << bit) != 0).map(backend).collect();
        let rules = Rules {
            drops: backends.is_empty() && number % 2 == 0,
            affinity: (number % 3 == 0).then_some(10),
            ..Rules::default()
        };
        // Two addresses of one port, which share their region.
        for net in [96, 97] {
            let frontend = Frontend {
                address: SocketAddr::new(Ipv4Addr::new(10, net, 0, *number).into(), 80),
                protocol: Protocol::Tcp,
                scope: Scope::Inside,
            };
            let entry = Entry {
                owner: owner.clone(),
                kind: Kind::ClusterIp,
                rules: rules.clone(),
                backends: backends.clone(),
            };
            table.frontends.insert(frontend, entry);
        }
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
    /// before and wherever an agent was killed; and with enough room the end is the table. A turn that is planned for what
    /// changes alone takes the same steps to the same end as one that is planned for everything.
    #[test]
    fn no_prefix_of_the_steps_breaks_a_service(history in history()) {
        let empty = Kernel { services: BTreeMap::new(), slots: vec![None; SLOTS as usize], counters: BTreeSet::new(), members: BTreeSet::new(), draw: 0 };
        let mut kernel = empty;
        let mut have = Image::default();
        let mut ledger = Ledger::restore(&have, small());
        let (mut now, mut old) = (Duration::ZERO, ServiceTable::default());
        // Whether the maps hold exactly what the old table says.
        let mut is_exact = true;
        for (rows, wait, killed) in history {
            now += Duration::from_millis(wait);
            let mut new = table(&rows);
            let parted = is_exact.then(|| part(&ledger, &have, &old, &new, now)).flatten();
            let (want, problems) = ledger.image(&new.frontends, &have, now);
            keep_old(&mut new, &old, &problems);
            let steps = diff(&have, &want);
            if problems.is_empty() && let Some(parted) = &parted {
                prop_assert_eq!(&steps, &parted.steps);
                prop_assert_eq!(&want, &parted.image);
            }
            is_exact = problems.is_empty();
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
                if is_exact && let Some(parted) = parted {
                    prop_assert_eq!(&ledger, &parted.ledger);
                }
            } else {
                // Whatever the maps hold is the old table of the agent that comes next.
                is_exact = false;
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
        let (want, _) = ledger.image(&table.frontends, &Image::default(), Duration::ZERO);
        let mut have = Image::default();
        for step in diff(&have, &want) {
            apply(&mut have, &step);
        }
        prop_assert_eq!(&have, &want);
        let (again, _) = Ledger::restore(&have, small()).image(&table.frontends, &have, Duration::ZERO);
        prop_assert_eq!(diff(&have, &again), vec![]);
    }
}

/// The same turn, planned for what changes alone.
struct Parted {
    steps: Vec<MapStep>,
    image: Image,
    ledger: Ledger,
}

fn part(ledger: &Ledger, have: &Image, old: &ServiceTable, new: &ServiceTable, now: Duration) -> Option<Parted> {
    let (mut ledger, mut image) = (ledger.clone(), have.clone());
    let services = |table: &ServiceTable, other: &ServiceTable| -> BTreeSet<ServiceName> {
        let changed = table
            .frontends
            .iter()
            .filter(|(key, entry)| other.frontends.get(key) != Some(entry));
        changed.map(|(_, entry)| entry.owner.service.clone()).collect()
    };
    let changed: BTreeSet<ServiceName> = services(old, new).union(&services(new, old)).cloned().collect();
    let is_changed = |entry: &Entry| changed.contains(&entry.owner.service);
    let before = old.frontends.iter().filter(|(_, entry)| is_changed(entry));
    let before = before.map(|(key, entry)| (*key, entry.clone())).collect();
    let after = new.frontends.iter().filter(|(_, entry)| is_changed(entry));
    let after = after.map(|(key, entry)| (*key, entry)).collect();
    let (part, want, problems) = ledger.part(&before, &after, &image, now);
    let steps = diff(&part, &want);
    ledger.settle_part(&part, &want, now);
    image.replace(&part, want);
    problems.is_empty().then_some(Parted { steps, image, ledger })
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
                backends: backends.into_iter().collect(),
                ..entry.clone()
            };
            seen.frontends.insert(*frontend, entry);
        }
    }
    seen
}

#[test]
fn the_order_is_counters_slots_withdrawals_frontends() {
    let mut ledger = Ledger::restore(&Image::default(), small());
    let (have, _) = ledger.image(&table(&[(3, 1)].into()).frontends, &Image::default(), Duration::ZERO);
    let (want, _) = ledger.image(&table(&[(6, 1)].into()).frontends, &have, Duration::ZERO);
    let mut kinds: Vec<&str> = diff(&have, &want)
        .iter()
        .map(|step| match step {
            MapStep::AddCounters(_) => "add counters",
            MapStep::AddMember(_) | MapStep::AddRange(_) | MapStep::SetClient(..) => "add companions",
            MapStep::DropMember(_) | MapStep::DropRange(_) | MapStep::DropClient(_) => "drop companions",
            MapStep::Write4 { .. } | MapStep::Write6 { .. } => "write",
            MapStep::Withdraw4(_) | MapStep::Withdraw6(_) => "withdraw",
            MapStep::Publish4(..) | MapStep::Publish6(..) => "publish",
            MapStep::DropCounters(_) => "drop counters",
        })
        .collect();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "add counters",
            "add companions",
            "write",
            "withdraw",
            "publish",
            "drop companions",
            "drop counters"
        ]
    );
}
