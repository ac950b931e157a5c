//! Reading and writing the maps, byte for byte as `ebpf_common::maps` lays them out.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};

use agent_core::service::Counters;
use agent_core::service::diff::MapStep;
use agent_core::service::flows;
use agent_core::service::image::{Half, Image, Range};
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData, MapError};
use ebpf_common::flow::{Entry, Role, Tuple};
use ebpf_common::maps::{
    Affinity, AffinityKey, Client, Counters as CpuCounters, Frontend4, Frontend6, MAX_IDS, MAX_SLOTS4, MAX_SLOTS6,
    Member, RangeKey, SCTP, Service, Slot4, Slot6, UDP,
};
use ebpf_kernel::{MappedArray, View};

use super::MapsError;

/// The maps that the agent reads and writes.
pub(super) struct Content {
    pub(super) svc4: HashMap<MapData, [u8; 8], [u8; 16]>,
    pub(super) svc6: HashMap<MapData, [u8; 20], [u8; 16]>,
    pub(super) slots4: MappedArray<8>,
    pub(super) slots6: MappedArray<24>,
    counters: MappedArray<48>,
    pub(super) members: HashMap<MapData, [u8; 28], u32>,
    pub(super) ranges: LpmTrie<MapData, [u8; 20], u32>,
    pub(super) clients: HashMap<MapData, u64, [u8; 24]>,
    pub(super) affinities: HashMap<MapData, [u8; 20], [u8; 24]>,
    flows: HashMap<MapData, [u8; 40], [u8; 48]>,
    fds: Descriptors,
    cpus: u32,
}

impl Content {
    pub(super) fn take(programs: &mut Ebpf, cpus: u32) -> Result<Self, MapsError> {
        Ok(Self {
            fds: Descriptors::of(programs)?,
            svc4: take(programs, "svc4")?,
            svc6: take(programs, "svc6")?,
            slots4: mapped(programs, "slots4", MAX_SLOTS4)?,
            slots6: mapped(programs, "slots6", MAX_SLOTS6)?,
            counters: mapped(programs, "counters", cpus * MAX_IDS)?,
            members: take(programs, "members")?,
            ranges: take(programs, "ranges")?,
            clients: take(programs, "clients")?,
            affinities: take(programs, "affinities")?,
            flows: take(programs, "flows")?,
            cpus,
        })
    }

    pub(super) fn cpus(&self) -> u32 {
        self.cpus
    }

    pub(super) fn dump(&self) -> Result<Image, MapsError> {
        let services4 = entries(&self.fds.svc4, "svc4", Frontend4::from_bytes)?;
        let services6 = entries(&self.fds.svc6, "svc6", Frontend6::from_bytes)?;
        let ids = services4.values().chain(services6.values()).map(|service| service.id);
        let counters = ids.filter(|id| *id != 0).collect();
        let members = keys(self.members.keys(), "members", Member::from_bytes)?;
        let range = |key: Key<[u8; 20]>| Range {
            bits: key.prefix_len(),
            key: RangeKey::from_bytes(key.data()),
        };
        let ranges = keys(self.ranges.keys(), "ranges", range)?;
        let client = |entry: Result<(u64, [u8; 24]), MapError>| {
            entry.map(|(cookie, client)| (cookie, Client::from_bytes(client)))
        };
        let clients = self.clients.iter().map(client).collect::<Result<_, _>>();
        Ok(Image {
            v4: half(services4, &self.slots4, "slots4", Slot4::from_bytes)?,
            v6: half(services6, &self.slots6, "slots6", Slot6::from_bytes)?,
            counters,
            members,
            ranges,
            clients: clients.map_err(failed("list", "clients"))?,
        })
    }

    /// Performs steps in their order; those of one kind that follow each other go to the kernel together.
    pub(super) fn perform(&mut self, steps: &[MapStep]) -> Result<(), MapsError> {
        for run in steps.chunk_by(|one, next| discriminant(one) == discriminant(next)) {
            self.perform_run(run)?;
        }
        Ok(())
    }

    fn perform_run(&mut self, run: &[MapStep]) -> Result<(), MapsError> {
        match run.first() {
            Some(MapStep::Write4 { .. }) => {
                store(&self.slots4, "slots4", run.iter().filter_map(region4), Slot4::to_bytes)
            }
            Some(MapStep::Write6 { .. }) => {
                store(&self.slots6, "slots6", run.iter().filter_map(region6), Slot6::to_bytes)
            }
            Some(MapStep::Publish4(..)) => write_run(&self.fds.svc4, "svc4", run.iter().filter_map(published4)),
            Some(MapStep::Publish6(..)) => write_run(&self.fds.svc6, "svc6", run.iter().filter_map(published6)),
            Some(MapStep::AddMember(_)) => write_run(&self.fds.members, "members", run.iter().filter_map(member)),
            Some(MapStep::AddCounters(_)) => self.clear_counters(run),
            _ => run.iter().try_for_each(|step| self.perform_one(step)),
        }
    }

