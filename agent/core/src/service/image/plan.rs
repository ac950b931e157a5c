//! Planning an image: a frontend at a time, each with the region that it has, one that it shares, or a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use ebpf_common::lookup::{Frontend as _, Slot as _};
use ebpf_common::maps::{
    Frontend4, Frontend6, MAX_IDS, MAX_MEMBERS, MAX_RANGES, Member, Region, Service, Slot4, Slot6, Traits,
};

use super::super::ids::Regions;
use super::super::maglev;
use super::super::table::{Entry, Frontend, Rules};
use super::{Half, Image, Key, Range, Room, key};

/// An image while it is planned.
pub(super) struct Draft<'a> {
    pub(super) have: &'a Image,
    pub(super) v4: Plan<'a, Frontend4, Slot4>,
    pub(super) v6: Plan<'a, Frontend6, Slot6>,
    /// What is in use by frontends that stay as they are.
    pub(super) others: Room,
    pub(super) want: Image,
}

impl Draft<'_> {
    pub(super) fn place(&mut self, frontend: &Frontend, entry: &Entry, id: Option<u32>) -> Result<(), String> {
        let placed = match id {
            None => Err(format!("all {MAX_IDS} Service ports are taken")),
            Some(id) => self.place_with(id, frontend, entry),
        };
        if placed.is_err() {
            self.keep(frontend);
        }
        placed
    }

    fn place_with(&mut self, id: u32, frontend: &Frontend, entry: &Entry) -> Result<(), String> {
        let (ranges, members) = self.companions(id, entry)?;
        let traits = traits(&entry.rules);
        let value = |region: Region| Service::new(region.with(traits), id).keeping(entry.rules.affinity.unwrap_or(0));
        match key(frontend) {
            Key::V4(key) => self.v4.place(key, key.check(), id, slots(entry, slot4), value)?,
            Key::V6(key) => self.v6.place(key, key.check(), id, slots(entry, slot6), value)?,
        }
        self.want.counters.insert(id);
        self.want.ranges.extend(ranges);
        self.want.members.extend(members);
        Ok(())
    }

    /// What a frontend needs in other maps, if there is room for it.
    fn companions(&self, id: u32, entry: &Entry) -> Result<(Vec<Range>, Vec<Member>), String> {
        let (ranges, members) = companions(id, entry);
        let fits = |others: usize, have: usize, more: usize, limit: u32| others + have + more <= limit as usize;
        if !fits(self.others.ranges, self.want.ranges.len(), ranges.len(), MAX_RANGES) {
            return Err(format!("the map is full with {MAX_RANGES} source ranges"));
        }
        if !fits(self.others.members, self.want.members.len(), members.len(), MAX_MEMBERS) {
            return Err(format!(
                "the map is full with {MAX_MEMBERS} backends of Services with session affinity"
            ));
        }
        Ok((ranges, members))
    }

    /// Leaves a frontend as it is, with all that it needs.
    fn keep(&mut self, frontend: &Frontend) {
        let kept = match key(frontend) {
            Key::V4(key) => self.v4.keep(key, key.check()),
            Key::V6(key) => self.v6.keep(key, key.check()),
        };
        if let Some(id) = kept {
            self.want.counters.insert(id);
            let ranges = self.have.ranges.iter().filter(|range| range.key.id() == id);
            self.want.ranges.extend(ranges);
            let members = self.have.members.iter().filter(|member| member.id() == id);
            self.want.members.extend(members);
        }
    }

    pub(super) fn finish(self) -> Image {
        Image {
            v4: self.v4.finish(),
            v6: self.v6.finish(),
            // Who the clients are is none of the Services' business.
            clients: self.have.clients.clone(),
            ..self.want
        }
    }
}

/// What a frontend needs in other maps.
pub(super) fn companions(id: u32, entry: &Entry) -> (Vec<Range>, Vec<Member>) {
    let ranges = entry.rules.ranges.iter().flatten().map(|range| Range::new(id, range));
    let traits = traits(&entry.rules);
    let members = match entry.rules.affinity {
        Some(_) => slots_once(entry).map(|peer| Member::new(id, &peer, traits)).collect(),
        None => Vec::new(),
    };
    (ranges.collect(), members)
}

fn traits(rules: &Rules) -> Traits {
    Traits::NONE
        .and_if(rules.drops, Traits::DROPS)
        .and_if(rules.affinity.is_some(), Traits::STICKY)
        .and_if(rules.ranges.is_some(), Traits::GUARDED)
        .and_if(rules.node_only, Traits::NODE_ONLY)
        .and_if(rules.local, Traits::LOCAL)
        .and_if(rules.maglev, Traits::MAGLEV)
        .and_if(rules.direct, Traits::DIRECT)
}

