//! Reading and writing the maps, byte for byte as `ebpf_common::maps` lays them out.

use std::os::fd::{AsFd as _, OwnedFd};

use agent_core::service::Counters;
use agent_core::service::diff::MapStep;
use agent_core::service::flows;
use agent_core::service::image::{Half, Image, Range};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::{Ebpf, Pod};
use ebpf_common::flow::{Entry, Tuple};
use ebpf_common::maps::{
    Affinity, AffinityKey, Client, Counters as CpuCounters, Frontend4, Frontend6, Member, RangeKey, Service, Slot4,
    Slot6,
};

use super::MapsError;

/// The maps that the agent reads and writes.
pub(super) struct Content {
    svc4: HashMap<MapData, [u8; 8], [u8; 32]>,
    svc6: HashMap<MapData, [u8; 20], [u8; 32]>,
    slots4: Array<MapData, [u8; 8]>,
    slots6: Array<MapData, [u8; 24]>,
    counters: PerCpuArray<MapData, [u8; 48]>,
    members: HashMap<MapData, [u8; 28], u32>,
    ranges: LpmTrie<MapData, [u8; 20], u32>,
    clients: HashMap<MapData, u64, [u8; 24]>,
    affinities: HashMap<MapData, [u8; 20], [u8; 24]>,
    flows: HashMap<MapData, [u8; 40], [u8; 48]>,
    /// The same map once more, for a call that the loader library has no function for.
    flows_fd: OwnedFd,
    cpus: usize,
}

impl Content {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, MapsError> {
        let cpus = aya::util::nr_cpus().map_err(|(path, source)| MapsError::Files {
            action: "count the CPUs in",
            path: path.into(),
            source,
        })?;
        Ok(Self {
            svc4: take(programs, "svc4")?,
            svc6: take(programs, "svc6")?,
            slots4: take(programs, "slots4")?,
            slots6: take(programs, "slots6")?,
            counters: take(programs, "counters")?,
            members: take(programs, "members")?,
            ranges: take(programs, "ranges")?,
            clients: take(programs, "clients")?,
            affinities: take(programs, "affinities")?,
            flows_fd: descriptor(programs, "flows")?,
            flows: take(programs, "flows")?,
            cpus,
        })
    }

