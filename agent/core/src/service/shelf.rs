//! Objects of one kind, by namespace and name, of which a copy costs nothing: copies share what they have in common, and
//! tell fast in what they differ. To put one object in copies some hundreds of references, however many there are.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

/// Boards that the objects are spread over, by a hash of their names: as many as there are objects on each when there are
/// tens of thousands.
const BOARDS: usize = 256;

/// What has a namespace and a name of its own.
pub trait Named {
    /// The namespace; `default` where the object has none.
    fn namespace(&self) -> &str;
    /// The name.
    fn name(&self) -> &str;
}

impl Named for Service {
    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or("default")
    }

    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}

/// The objects, each name once.
pub struct Shelf<T> {
    boards: Arc<[Board<T>; BOARDS]>,
}

/// In the order of the names.
type Board<T> = Arc<Vec<Arc<T>>>;

/// What one of two shelves has and the other has not, as the same allocation.
#[derive(Debug)]
pub struct Difference<'a, T> {
    /// Only on the first.
    pub gone: Vec<&'a Arc<T>>,
    /// Only on the second.
    pub new: Vec<&'a Arc<T>>,
}

impl<T: Named> Shelf<T> {
    /// Puts an object in, in the place of another one of its name.
    pub fn put(&mut self, object: Arc<T>) {
        let key = key(&*object);
        let board = self.board_mut(key);
        match place(board, key) {
            Ok(place) => board[place] = object,
            Err(place) => board.insert(place, object),
        }
    }

    /// Takes an object out.
    pub fn remove(&mut self, namespace: &str, name: &str) {
        if self.get(namespace, name).is_some() {
            let key = (namespace, name);
            let board = self.board_mut(key);
            board.retain(|object| self::key(&**object) != key);
        }
    }

    /// An object by its name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        let key = (namespace, name);
        let board = &self.boards[number(key)];
        board.get(place(board, key).ok()?)
    }

    fn board_mut(&mut self, key: (&str, &str)) -> &mut Vec<Arc<T>> {
        let boards = Arc::make_mut(&mut self.boards);
        Arc::make_mut(&mut boards[number(key)])
    }
}

impl<T> Shelf<T> {
    /// All objects, in an order that is always the same.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.boards.iter().flat_map(|board| board.iter())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.boards.iter().map(|board| board.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// In what a later copy differs.
    pub fn difference<'a>(&'a self, later: &'a Self) -> Difference<'a, T> {
        let mut difference = Difference {
            gone: Vec::new(),
            new: Vec::new(),
        };
        let boards = self.boards.iter().zip(later.boards.iter());
        for (before, now) in boards.filter(|(before, now)| !Arc::ptr_eq(before, now)) {
            difference.of_boards(before, now);
        }
        difference
    }
}

impl<'a, T> Difference<'a, T> {
    /// Most of the time both ends of the boards are the same.
    fn of_boards(&mut self, before: &'a [Arc<T>], now: &'a [Arc<T>]) {
        let same = |(one, other): &(&Arc<T>, &Arc<T>)| Arc::ptr_eq(one, other);
        let start = before.iter().zip(now).take_while(same).count();
        let (before, now) = (&before[start..], &now[start..]);
        let end = before.iter().rev().zip(now.iter().rev()).take_while(same).count();
        let (before, now) = (&before[..before.len() - end], &now[..now.len() - end]);
        // Of a first list nothing was there before: there is nothing to compare it with.
        let set = |list: &[Arc<T>], other: &[Arc<T>]| match other {
            [] => HashSet::new(),
            _ => list.iter().map(Arc::as_ptr).collect(),
        };
        let (old, new) = (set(before, now), set(now, before));
        self.gone
            .extend(before.iter().filter(|one| !new.contains(&Arc::as_ptr(one))));
        self.new
            .extend(now.iter().filter(|one| !old.contains(&Arc::as_ptr(one))));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.new.is_empty()
    }
}

fn key<T: Named>(object: &T) -> (&str, &str) {
    (object.namespace(), object.name())
}

fn place<T: Named>(board: &[Arc<T>], key: (&str, &str)) -> Result<usize, usize> {
    board.binary_search_by(|object| self::key(&**object).cmp(&key))
}

fn number(key: (&str, &str)) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % BOARDS as u64).expect("a remainder of 256")
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self {
            boards: Arc::new(std::array::from_fn(|_| Arc::default())),
        }
    }
}

impl<T> Clone for Shelf<T> {
    fn clone(&self) -> Self {
        Self {
            boards: Arc::clone(&self.boards),
        }
    }
}

impl<T> fmt::Debug for Shelf<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} objects", self.len())
    }
}

/// Two are equal that hold the same allocations.
impl<T> PartialEq for Shelf<T> {
    fn eq(&self, other: &Self) -> bool {
        self.difference(other).is_empty()
    }
}

impl<T: Named> FromIterator<Arc<T>> for Shelf<T> {
    fn from_iter<I: IntoIterator<Item = Arc<T>>>(objects: I) -> Self {
        let mut shelf = Self::default();
        objects.into_iter().for_each(|object| shelf.put(object));
        shelf
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use proptest::prelude::*;

    use super::*;

    fn service(name: &str) -> Arc<Service> {
        let metadata = ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        };
        Arc::new(Service {
            metadata,
            ..Service::default()
        })
    }

    proptest! {
        /// Objects come, are replaced and go: a shelf holds what a map would, and its copies stay as they were.
        #[test]
        fn a_shelf_is_a_map(turns in proptest::collection::vec((0..600_u16, any::<bool>()), 0..200)) {
            let (mut shelf, mut map) = (Shelf::default(), BTreeMap::new());
            for (number, comes) in turns {
                let (before, old) = (shelf.clone(), map.clone());
                let name = format!("s{number}");
                if comes {
                    let object = service(&name);
                    shelf.put(Arc::clone(&object));
                    map.insert(name, object);
                } else {
                    shelf.remove("default", &name);
                    map.remove(&name);
                }
                prop_assert_eq!(shelf.len(), map.len());
                prop_assert!(map.iter().all(|(name, object)| shelf.get("default", name).is_some_and(|held| Arc::ptr_eq(held, object))));
                let missing = |of: &BTreeMap<String, Arc<Service>>, from: &BTreeMap<String, Arc<Service>>| {
                    let here = |(name, object): (&String, &Arc<Service>)| {
                        let stays = from.get(name).is_some_and(|other| Arc::ptr_eq(object, other));
                        (!stays).then_some(Arc::as_ptr(object))
                    };
                    of.iter().filter_map(here).collect::<Vec<_>>()
                };
                let difference = before.difference(&shelf);
                let allocations = |list: &[&Arc<Service>]| list.iter().map(|object| Arc::as_ptr(object)).collect::<Vec<_>>();
                prop_assert_eq!(allocations(&difference.gone), missing(&old, &map));
                prop_assert_eq!(allocations(&difference.new), missing(&map, &old));
            }
        }
    }

    #[test]
    fn the_same_objects_are_the_same_shelf() {
        let objects = [service("a"), service("b")];
        let (one, other): (Shelf<_>, Shelf<_>) = (
            objects.iter().cloned().collect(),
            objects.iter().rev().cloned().collect(),
        );
        assert_eq!(one, other);
        assert_ne!(one, [service("a"), service("b")].into_iter().collect());
    }
}
