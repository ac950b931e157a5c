//! From what the maps hold to what they should hold, in an order that no client notices.
//!
//! A region is written before a frontend points to it, a frontend changes by one update, and nothing is taken away that a
//! frontend still needs. After any prefix of the steps every frontend leads to backends of the old or of the new table.

use std::collections::{BTreeMap, BTreeSet};

use ebpf_common::maps::{Client, Frontend4, Frontend6, Member, Service, Slot4, Slot6};

use super::image::{Half, Image, Range};

/// One change of one map. Each may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapStep {
    /// Begin to count for a Service port, from zero.
    AddCounters(u32),
    /// Say which addresses a network namespace has.
    SetClient(u64, Client),
    /// Let clients keep to a backend.
    AddMember(Member),
    /// Let clients in from a range.
    AddRange(Range),
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
    /// Let no client in from a range any more.
    DropRange(Range),
    /// Let no client keep to a backend any more.
    DropMember(Member),
    /// Forget a network namespace that is gone.
    DropClient(u64),
    /// Stop counting for a Service port.
    DropCounters(u32),
}

/// The steps from `have` to `want`. To be asked only when all Services are known: what is not wanted goes.
pub fn diff(have: &Image, want: &Image) -> Vec<MapStep> {
    let mut steps: Vec<MapStep> = missing(&want.counters, &have.counters)
        .map(MapStep::AddCounters)
        .collect();
    let news = |(cookie, client): &(&u64, &Client)| have.clients.get(cookie) != Some(client);
    steps.extend(
        want.clients
            .iter()
            .filter(news)
            .map(|(cookie, client)| MapStep::SetClient(*cookie, *client)),
    );
    steps.extend(missing(&want.members, &have.members).map(MapStep::AddMember));
    steps.extend(missing(&want.ranges, &have.ranges).map(MapStep::AddRange));
    steps.extend(new_regions(&have.v4, &want.v4).map(|(base, slots)| MapStep::Write4 { base, slots }));
    steps.extend(new_regions(&have.v6, &want.v6).map(|(base, slots)| MapStep::Write6 { base, slots }));
    // Before the others come in, so that a full map has room for them.
    steps.extend(gone(&have.v4, &want.v4).map(MapStep::Withdraw4));
    steps.extend(gone(&have.v6, &want.v6).map(MapStep::Withdraw6));
    steps.extend(changed(&have.v4, &want.v4).map(|(key, service)| MapStep::Publish4(key, service)));
    steps.extend(changed(&have.v6, &want.v6).map(|(key, service)| MapStep::Publish6(key, service)));
    steps.extend(missing(&have.ranges, &want.ranges).map(MapStep::DropRange));
    steps.extend(missing(&have.members, &want.members).map(MapStep::DropMember));
    let gone = have.clients.keys().filter(|cookie| !want.clients.contains_key(cookie));
    steps.extend(gone.copied().map(MapStep::DropClient));
    steps.extend(missing(&have.counters, &want.counters).map(MapStep::DropCounters));
    steps
}

/// What `of` has and `from` has not.
fn missing<'a, T: Ord + Copy>(of: &'a BTreeSet<T>, from: &'a BTreeSet<T>) -> impl Iterator<Item = T> + 'a {
    of.difference(from).copied()
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
        MapStep::SetClient(cookie, client) => drop(image.clients.insert(*cookie, *client)),
        MapStep::DropClient(cookie) => drop(image.clients.remove(cookie)),
        MapStep::AddMember(member) => drop(image.members.insert(*member)),
        MapStep::DropMember(member) => drop(image.members.remove(member)),
        MapStep::AddRange(range) => drop(image.ranges.insert(*range)),
        MapStep::DropRange(range) => drop(image.ranges.remove(range)),
    }
}

/// Regions that the new one overlaps were free; what is known of them is not true any more.
fn write<S: Clone>(regions: &mut BTreeMap<u32, Vec<S>>, base: u32, slots: &[S]) {
    let length = |slots: &[S]| u32::try_from(slots.len()).unwrap_or(u32::MAX);
    let end = base.saturating_add(length(slots));
    let before = regions.range(..base).next_back();
    let overlapped = before.filter(|(other, old)| other.saturating_add(length(old)) > base);
    let overlapped: Vec<u32> = overlapped
        .map(|(other, _)| *other)
        .into_iter()
        .chain(regions.range(base..end).map(|(other, _)| *other))
        .collect();
    for other in overlapped {
        regions.remove(&other);
    }
    regions.insert(base, slots.to_vec());
}

#[cfg(test)]
mod tests;
