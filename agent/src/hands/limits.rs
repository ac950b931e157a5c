//! Limits of pods in the map of the programs that keep them. The map goes with its programs: the next agent notes each
//! pod's limits anew, from what the pod's link says.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, MapError};
use cni::bandwidth::{Bandwidth, Rate};
use cni::pacer::{Pacer, Programs};
use ebpf_common::pods::{ENTRY_BYTES, Limit, LimitKey, Side};

type Map = HashMap<MapData, [u8; 4], [u8; ENTRY_BYTES]>;

/// The programs that say when packets depart, by the end of the link.
#[derive(Debug)]
pub(super) struct Pacing {
    pub(super) receives: OwnedFd,
    pub(super) departs: OwnedFd,
}

/// All limits.
#[derive(Debug)]
pub(super) struct Limits {
    map: Mutex<Map>,
    pacing: Option<Pacing>,
}

impl Limits {
    pub(super) fn new(map: Map, pacing: Option<Pacing>) -> Self {
        Self {
            map: Mutex::new(map),
            pacing,
        }
    }

    /// What a panic in the midst of a change left is whole: each entry is changed at once.
    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pacer for Limits {
    fn limit(&self, link: u32, bandwidth: Bandwidth) -> Option<NonZeroU16> {
        let place = place(link)?;
        let noted = note(&mut self.map(), link, place, bandwidth);
        if let Err(error) = &noted {
            tracing::warn!(%error, link, "a pod's limits are not noted for programs");
        }
        noted.unwrap_or(false).then_some(place)
    }

    fn forget(&self, link: u32) {
        let Some(place) = place(link) else { return };
        let mut map = self.map();
        for key in keys(place) {
            if owner(&map, &key).is_ok_and(|owner| owner == Some(link)) {
                // What stays costs the next link of this place its programs: token buckets limit that.
                let _ = map.remove(&key);
            }
        }
    }

    fn links(&self) -> Vec<u32> {
        let map = self.map();
        let entries = map.iter().filter_map(Result::ok);
        let links: BTreeSet<u32> = entries.map(|(_, entry)| Limit::of_entry(&entry).link()).collect();
        links.into_iter().collect()
    }

    fn programs(&self) -> Option<Programs<'_>> {
        self.pacing.as_ref().map(|pacing| Programs {
            receives: pacing.receives.as_fd(),
            departs: pacing.departs.as_fd(),
        })
    }
}

/// What a filter can tell its program has 16 bits, where indices of links have 31. Two links of one place, of which one was
/// made 65,536 links after the other, are told apart by their owner; 0 is for links without limits.
fn place(link: u32) -> Option<NonZeroU16> {
    NonZeroU16::new((link & 0xffff) as u16)
}

fn keys(place: NonZeroU16) -> [[u8; 4]; 3] {
    [Side::Received, Side::Sent, Side::Arrived].map(|side| LimitKey::new(place.get(), side).to_bytes())
}

/// The link whose limit stands there.
fn owner(map: &Map, key: &[u8; 4]) -> Result<Option<u32>, MapError> {
    match map.get(key, 0) {
        Ok(entry) => Ok(Some(Limit::of_entry(&entry).link())),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Answers false where another link's limits stand.
fn note(map: &mut Map, link: u32, place: NonZeroU16, bandwidth: Bandwidth) -> Result<bool, MapError> {
    let keys = keys(place);
    for key in &keys {
        if owner(map, key)?.is_some_and(|owner| owner != link) {
            return Ok(false);
        }
    }
    // What waits at the pod's own end fills its sockets' buffers, and they wait in turn: nothing need be dropped.
    let limits = [
        bandwidth.ingress.map(|rate| limit(link, rate, None)),
        bandwidth.egress.map(|rate| limit(link, rate, Some(u32::MAX))),
        bandwidth.egress.map(|rate| limit(link, rate, None)),
    ];
    for (key, limit) in keys.iter().zip(limits) {
        if let Some(limit) = limit {
            map.insert(key, limit.to_entry(), 0)?;
        }
    }
    Ok(true)
}

/// Without a word about the queue, as many bytes wait as in a token bucket's.
fn limit(link: u32, rate: Rate, queue: Option<u32>) -> Limit {
    let bucket = rate.bucket();
    Limit::new(link, bucket.rate, bucket.burst, queue.unwrap_or(bucket.limit))
}
