//! Looking into a map for many keys: in their own order each costs a step or a few, where a search would begin at the root.

use std::cmp::Ordering;
use std::collections::btree_map::{BTreeMap, Range};
use std::iter::Peekable;

/// So many steps are cheaper than a search.
const FEW: usize = 16;

/// A look into a map, for keys in any order.
pub struct Walk<'a, K, V> {
    map: &'a BTreeMap<K, V>,
    /// The key that was passed last.
    behind: Option<&'a K>,
    ahead: Peekable<Range<'a, K, V>>,
}

impl<'a, K: Ord, V> Walk<'a, K, V> {
    /// From the first key on.
    pub fn new(map: &'a BTreeMap<K, V>) -> Self {
        Self {
            map,
            behind: None,
            ahead: map.range(..).peekable(),
        }
    }

    /// What the map has for a key.
    pub fn get(&mut self, key: &K) -> Option<&'a V> {
        for _ in 0..FEW {
            let next = self.ahead.peek().map(|(next, value)| ((*next).cmp(key), *value));
            match next {
                Some((Ordering::Less, _)) => self.behind = self.ahead.next().map(|(passed, _)| passed),
                Some((Ordering::Equal, value)) => return Some(value),
                Some((Ordering::Greater, _)) | None if self.behind.is_some_and(|behind| behind < key) => return None,
                Some((Ordering::Greater, _)) | None => break,
            }
        }
        self.seek(key)
    }

    fn seek(&mut self, key: &K) -> Option<&'a V> {
        self.behind = None;
        self.ahead = self.map.range(key..).peekable();
        let (next, value) = self.ahead.peek()?;
        (*next == key).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_walk_finds_what_a_search_would(
            map in proptest::collection::btree_map(0..200_u8, any::<u8>(), 0..100),
            keys in proptest::collection::vec(0..200_u8, 0..100),
        ) {
            let mut walk = Walk::new(&map);
            for key in keys {
                prop_assert_eq!(walk.get(&key), map.get(&key));
            }
        }
    }
}
