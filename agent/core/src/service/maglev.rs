//! A Maglev table (Eisenbud et al., NSDI 2016, section 3.4): a flow's hash falls on the same backend on every node that has
//! the same backends, and few flows move when one comes or goes.

use std::net::SocketAddr;

use sha2::{Digest as _, Sha256};

/// Sizes of tables, primes. Loads differ by a per cent where there are a hundred places for each backend.
const SIZES: [usize; 7] = [251, 509, 1021, 2039, 4093, 8191, 16_381];
const PLACES_EACH: usize = 100;

/// For each place of the table the index of its backend. Empty without backends; backends have to be in one order
/// everywhere. More backends than the largest table has places have one place each: flows fall on the same ones on every
/// node, but most move when a backend goes.
pub fn places(backends: &[SocketAddr]) -> Vec<usize> {
    let largest = SIZES[SIZES.len() - 1];
    if backends.is_empty() || backends.len() > largest {
        return (0..backends.len()).collect();
    }
    let size = SIZES.into_iter().find(|size| *size >= backends.len() * PLACES_EACH);
    let size = size.unwrap_or(largest);
    let mut turns: Vec<Turn> = backends.iter().map(|backend| Turn::of(backend, size)).collect();
    let mut places = vec![usize::MAX; size];
    for backend in (0..backends.len()).cycle().take(size) {
        let place = turns[backend].next_free(&places);
        places[place] = backend;
    }
    places
}

/// A backend's order of preference among the places.
struct Turn {
    next: usize,
    skip: usize,
}

impl Turn {
    fn of(backend: &SocketAddr, size: usize) -> Self {
        let digest = Sha256::digest(backend.to_string());
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let below = |number: u64, limit: usize| usize::try_from(number % (limit as u64)).unwrap_or(0);
        Self {
            next: below(number(&digest[..8]), size),
            skip: below(number(&digest[8..16]), size - 1) + 1,
        }
    }

    fn next_free(&mut self, places: &[usize]) -> usize {
        loop {
            let place = self.next;
            self.next = (place + self.skip) % places.len();
            if places[place] == usize::MAX {
                return place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(count: u16) -> Vec<SocketAddr> {
        (0..count)
            .map(|last| last.to_be_bytes())
            .map(|[third, last]| SocketAddr::from(([10, 244, third, last], 80)))
            .collect()
    }

    #[test]
    fn a_table_ends_however_many_backends_there_are() {
        for count in [16_380, 16_381, 16_382, 20_000] {
            let mut places = places(&backends(count));
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), usize::from(count));
        }
    }

    #[test]
    fn every_backend_has_about_as_many_places() {
        for count in [1, 2, 3, 10, 100] {
            let places = places(&backends(count));
            for backend in 0..usize::from(count) {
                let share = places.iter().filter(|place| **place == backend).count();
                let fair = places.len() / usize::from(count);
                assert!(
                    share >= fair && share <= fair + 2,
                    "{share} of {} for {count}",
                    places.len()
                );
            }
        }
        assert_eq!(places(&[]), Vec::<usize>::new());
    }

    #[test]
    fn few_flows_move_when_a_backend_goes() {
        let (before, after) = (backends(10), backends(9));
        let (old, new) = (places(&before), places(&after));
        assert_eq!(old.len(), new.len());
        let moved = old
            .iter()
            .zip(&new)
            .filter(|(old, new)| old != new && **old != 9)
            .count();
        assert!(moved * 20 < old.len(), "{moved} of {}", old.len());
    }
}