/// One family's image while it is planned.
pub(super) struct Plan<'a, K, S> {
    have: &'a Half<K, S>,
    room: &'a mut Regions,
    max_frontends: usize,
    now: Duration,
    /// Frontends in the order in which they came.
    services: Vec<(K, Service)>,
    regions: BTreeMap<u32, Vec<S>>,
    /// Ids of Service ports with the first slots of the regions that they have by now.
    bases: BTreeSet<(u32, u32)>,
}

impl<'a, K: Ord + Copy, S: PartialEq + Clone> Plan<'a, K, S> {
    pub(super) fn new(have: &'a Half<K, S>, room: &'a mut Regions, max_frontends: usize, now: Duration) -> Self {
        Self {
            have,
            room,
            max_frontends,
            now,
            services: Vec::new(),
            regions: BTreeMap::new(),
            bases: BTreeSet::new(),
        }
    }

    /// Puts a frontend into the image, with a region of exactly these slots: the one that it has, one that another
    /// frontend of the port has, or a new one.
    fn place(
        &mut self,
        key: K,
        check: u16,
        id: u32,
        slots: Vec<S>,
        value: impl FnOnce(Region) -> Service,
    ) -> Result<(), String> {
        if self.services.len() >= self.max_frontends {
            return Err(format!("the map is full with {} addresses", self.max_frontends));
        }
        let count =
            u16::try_from(slots.len()).map_err(|_| format!("{} backends are more than {}", slots.len(), u16::MAX))?;
        let base = if count == 0 {
            0
        } else if let Some(base) = self.shared(id, &slots) {
            base
        } else {
            let base = match self.kept(&key, check, id, &slots) {
                Some(base) => base,
                None => self.take(count)?,
            };
            self.bases.insert((id, base));
            self.regions.insert(base, slots);
            base
        };
        self.services.push((key, value(Region::new(base, count, check))));
        Ok(())
    }

    fn shared(&self, id: u32, slots: &[S]) -> Option<u32> {
        let bases = self.bases.range((id, 0)..=(id, u32::MAX));
        bases
            .map(|(_, base)| *base)
            .find(|base| self.regions.get(base).is_some_and(|other| other == slots))
    }

    /// The region that the frontend has, if it holds exactly these backends. A region belongs to one port alone.
    fn kept(&self, key: &K, check: u16, id: u32, slots: &[S]) -> Option<u32> {
        let (service, present) = self.present(key, check)?;
        let base = service.region.base();
        let is_free = !self.regions.contains_key(&base);
        (is_free && service.id == id && present == slots).then_some(base)
    }

    fn take(&mut self, count: u16) -> Result<u32, String> {
        let base = self.room.take(count, self.now);
        base.ok_or_else(|| format!("no room for {count} backends, {} slots are free", self.room.free()))
    }

    /// Leaves the frontend as it is, if it is there; comes back with its id.
    fn keep(&mut self, key: K, check: u16) -> Option<u32> {
        let (service, slots) = self.present(&key, check)?;
        if !slots.is_empty() {
            self.regions.insert(service.region.base(), slots.to_vec());
        }
        self.services.push((key, service));
        Some(service.id)
    }

    fn finish(self) -> Half<K, S> {
        Half {
            services: self.services.into_iter().collect(),
            regions: self.regions,
        }
    }

    fn present(&self, key: &K, check: u16) -> Option<(Service, &'a [S])> {
        let service = *self.have.services.get(key)?;
        let slots = self.have.slots(&service)?;
        (service.region.check() == check).then_some((service, slots))
    }
}

/// The region of an entry: each backend once, or a Maglev table of them.
fn slots<S: Clone>(entry: &Entry, slot: impl Fn(&SocketAddr) -> Option<S>) -> Vec<S> {
    if !entry.rules.maglev {
        // As long as it has to be: it stays.
        let mut slots = Vec::with_capacity(entry.backends.len());
        slots.extend(entry.backends.iter().filter_map(slot));
        return slots;
    }
    let places = maglev::places(&entry.backends);
    places
        .into_iter()
        .filter_map(|backend| slot(entry.backends.get(backend)?))
        .collect()
}

fn slots_once(entry: &Entry) -> impl Iterator<Item = ebpf_common::record::Peer> {
    entry.backends.iter().filter_map(|backend| {
        slot4(backend)
            .map(|slot| slot.peer())
            .or_else(|| slot6(backend).map(|slot| slot.peer()))
    })
}

fn slot4(backend: &SocketAddr) -> Option<Slot4> {
    match backend {
        SocketAddr::V4(backend) => Some(Slot4::new(*backend.ip(), backend.port())),
        SocketAddr::V6(_) => None,
    }
}

fn slot6(backend: &SocketAddr) -> Option<Slot6> {
    match backend {
        SocketAddr::V4(_) => None,
        SocketAddr::V6(backend) => Some(Slot6::new(*backend.ip(), backend.port())),
    }
}