    pub(super) fn dump(&self) -> Result<Image, MapsError> {
        let services4 = entries(&self.svc4, "svc4", Frontend4::from_bytes)?;
        let services6 = entries(&self.svc6, "svc6", Frontend6::from_bytes)?;
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

    pub(super) fn perform(&mut self, step: &MapStep) -> Result<(), MapsError> {
        match step {
            MapStep::AddCounters(id) => self.clear_counters(*id),
            MapStep::Write4 { base, slots } => write(
                &mut self.slots4,
                "slots4",
                *base,
                slots.iter().map(|slot| slot.to_bytes()),
            ),
            MapStep::Write6 { base, slots } => write(
                &mut self.slots6,
                "slots6",
                *base,
                slots.iter().map(|slot| slot.to_bytes()),
            ),
            MapStep::Withdraw4(key) => absent_is_fine(self.svc4.remove(&key.to_bytes()), "svc4"),
            MapStep::Withdraw6(key) => absent_is_fine(self.svc6.remove(&key.to_bytes()), "svc6"),
            MapStep::Publish4(key, service) => self
                .svc4
                .insert(key.to_bytes(), service.to_bytes(), 0)
                .map_err(failed("write to", "svc4")),
            MapStep::Publish6(key, service) => self
                .svc6
                .insert(key.to_bytes(), service.to_bytes(), 0)
                .map_err(failed("write to", "svc6")),
            // The next owner begins from zero.
            MapStep::DropCounters(_) => Ok(()),
            MapStep::AddMember(member) => self
                .members
                .insert(member.to_bytes(), 1, 0)
                .map_err(failed("write to", "members")),
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
        }
    }

    pub(super) fn counters(&self, id: u32) -> Result<Counters, MapsError> {
        let cpus = self.counters.get(&id, 0).map_err(failed("read", "counters"))?;
        let mut sum = Counters::default();
        for cpu in cpus.iter().map(|bytes| CpuCounters::from_bytes(*bytes)) {
            sum.forwarded += cpu.forwarded;
            sum.refused += cpu.refused;
            sum.no_local += cpu.no_local;
            sum.not_allowed += cpu.not_allowed;
            sum.no_room += cpu.no_room;
            sum.unreadable += cpu.unreadable;
        }
        Ok(sum)
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
        let all = ebpf_kernel::read_elements::<40, 48>(self.flows_fd.as_fd());
        let all = all.map_err(|source| failed("list", "flows")(MapError::IoError(source)))?;
        let read = |(key, value)| (Tuple::from_bytes(key), Entry::from_bytes(value));
        Ok(all.into_iter().map(read).collect())
    }

    /// Takes away the flows that are over. An entry that a packet has used since it was read is put back.
    pub(super) fn sweep(&mut self, now: u32) -> Result<(usize, usize), MapsError> {
        let all = self.flows()?;
        let over = flows::over(&all, now);
        for (key, read) in &over {
            let taken = ebpf_kernel::take_element::<40, 48>(self.flows_fd.as_fd(), &key.to_bytes());
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

    fn clear_counters(&mut self, id: u32) -> Result<(), MapsError> {
        let zero = PerCpuValues::try_from(vec![[0; 48]; self.cpus]).map_err(|source| MapsError::Map {
            action: "make room in",
            map: "counters",
            source: MapError::IoError(source),
        })?;
        self.counters.set(id, zero, 0).map_err(failed("write to", "counters"))
    }
}

fn trie_key(range: &Range) -> Key<[u8; 20]> {
    Key::new(range.bits, range.key.to_bytes())
}

fn keys<K, T: Ord>(
    keys: impl Iterator<Item = Result<K, MapError>>,
    name: &'static str,
    value: impl Fn(K) -> T,
) -> Result<std::collections::BTreeSet<T>, MapsError> {
    keys.map(|key| key.map(&value).map_err(failed("list", name))).collect()
}

fn take<M: TryFrom<Map, Error = MapError>>(programs: &mut Ebpf, name: &'static str) -> Result<M, MapsError> {
    let map = programs.take_map(name).ok_or(MapsError::Missing(name))?;
    map.try_into().map_err(failed("open", name))
}

fn descriptor(programs: &Ebpf, name: &'static str) -> Result<OwnedFd, MapsError> {
    let Some(Map::HashMap(map)) = programs.map(name) else {
        return Err(MapsError::Missing(name));
    };
    let copy = map.fd().as_fd().try_clone_to_owned();
    copy.map_err(|source| failed("open once more", name)(MapError::IoError(source)))
}

fn entries<K: Pod, Key: Ord>(
    map: &HashMap<MapData, K, [u8; 32]>,
    name: &'static str,
    key: impl Fn(K) -> Key,
) -> Result<std::collections::BTreeMap<Key, Service>, MapsError> {
    let entry = |entry: Result<(K, [u8; 32]), MapError>| {
        let (bytes, service) = entry.map_err(failed("list", name))?;
        Ok((key(bytes), Service::from_bytes(service)))
    };
    map.iter().map(entry).collect()
}

/// Reads the regions of the frontends. A region that reaches beyond the map is left out; its frontend is written anew.
fn half<K, V: Pod, S>(
    services: std::collections::BTreeMap<K, Service>,
    slots: &Array<MapData, V>,
    name: &'static str,
    slot: impl Fn(V) -> S,
) -> Result<Half<K, S>, MapsError> {
    let mut regions = std::collections::BTreeMap::new();
    for service in services.values() {
        let (base, count) = (service.region.base(), u32::from(service.region.count()));
        let fits = base.checked_add(count).is_some_and(|end| end <= slots.len());
        if count == 0 || !fits || regions.contains_key(&base) {
            continue;
        }
        let read = |index| slots.get(&index, 0).map(&slot).map_err(failed("read", name));
        let run: Vec<S> = (base..base + count).map(read).collect::<Result<_, _>>()?;
        regions.insert(base, run);
    }
    Ok(Half { services, regions })
}

fn write<V: Pod>(
    map: &mut Array<MapData, V>,
    name: &'static str,
    base: u32,
    slots: impl Iterator<Item = V>,
) -> Result<(), MapsError> {
    for (index, slot) in (base..).zip(slots) {
        map.set(index, slot, 0).map_err(failed("write to", name))?;
    }
    Ok(())
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
