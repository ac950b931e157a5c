//! What every map should hold, value for value, for a table of Services.
//!
//! A frontend whose backends have not changed keeps its region and its id; any other gets a region of its own that
//! nobody reads yet. So an image never asks for a slot to be rewritten that a program may be reading.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ebpf_common::lookup::Frontend as _;
use ebpf_common::maps::{
    Frontend4, Frontend6, MAX_COUNTERS, MAX_FRONTENDS4, MAX_FRONTENDS6, MAX_SLOTS4, MAX_SLOTS6, Region, Service, Slot4,
    Slot6, TCP, UDP,
};

use super::ids::{Ids, Regions};
use super::table::{Entry, Frontend, ServiceTable};
use super::{Protocol, ServiceName, ServicePort};

/// The content of all maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// `svc4` and `slots4`.
    pub v4: Half<Frontend4, Slot4>,
    /// `svc6` and `slots6`.
    pub v6: Half<Frontend6, Slot6>,
    /// Keys of `counters`.
    pub counters: BTreeSet<u32>,
}

/// The content of one family's maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half<K, S> {
    /// Frontends.
    pub services: BTreeMap<K, Service>,
    /// Regions by their first slot. A slot that no region holds may have any content.
    pub regions: BTreeMap<u32, Vec<S>>,
}

impl<K, S> Default for Half<K, S> {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            regions: BTreeMap::new(),
        }
    }
}

/// The room in the maps and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    ids: Ids,
    v4: Regions,
    v6: Regions,
    max_frontends: (usize, usize),
}

/// Sizes of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Entries of `svc4` and of `svc6`.
    pub frontends: (u32, u32),
    /// Entries of `slots4` and of `slots6`.
    pub slots: (u32, u32),
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            frontends: (MAX_FRONTENDS4, MAX_FRONTENDS6),
            slots: (MAX_SLOTS4, MAX_SLOTS6),
        }
    }
}

/// Why a Service's frontend is not in the image as the table has it.
pub type Problems = BTreeMap<ServiceName, BTreeSet<String>>;

impl Ledger {
    /// The ledger that follows from what the maps hold.
    pub fn restore(have: &Image, capacity: Capacity) -> Self {
        let ids = have
            .v4
            .services
            .values()
            .chain(have.v6.services.values())
            .map(|service| service.id);
        let last = ids.chain(have.counters.iter().copied()).max().unwrap_or(0);
        let size = |entries: u32| entries as usize;
        Self {
            ids: Ids::after(last),
            v4: Regions::new(capacity.slots.0, used(&have.v4)),
            v6: Regions::new(capacity.slots.1, used(&have.v6)),
            max_frontends: (size(capacity.frontends.0), size(capacity.frontends.1)),
        }
    }

    /// Plans the image of a table, starting from what the maps hold at `now`, a time that never goes back.
    pub fn image(&mut self, table: &ServiceTable, have: &Image, now: Duration) -> (Image, Problems) {
        let mut problems = Problems::new();
        self.assign_ids(table, have);
        let ids = self.ids.ports();
        let mut v4 = Plan::new(&have.v4, &mut self.v4, self.max_frontends.0, now);
        let mut v6 = Plan::new(&have.v6, &mut self.v6, self.max_frontends.1, now);
        for (frontend, entry) in &table.frontends {
            let id = ids.get(&entry.owner).copied().unwrap_or(0);
            let placed = match frontend.address.ip() {
                IpAddr::V4(address) => {
                    let key = Frontend4::new(address, frontend.address.port(), number(frontend.protocol));
                    v4.place(key, key.check(), id, slots4(entry))
                }
                IpAddr::V6(address) => {
                    let key = Frontend6::new(address, frontend.address.port(), number(frontend.protocol));
                    v6.place(key, key.check(), id, slots6(entry))
                }
            };
            if let Err(problem) = placed {
                let problems = problems.entry(entry.owner.service.clone()).or_default();
                problems.insert(format!("{}: {problem}", frontend.address));
            }
        }
        let (v4, v6) = (v4.want, v6.want);
        let counters = ids.values().copied().take(MAX_COUNTERS as usize).collect();
        (Image { v4, v6, counters }, problems)
    }

    /// Takes note that the maps now hold `image`: what it does not use may be given to others, after a rest.
    pub fn settle(&mut self, image: &Image, now: Duration) {
        self.v4.retain(&image.v4.regions.keys().copied().collect(), now);
        self.v6.retain(&image.v6.regions.keys().copied().collect(), now);
    }

    /// Ids by Service port, for reading the counters.
    pub fn ids(&self) -> &BTreeMap<ServicePort, u32> {
        self.ids.ports()
    }

