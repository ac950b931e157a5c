//! What every map should hold, value for value, for a table of Services.
//!
//! A frontend whose backends have not changed keeps its region and its id; any other gets a region that nobody reads
//! yet. So an image never asks for a slot to be rewritten that a program may be reading.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ebpf_common::lookup::{Frontend as _, Slot};
use ebpf_common::maps::{
    Client, Frontend4, Frontend6, MAPPED, MAX_CLIENTS, MAX_FRONTENDS4, MAX_FRONTENDS6, MAX_IDS, MAX_MEMBERS,
    MAX_RANGES, MAX_SLOTS4, MAX_SLOTS6, Member, NODE, RangeKey, Region, SCTP, Service, Slot4, Slot6, TCP, Traits, UDP,
    words,
};

use super::ids::{Ids, Regions};
use super::maglev;
use super::table::{Entry, Frontend, NodeFacts, Rules, Scope, ServiceTable};
use super::{AddressRange, Protocol, ReadyPod, ServiceName, ServicePort};

/// The content of all maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// `svc4` and `slots4`.
    pub v4: Half<Frontend4, Slot4>,
    /// `svc6` and `slots6`.
    pub v6: Half<Frontend6, Slot6>,
    /// Lines of `counters` that are in use.
    pub counters: BTreeSet<u32>,
    /// `members`.
    pub members: BTreeSet<Member>,
    /// `ranges`.
    pub ranges: BTreeSet<Range>,
    /// `clients`.
    pub clients: BTreeMap<u64, Client>,
}

/// A key of `ranges`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// Length of the prefix in bits, with those of the id.
    pub bits: u32,
    /// Id and address.
    pub key: RangeKey,
}

impl Range {
    fn new(id: u32, range: &AddressRange) -> Self {
        const ID: u32 = 32;
        const ABOVE_IPV4: u32 = 96;
        let prefix = u32::from(range.prefix);
        let (bits, address) = match range.address {
            IpAddr::V4(four) => (
                ABOVE_IPV4 + prefix,
                [MAPPED[0], MAPPED[1], MAPPED[2], u32::from_ne_bytes(four.octets())],
            ),
            IpAddr::V6(six) => (prefix, words(six)),
        };
        Self {
            bits: ID + bits,
            key: RangeKey::new(id, address),
        }
    }
}

/// The content of one family's maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half<K, S> {
    /// Frontends.
    pub services: BTreeMap<K, Service>,
    /// Regions by their first slot. Frontends of one Service port share those with the same backends. A slot that no
    /// region holds may have any content.
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
        let size = |entries: u32| entries as usize;
        Self {
            ids: Ids::after(have.counters.last().copied().unwrap_or(0), MAX_IDS),
            v4: Regions::new(capacity.slots.0, used(&have.v4)),
            v6: Regions::new(capacity.slots.1, used(&have.v6)),
            max_frontends: (size(capacity.frontends.0), size(capacity.frontends.1)),
        }
    }

    /// Plans the image of a table, starting from what the maps hold at `now`, a time that never goes back.
    pub fn image(&mut self, table: &ServiceTable, have: &Image, now: Duration) -> (Image, Problems) {
        self.assign_ids(table, have);
        let mut draft = Draft {
            have,
            ids: &self.ids,
            v4: Plan::new(&have.v4, &mut self.v4, self.max_frontends.0, now),
            v6: Plan::new(&have.v6, &mut self.v6, self.max_frontends.1, now),
            want: Image::default(),
        };
        let mut problems = Problems::new();
        for (frontend, entry) in &table.frontends {
            if let Err(problem) = draft.place(frontend, entry) {
                let problems = problems.entry(entry.owner.service.clone()).or_default();
                problems.insert(format!("{}: {problem}", frontend.address));
            }
        }
        (draft.finish(), problems)
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
            // A port that gets none is told so when its frontend is placed.
            self.ids.of(&entry.owner, have.id(frontend));
        }
    }
}