    fn perform_one(&mut self, step: &MapStep) -> Result<(), MapsError> {
        match step {
            MapStep::Withdraw4(key) => absent_is_fine(self.svc4.remove(&key.to_bytes()), "svc4"),
            MapStep::Withdraw6(key) => absent_is_fine(self.svc6.remove(&key.to_bytes()), "svc6"),
            // The next owner begins from zero.
            MapStep::DropCounters(_) => Ok(()),
            MapStep::DropMember(member) => absent_is_fine(self.members.remove(&member.to_bytes()), "members"),
            MapStep::AddRange(range) => self
                .ranges
                .insert(&trie_key(range), 1, 0)
                .map_err(failed("write to", "ranges")),
            MapStep::DropRange(range) => absent_is_fine(self.ranges.remove(&trie_key(range)), "ranges"),
            MapStep::SetClient(cookie, client) => self
                .clients
                .insert(cookie, client.to_bytes(), 0)
                .map_err(failed("write to", "clients")),
            MapStep::DropClient(cookie) => absent_is_fine(self.clients.remove(cookie), "clients"),
            // Steps of these kinds are written together.
            MapStep::Write4 { .. }
            | MapStep::Write6 { .. }
            | MapStep::Publish4(..)
            | MapStep::Publish6(..)
            | MapStep::AddMember(_)
            | MapStep::AddCounters(_) => Ok(()),
        }
    }

    /// What was counted for the ids up to `last`.
    pub(super) fn counters(&self, last: u32) -> Result<CounterView, MapsError> {
        let lines = |cpu| {
            let places = CpuCounters::place(cpu, 0)..CpuCounters::place(cpu, last) + 1;
            Ok((cpu, view(&self.counters, "counters", places)?))
        };
        (0..self.cpus).map(lines).collect::<Result<_, _>>().map(CounterView)
    }

    /// Clients that keep to a backend of the Service port `id`.
    pub(super) fn affinities(&self, id: u32) -> Result<Vec<(AffinityKey, Affinity)>, MapsError> {
        let mut found = Vec::new();
        for entry in self.affinities.iter() {
            let (key, value) = entry.map_err(failed("list", "affinities"))?;
            let key = AffinityKey::from_bytes(key);
            if key.id() == id {
                found.push((key, Affinity::from_bytes(value)));
            }
        }
        Ok(found)
    }

    /// Every entry of the flows from outside. Those that come or go meanwhile may be missing.
    pub(super) fn flows(&self) -> Result<Vec<(Tuple, Entry)>, MapsError> {
        let all = ebpf_kernel::read_elements::<40, 48>(self.fds.flows.as_fd());
        let all = all.map_err(|source| failed("list", "flows")(MapError::IoError(source)))?;
        let read = |(key, value)| (Tuple::from_bytes(key), Entry::from_bytes(value));
        Ok(all.into_iter().map(read).collect())
    }

    /// How many flows there are of each Service port.
    pub(super) fn flow_counts(&self) -> Result<BTreeMap<u32, usize>, MapsError> {
        let mut counts = BTreeMap::new();
        let begins = |entry: &Entry| matches!(entry.role(), Role::Request | Role::NodeRequest);
        for (_, entry) in self.flows()?.iter().filter(|(_, entry)| begins(entry)) {
            *counts.entry(entry.id).or_default() += 1;
        }
        Ok(counts)
    }

    /// Takes away the UDP flows to these backends.
    pub(super) fn forget_datagrams(&mut self, gone: &BTreeSet<SocketAddr>) -> Result<(), MapsError> {
        for (key, entry) in self.flows()? {
            let flow = entry.flow(&key);
            let backend = SocketAddr::new(flow.backend.ip(), u16::from_be(flow.backend.port));
            if flow.protocol == UDP && gone.contains(&backend) {
                absent_is_fine(self.flows.remove(&key.to_bytes()), "flows")?;
            }
        }
        Ok(())
    }

