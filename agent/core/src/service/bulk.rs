//! Many elements into a map at once. Sorted first they make full leaves in one pass, where one by one each costs a search,
//! and leaves half of its leaf empty.

use std::collections::{BTreeMap, BTreeSet};

/// With fewer than one for as many as this in the map, it is cheaper to look for each one's place.
const FEW: usize = 16;

/// Puts pairs into a map; of two with one key the last stands.
pub(super) fn insert<K: Ord, V>(map: &mut BTreeMap<K, V>, pairs: impl IntoIterator<Item = (K, V)>) {
    let mut more: BTreeMap<K, V> = pairs.into_iter().collect();
    if more.len() < map.len() / FEW {
        map.extend(more);
    } else {
        map.append(&mut more);
    }
}

/// Puts the elements of one set into another one.
pub(super) fn unite<T: Ord>(set: &mut BTreeSet<T>, mut more: BTreeSet<T>) {
    if more.len() < set.len() / FEW {
        set.extend(more);
    } else {
        set.append(&mut more);
    }
}