impl Image {
    /// Backends of all UDP frontends.
    pub fn datagram_backends(&self) -> BTreeSet<SocketAddr> {
        let v4 = self.v4.services.iter().filter(|(key, _)| key.protocol() == UDP);
        let v6 = self.v6.services.iter().filter(|(key, _)| key.protocol() == UDP);
        let v4 = v4.flat_map(|(_, service)| self.v4.slots(service).unwrap_or_default());
        let v6 = v6.flat_map(|(_, service)| self.v6.slots(service).unwrap_or_default());
        let v4 = v4.map(|slot| SocketAddr::from(slot.endpoint()));
        v4.chain(v6.map(|slot| SocketAddr::from(slot.endpoint()))).collect()
    }

    fn id(&self, frontend: &Frontend) -> Option<u32> {
        let service = match key(frontend) {
            Key::V4(key) => self.v4.services.get(&key),
            Key::V6(key) => self.v6.services.get(&key),
        };
        service.map(|service| service.id)
    }
}

/// Lets the maps know whose connections come from which address: the node's own, and those of its pods.
pub fn clients(node: &NodeFacts, pods: &[ReadyPod]) -> BTreeMap<u64, Client> {
    let client = |addresses: &[IpAddr], is_node| {
        let four = addresses.iter().find_map(|address| match address {
            IpAddr::V4(four) => Some(*four),
            IpAddr::V6(_) => None,
        });
        let six = addresses.iter().find_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(six) => Some(*six),
        });
        Client::new(four, six, is_node)
    };
    let pods = pods
        .iter()
        .filter_map(|pod| Some((pod.namespace_cookie?, client(&pod.addresses, false))));
    let own = node
        .own
        .iter()
        .flat_map(|(cookie, addresses)| [*cookie, NODE].map(|name| (name, client(addresses, true))));
    // The node's own comes last and wins: a pod in the host's network is the node.
    pods.take(MAX_CLIENTS as usize - 2).chain(own).collect()
}

enum Key {
    V4(Frontend4),
    V6(Frontend6),
}

fn key(frontend: &Frontend) -> Key {
    let (port, protocol) = (frontend.address.port(), number(frontend.protocol));
    match frontend.address.ip() {
        IpAddr::V4(address) => {
            let key = Frontend4::new(address, port, protocol);
            Key::V4(if frontend.scope == Scope::Outside {
                key.from_outside()
            } else {
                key
            })
        }
        IpAddr::V6(address) => {
            let key = Frontend6::new(address, port, protocol);
            Key::V6(if frontend.scope == Scope::Outside {
                key.from_outside()
            } else {
                key
            })
        }
    }
}

/// An image while it is planned.
struct Draft<'a> {
    have: &'a Image,
    ids: &'a Ids,
    v4: Plan<'a, Frontend4, Slot4>,
    v6: Plan<'a, Frontend6, Slot6>,
    want: Image,
}