    /// Takes away the flows that are over. An entry that a packet has used since it was read is put back.
    pub(super) fn sweep(&mut self, now: u32) -> Result<(usize, usize), MapsError> {
        let all = self.flows()?;
        let over = flows::over(&all, now);
        for (key, read) in &over {
            let taken = ebpf_kernel::take_element::<40, 48>(self.fds.flows.as_fd(), &key.to_bytes());
            let taken = taken.map_err(|source| failed("take an entry out of", "flows")(MapError::IoError(source)))?;
            if let Some(bytes) = taken
                && Entry::from_bytes(bytes).last != read.last
            {
                const NOEXIST: u64 = 1;
                // Whoever has made it anew meanwhile has the same.
                let _ = self.flows.insert(key.to_bytes(), bytes, NOEXIST);
            }
        }
        Ok((over.len(), all.len() - over.len()))
    }

    /// The addresses of Services that flows of SCTP have asked.
    pub(super) fn associations(&self) -> Result<BTreeSet<IpAddr>, MapsError> {
        let flows = self.flows()?;
        let associations = flows.iter().filter(|(key, _)| key.protocol() == SCTP);
        Ok(associations.map(|(key, entry)| entry.flow(key).service.ip()).collect())
    }

    fn clear_counters(&self, run: &[MapStep]) -> Result<(), MapsError> {
        for cpu in 0..self.cpus {
            let places = || run.iter().filter_map(counter).map(|id| CpuCounters::place(cpu, id));
            let Some((first, last)) = places().min().zip(places().max()) else {
                return Ok(());
            };
            let view = view(&self.counters, "counters", first..last + 1)?;
            for place in places() {
                view.write(place, std::iter::once(CpuCounters::default().to_bytes()));
            }
        }
        Ok(())
    }
}

/// What each CPU counted. It counts as the agent's own memory as long as it is looked at.
#[derive(Debug)]
pub struct CounterView(Vec<(u32, View<48>)>);

impl CounterView {
    /// The counters of a Service port; those of the id zero are nobody's.
    pub fn of(&self, id: u32) -> Counters {
        let mut sum = Counters::default();
        let each = self.0.iter();
        let lines = each.filter_map(|(cpu, lines)| lines.read(CpuCounters::place(*cpu, id)));
        for cpu in lines.map(CpuCounters::from_bytes) {
            sum.forwarded += cpu.forwarded;
            sum.refused += cpu.refused;
            sum.no_local += cpu.no_local;
            sum.not_allowed += cpu.not_allowed;
            sum.no_room += cpu.no_room;
            sum.unreadable += cpu.unreadable;
        }
        sum
    }
}

fn trie_key(range: &Range) -> Key<[u8; 20]> {
    Key::new(range.bits, range.key.to_bytes())
}

fn keys<K, T: Ord>(
    keys: impl Iterator<Item = Result<K, MapError>>,
    name: &'static str,
    value: impl Fn(K) -> T,
) -> Result<BTreeSet<T>, MapsError> {
    keys.map(|key| key.map(&value).map_err(failed("list", name))).collect()
}

fn take<M: TryFrom<Map, Error = MapError>>(programs: &mut Ebpf, name: &'static str) -> Result<M, MapsError> {
    let map = programs.take_map(name).ok_or(MapsError::Missing(name))?;
    map.try_into().map_err(failed("open", name))
}

/// Some of the maps once more, for calls that the loader library has no function for.
struct Descriptors {
    svc4: OwnedFd,
    svc6: OwnedFd,
    members: OwnedFd,
    flows: OwnedFd,
}

impl Descriptors {
    fn of(programs: &Ebpf) -> Result<Self, MapsError> {
        Ok(Self {
            svc4: descriptor(programs, "svc4")?,
            svc6: descriptor(programs, "svc6")?,
            members: descriptor(programs, "members")?,
            flows: descriptor(programs, "flows")?,
        })
    }
}

fn mapped<const N: usize>(programs: &Ebpf, name: &'static str, elements: u32) -> Result<MappedArray<N>, MapsError> {
    Ok(MappedArray::new(descriptor(programs, name)?, elements))
}

fn descriptor(programs: &Ebpf, name: &'static str) -> Result<OwnedFd, MapsError> {
    let Some(Map::HashMap(map) | Map::Array(map)) = programs.map(name) else {
        return Err(MapsError::Missing(name));
    };
    let copy = map.fd().as_fd().try_clone_to_owned();
    copy.map_err(|source| failed("open once more", name)(MapError::IoError(source)))
}

fn write_run<const KEY: usize, const VALUE: usize>(
    map: &OwnedFd,
    name: &'static str,
    elements: impl Iterator<Item = ([u8; KEY], [u8; VALUE])>,
) -> Result<(), MapsError> {
    let (keys, values): (Vec<_>, Vec<_>) = elements.unzip();
    let written = ebpf_kernel::write_elements(map.as_fd(), &keys, &values);
    written.map_err(|source| failed("write to", name)(MapError::IoError(source)))
}

