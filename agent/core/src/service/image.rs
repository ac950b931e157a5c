//! What every map should hold, value for value, for a table of Services.
//!
//! A frontend whose backends have not changed keeps its region and its id; any other gets a region that nobody reads
//! yet. So an image never asks for a slot to be rewritten that a program may be reading.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ebpf_common::maps::{
    Client, Frontend4, Frontend6, MAPPED, MAX_CLIENTS, MAX_FRONTENDS4, MAX_FRONTENDS6, MAX_IDS, MAX_SLOTS4, MAX_SLOTS6,
    Member, NODE, RangeKey, SCTP, Service, Slot4, Slot6, TCP, UDP, words,
};

mod plan;

use super::ids::{Ids, Regions};
use super::table::{Entry, Frontend, NodeFacts, Scope};
use super::{AddressRange, Protocol, ReadyPod, ServiceName, ServicePort, bulk};
use plan::{Draft, Plan, companions};

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

    /// Plans the image of all frontends, starting from what the maps hold at `now`, a time that never goes back.
    pub fn image<'a>(
        &mut self,
        frontends: impl IntoIterator<Item = (&'a Frontend, &'a Entry)>,
        have: &Image,
        now: Duration,
    ) -> (Image, Problems) {
        let frontends = frontends.into_iter().map(|(frontend, entry)| (*frontend, entry));
        let all: BTreeMap<Frontend, &Entry> = frontends.collect();
        self.ids.retain(&all.values().map(|entry| &entry.owner).collect());
        self.draft(&all, have, Room::default(), now)
    }

    /// Plans what becomes of some Services' frontends while the others stay: what the maps have of them, and what they
    /// should. Only where the maps hold exactly what the table had; and where there are problems now, the whole image has
    /// to be planned.
    pub fn part(
        &mut self,
        before: &BTreeMap<Frontend, Entry>,
        after: &BTreeMap<Frontend, &Entry>,
        have: &Image,
        now: Duration,
    ) -> (Image, Image, Problems) {
        let part = self.cut(before, have);
        let stay: BTreeSet<&ServicePort> = after.values().map(|entry| &entry.owner).collect();
        for owner in before.values().map(|entry| &entry.owner) {
            if !stay.contains(owner) {
                self.ids.forget(owner);
            }
        }
        let (want, problems) = self.draft(after, &part, have.room().without(&part.room()), now);
        (part, want, problems)
    }

    /// Takes note that the maps now hold `image`: what it does not use may be given to others, after a rest.
    pub fn settle(&mut self, image: &Image, now: Duration) {
        self.v4.retain(&image.v4.regions.keys().copied().collect(), now);
        self.v6.retain(&image.v6.regions.keys().copied().collect(), now);
    }

    /// The same for a part: what `part` used and `want` does not.
    pub fn settle_part(&mut self, part: &Image, want: &Image, now: Duration) {
        for base in part
            .v4
            .regions
            .keys()
            .filter(|base| !want.v4.regions.contains_key(base))
        {
            self.v4.leave(*base, now);
        }
        for base in part
            .v6
            .regions
            .keys()
            .filter(|base| !want.v6.regions.contains_key(base))
        {
            self.v6.leave(*base, now);
        }
    }

    /// Ids by Service port, for reading the counters.
    pub fn ids(&self) -> &HashMap<ServicePort, u32> {
        self.ids.ports()
    }

    fn draft(
        &mut self,
        frontends: &BTreeMap<Frontend, &Entry>,
        have: &Image,
        others: Room,
        now: Duration,
    ) -> (Image, Problems) {
        self.ids.reserve(frontends.len());
        // A port that gets none is told so when its frontend is placed.
        let id = |(frontend, entry): (&Frontend, &&Entry)| self.ids.of(&entry.owner, have.id(frontend));
        let ids: Vec<Option<u32>> = frontends.iter().map(id).collect();
        let (max4, max6) = self.max_frontends;
        let mut draft = Draft {
            have,
            v4: Plan::new(&have.v4, &mut self.v4, max4.saturating_sub(others.frontends.0), now),
            v6: Plan::new(&have.v6, &mut self.v6, max6.saturating_sub(others.frontends.1), now),
            others,
            want: Image::default(),
        };
        let mut problems = Problems::new();
        for ((frontend, entry), id) in frontends.iter().zip(ids) {
            if let Err(problem) = draft.place(frontend, entry, id) {
                let problems = problems.entry(entry.owner.service.clone()).or_default();
                problems.insert(format!("{}: {problem}", frontend.address));
            }
        }
        (draft.finish(), problems)
    }

    /// What the maps hold of some frontends that are there as the table had them.
    fn cut(&self, frontends: &BTreeMap<Frontend, Entry>, have: &Image) -> Image {
        let mut part = Image::default();
        for (frontend, entry) in frontends {
            match key(frontend) {
                Key::V4(key) => have.v4.copy(&key, &mut part.v4),
                Key::V6(key) => have.v6.copy(&key, &mut part.v6),
            }
            if let Some(id) = self.ids.ports().get(&entry.owner) {
                let (ranges, members) = companions(*id, entry);
                part.counters.insert(*id);
                part.ranges.extend(ranges);
                part.members.extend(members);
            }
        }
        part
    }
}

/// How much of the maps is in use.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    frontends: (usize, usize),
    ranges: usize,
    members: usize,
}

impl Room {
    fn without(self, part: &Room) -> Room {
        Room {
            frontends: (
                self.frontends.0.saturating_sub(part.frontends.0),
                self.frontends.1.saturating_sub(part.frontends.1),
            ),
            ranges: self.ranges.saturating_sub(part.ranges),
            members: self.members.saturating_sub(part.members),
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

    /// Puts another part in the place of one.
    pub fn replace(&mut self, part: &Image, want: Image) {
        self.v4.replace(&part.v4, want.v4);
        self.v6.replace(&part.v6, want.v6);
        replace_set(&mut self.counters, &part.counters, want.counters);
        replace_set(&mut self.members, &part.members, want.members);
        replace_set(&mut self.ranges, &part.ranges, want.ranges);
        self.clients = want.clients;
    }

    fn room(&self) -> Room {
        Room {
            frontends: (self.v4.services.len(), self.v6.services.len()),
            ranges: self.ranges.len(),
            members: self.members.len(),
        }
    }

    fn id(&self, frontend: &Frontend) -> Option<u32> {
        let service = match key(frontend) {
            Key::V4(key) => self.v4.services.get(&key),
            Key::V6(key) => self.v6.services.get(&key),
        };
        service.map(|service| service.id)
    }
}

fn replace_set<T: Ord>(all: &mut BTreeSet<T>, part: &BTreeSet<T>, want: BTreeSet<T>) {
    for element in part {
        all.remove(element);
    }
    bulk::unite(all, want);
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

impl<K: Ord + Copy, S: Clone> Half<K, S> {
    /// Copies a frontend with its region.
    fn copy(&self, key: &K, into: &mut Self) {
        let Some(service) = self.services.get(key) else {
            return;
        };
        let base = service.region.base();
        if let Some(slots) = self.regions.get(&base).filter(|_| service.region.count() > 0) {
            into.regions.entry(base).or_insert_with(|| slots.clone());
        }
        into.services.insert(*key, *service);
    }

    fn replace(&mut self, part: &Self, want: Self) {
        for key in part.services.keys() {
            self.services.remove(key);
        }
        for base in part.regions.keys() {
            self.regions.remove(base);
        }
        bulk::insert(&mut self.services, want.services);
        bulk::insert(&mut self.regions, want.regions);
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