impl Draft<'_> {
    fn place(&mut self, frontend: &Frontend, entry: &Entry) -> Result<(), String> {
        let id = self.ids.ports().get(&entry.owner).copied();
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

    /// What a frontend needs in other maps.
    fn companions(&self, id: u32, entry: &Entry) -> Result<(Vec<Range>, Vec<Member>), String> {
        let ranges = entry.rules.ranges.iter().flatten().map(|range| Range::new(id, range));
        let ranges: Vec<Range> = ranges.collect();
        let traits = traits(&entry.rules);
        let peers = slots_once(entry);
        let members: Vec<Member> = match entry.rules.affinity {
            Some(_) => peers.map(|peer| Member::new(id, &peer, traits)).collect(),
            None => Vec::new(),
        };
        let fits = |have: usize, more: usize, limit: u32| have + more <= limit as usize;
        if !fits(self.want.ranges.len(), ranges.len(), MAX_RANGES) {
            return Err(format!("the map is full with {MAX_RANGES} source ranges"));
        }
        if !fits(self.want.members.len(), members.len(), MAX_MEMBERS) {
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

    fn finish(self) -> Image {
        Image {
            v4: self.v4.want,
            v6: self.v6.want,
            // Who the clients are is none of the Services' business.
            clients: self.have.clients.clone(),
            ..self.want
        }
    }
}

fn traits(rules: &Rules) -> Traits {
    Traits::NONE
        .and_if(rules.drops, Traits::DROPS)
        .and_if(rules.affinity.is_some(), Traits::STICKY)
        .and_if(rules.ranges.is_some(), Traits::GUARDED)
        .and_if(rules.node_only, Traits::NODE_ONLY)
        .and_if(rules.local, Traits::LOCAL)
        .and_if(rules.maglev, Traits::MAGLEV)
}

/// One family's image while it is planned.
struct Plan<'a, K, S> {
    have: &'a Half<K, S>,
    room: &'a mut Regions,
    max_frontends: usize,
    now: Duration,
    want: Half<K, S>,
    /// First slots of the regions that each Service port has by now.
    bases: HashMap<u32, Vec<u32>>,
}

impl<'a, K: Ord + Copy, S: PartialEq + Clone> Plan<'a, K, S> {
    fn new(have: &'a Half<K, S>, room: &'a mut Regions, max_frontends: usize, now: Duration) -> Self {
        Self {
            have,
            room,
            max_frontends,
            now,
            want: Half::default(),
            bases: HashMap::new(),
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
        if self.want.services.len() >= self.max_frontends {
            return Err(format!("the map is full with {} addresses", self.max_frontends));
        }
        let count =
            u16::try_from(slots.len()).map_err(|_| format!("{} backends are more than {}", slots.len(), u16::MAX))?;
        let base = if count == 0 {
            0
        } else if let Some(base) = self.shared(id, &slots) {
            base
        } else {
            let base = match self.kept(&key, check, &slots) {
                Some(base) => base,
                None => self.take(count)?,
            };
            self.bases.entry(id).or_default().push(base);
            self.want.regions.insert(base, slots);
            base
        };
        self.want.services.insert(key, value(Region::new(base, count, check)));
        Ok(())
    }

    fn shared(&self, id: u32, slots: &[S]) -> Option<u32> {
        let mut bases = self.bases.get(&id)?.iter();
        bases
            .find(|base| self.want.regions.get(base).is_some_and(|other| other == slots))
            .copied()
    }

    /// The region that the frontend has, if it holds exactly these backends.
    fn kept(&self, key: &K, check: u16, slots: &[S]) -> Option<u32> {
        let (service, present) = self.present(key, check)?;
        (present == slots).then(|| service.region.base())
    }

    fn take(&mut self, count: u16) -> Result<u32, String> {
        let base = self.room.take(count, self.now);
        base.ok_or_else(|| format!("no room for {count} backends, {} slots are free", self.room.free()))
    }

    /// Leaves the frontend as it is, if it is there; comes back with its id.
    fn keep(&mut self, key: K, check: u16) -> Option<u32> {
        let (service, slots) = self.present(&key, check)?;
        if !slots.is_empty() {
            self.want.regions.insert(service.region.base(), slots.to_vec());
        }
        self.want.services.insert(key, service);
        Some(service.id)
    }

    fn present(&self, key: &K, check: u16) -> Option<(Service, &'a [S])> {
        let service = *self.have.services.get(key)?;
        let slots = self.have.slots(&service)?;
        (service.region.check() == check).then_some((service, slots))
    }
}

impl<K, S> Half<K, S> {
    /// The backends of a frontend; `None` when its region is not as long as it says.
    fn slots(&self, service: &Service) -> Option<&[S]> {
        let count = usize::from(service.region.count());
        if count == 0 {
            return Some(&[]);
        }
        let slots = self.regions.get(&service.region.base())?;
        (slots.len() == count).then_some(slots)
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
        Protocol::Sctp => SCTP,
    }
}

/// The region of an entry: each backend once, or a Maglev table of them.
fn slots<S: Clone>(entry: &Entry, slot: impl Fn(&SocketAddr) -> Option<S>) -> Vec<S> {
    if !entry.rules.maglev {
        return entry.backends.iter().filter_map(slot).collect();
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