/// Maps slots for as long as they are looked at: all of them are most of what Services need, and would count as the
/// agent's own memory.
fn view<const N: usize>(
    map: &MappedArray<N>,
    name: &'static str,
    range: std::ops::Range<u32>,
) -> Result<View<N>, MapsError> {
    let view = map.view(range);
    view.map_err(|source| failed("map into memory", name)(MapError::IoError(source)))
}

/// Writes regions, which no program reads until a frontend is published that leads there.
fn store<'a, S: Copy + 'a, const N: usize>(
    map: &MappedArray<N>,
    name: &'static str,
    regions: impl Iterator<Item = (u32, &'a [S])> + Clone,
    bytes: impl Fn(S) -> [u8; N],
) -> Result<(), MapsError> {
    let end = |base: u32, slots: &[S]| base.saturating_add(u32::try_from(slots.len()).unwrap_or(u32::MAX));
    let filled = regions.filter(|(_, slots)| !slots.is_empty());
    let first = filled.clone().map(|(base, _)| base).min();
    let last = filled.clone().map(|(base, slots)| end(base, slots)).max();
    let Some((first, last)) = first.zip(last) else {
        return Ok(());
    };
    let view = view(map, name, first..last)?;
    for (base, slots) in filled {
        if !view.write(base, slots.iter().map(|slot| bytes(*slot))) {
            let max_entries = map.len();
            return Err(failed("write to", name)(MapError::OutOfBounds {
                index: base,
                max_entries,
            }));
        }
    }
    Ok(())
}

fn region4(step: &MapStep) -> Option<(u32, &[Slot4])> {
    let MapStep::Write4 { base, slots } = step else {
        return None;
    };
    Some((*base, slots))
}

fn region6(step: &MapStep) -> Option<(u32, &[Slot6])> {
    let MapStep::Write6 { base, slots } = step else {
        return None;
    };
    Some((*base, slots))
}

fn published4(step: &MapStep) -> Option<([u8; 8], [u8; 16])> {
    let MapStep::Publish4(key, service) = step else {
        return None;
    };
    Some((key.to_bytes(), service.to_bytes()))
}

fn published6(step: &MapStep) -> Option<([u8; 20], [u8; 16])> {
    let MapStep::Publish6(key, service) = step else {
        return None;
    };
    Some((key.to_bytes(), service.to_bytes()))
}

fn member(step: &MapStep) -> Option<([u8; 28], [u8; 4])> {
    let MapStep::AddMember(member) = step else {
        return None;
    };
    Some((member.to_bytes(), 1_u32.to_ne_bytes()))
}

fn counter(step: &MapStep) -> Option<u32> {
    let MapStep::AddCounters(id) = step else {
        return None;
    };
    Some(*id)
}

fn entries<const KEY: usize, Key: Ord>(
    map: &OwnedFd,
    name: &'static str,
    key: impl Fn([u8; KEY]) -> Key,
) -> Result<BTreeMap<Key, Service>, MapsError> {
    let all = ebpf_kernel::read_elements::<KEY, 16>(map.as_fd());
    let all = all.map_err(|source| failed("list", name)(MapError::IoError(source)))?;
    let read = |(bytes, service)| (key(bytes), Service::from_bytes(service));
    Ok(all.into_iter().map(read).collect())
}

/// Reads the regions of the frontends. A region that reaches beyond the map is left out; its frontend is written anew.
fn half<K, S, const N: usize>(
    services: BTreeMap<K, Service>,
    slots: &MappedArray<N>,
    name: &'static str,
    slot: impl Fn([u8; N]) -> S,
) -> Result<Half<K, S>, MapsError> {
    let view = view(slots, name, 0..slots.len())?;
    let mut regions = BTreeMap::new();
    for region in services.values().map(|service| service.region) {
        if region.count() == 0 || regions.contains_key(&region.base()) {
            continue;
        }
        let indices = region.base()..region.base() + u32::from(region.count());
        let run: Option<Vec<S>> = indices.map(|index| view.read(index).map(&slot)).collect();
        if let Some(run) = run {
            regions.insert(region.base(), run);
        }
    }
    Ok(Half { services, regions })
}

fn absent_is_fine(result: Result<(), MapError>, map: &'static str) -> Result<(), MapsError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(failed("delete from", map)),
    }
}

fn failed(action: &'static str, map: &'static str) -> impl Fn(MapError) -> MapsError {
    move |source| MapsError::Map { action, map, source }
}