    fn assign_ids(&mut self, table: &ServiceTable, have: &Image) {
        self.ids
            .retain(&table.frontends.values().map(|entry| &entry.owner).collect());
        for (frontend, entry) in &table.frontends {
            self.ids.of(&entry.owner, have.id(frontend));
        }
    }
}

impl Image {
    fn id(&self, frontend: &Frontend) -> Option<u32> {
        let (port, protocol) = (frontend.address.port(), number(frontend.protocol));
        let service = match frontend.address.ip() {
            IpAddr::V4(address) => self.v4.services.get(&Frontend4::new(address, port, protocol)),
            IpAddr::V6(address) => self.v6.services.get(&Frontend6::new(address, port, protocol)),
        };
        service.map(|service| service.id)
    }
}

/// One family's image while it is planned.
struct Plan<'a, K, S> {
    have: &'a Half<K, S>,
    room: &'a mut Regions,
    max_frontends: usize,
    now: Duration,
    want: Half<K, S>,
}

impl<'a, K: Ord + Copy, S: PartialEq + Clone> Plan<'a, K, S> {
    fn new(have: &'a Half<K, S>, room: &'a mut Regions, max_frontends: usize, now: Duration) -> Self {
        Self {
            have,
            room,
            max_frontends,
            now,
            want: Half::default(),
        }
    }

    /// Puts a frontend into the image. Where there is no room for its backends it stays as it is, if it is there.
    fn place(&mut self, key: K, check: u16, id: u32, slots: Vec<S>) -> Result<(), String> {
        if self.want.services.len() >= self.max_frontends {
            return Err(format!("the map is full with {} addresses", self.max_frontends));
        }
        if let Some(region) = self.kept(&key, check, &slots) {
            self.want.add(key, Service::new(region, id), slots);
            return Ok(());
        }
        match self.region(check, slots.len()) {
            Ok(region) => self.want.add(key, Service::new(region, id), slots),
            Err(problem) => {
                if let Some((service, slots)) = self.present(&key, check) {
                    self.want.add(key, service, slots);
                }
                return Err(problem);
            }
        }
        Ok(())
    }

    /// The region that the frontend has, if it holds exactly these backends.
    fn kept(&self, key: &K, check: u16, slots: &[S]) -> Option<Region> {
        let (service, present) = self.present(key, check)?;
        (present == slots).then_some(service.region)
    }

    fn present(&self, key: &K, check: u16) -> Option<(Service, Vec<S>)> {
        let service = *self.have.services.get(key)?;
        let slots = self.have.slots(&service)?;
        (service.region.check() == check).then_some((service, slots))
    }

    fn region(&mut self, check: u16, count: usize) -> Result<Region, String> {
        let count = u16::try_from(count).map_err(|_| format!("{count} backends are more than {}", u16::MAX))?;
        if count == 0 {
            return Ok(Region::new(0, 0, check));
        }
        let base = self.room.take(count, self.now);
        let base = base.ok_or_else(|| format!("no room for {count} backends, {} slots are free", self.room.free()))?;
        Ok(Region::new(base, count, check))
    }
}

impl<K: Ord, S: Clone> Half<K, S> {
    fn add(&mut self, key: K, service: Service, slots: Vec<S>) {
        self.services.insert(key, service);
        if !slots.is_empty() {
            self.regions.insert(service.region.base(), slots);
        }
    }

    /// The backends of a frontend; `None` when its region is not as long as it says.
    fn slots(&self, service: &Service) -> Option<Vec<S>> {
        let count = usize::from(service.region.count());
        if count == 0 {
            return Some(Vec::new());
        }
        self.regions
            .get(&service.region.base())
            .filter(|slots| slots.len() == count)
            .cloned()
    }
}

fn used<K, S>(half: &Half<K, S>) -> impl Iterator<Item = (u32, u16)> {
    half.services
        .values()
        .map(|service| (service.region.base(), service.region.count()))
}

/// The IP protocol number.
pub fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}

fn slots4(entry: &Entry) -> Vec<Slot4> {
    let v4 = |backend: &SocketAddr| match backend {
        SocketAddr::V4(backend) => Some(Slot4::new(*backend.ip(), backend.port())),
        SocketAddr::V6(_) => None,
    };
    entry.backends.iter().filter_map(v4).collect()
}

fn slots6(entry: &Entry) -> Vec<Slot6> {
    let v6 = |backend: &SocketAddr| match backend {
        SocketAddr::V4(_) => None,
        SocketAddr::V6(backend) => Some(Slot6::new(*backend.ip(), backend.port())),
    };
    entry.backends.iter().filter_map(v6).collect()
}
