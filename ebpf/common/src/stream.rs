//! Places for TCP sockets that are connected to a Service: the maps `streams` and `taken`.
//!
//! The kernel takes several times as long to give a socket a storage of its own as for all the rest of a connect, so that
//! TCP sockets have places in a table that is there. The next place is memory that nobody has touched lately: to read from
//! it would cost half as much as all the rest of a connect again, while what is only written the processor brings to its
//! memory later. Whether a place is free therefore stands elsewhere, beside the same of those of the sockets before and
//! after. A socket whose place is taken is remembered in `sockets`.

use crate::plain::plain;
use crate::record::SocketRecord;

/// Places, a power of two.
pub const MAX_STREAMS: u32 = 65_536;
/// Values of `taken`.
pub const MAX_TAKEN: u32 = MAX_STREAMS / MARKS;
/// Places that stand together in `taken`.
const MARKS: u32 = 64;

const _: () = assert!(MAX_STREAMS.is_power_of_two() && MAX_STREAMS.is_multiple_of(MARKS));

plain! {
    StreamRecord: 48,
    Taken: 64,
}

/// Value of `streams`: a place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamRecord {
    /// The cookie of the socket that has it, which no later socket gets; zero in a free place.
    pub cookie: u64,
    /// What was done for that socket.
    pub record: SocketRecord,
}

/// Value of `taken`: a line of a cache that says of so many places which of them somebody has.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken([u8; MARKS as usize]);

impl Taken {
    /// All of them free, or taken.
    pub const fn all(is_taken: bool) -> Self {
        Self([is_taken as u8; MARKS as usize])
    }
}

/// The table.
pub trait Places {
    /// One place; `None` beyond the end.
    fn place(&mut self, index: u32) -> Option<&mut StreamRecord>;
    /// One value of `taken`; `None` beyond the end.
    fn taken(&mut self, index: u32) -> Option<&mut Taken>;
}

/// The place of a socket. Cookies count upwards or downwards, so that sockets of one time are spread evenly.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower bits are the place")]
const fn place(cookie: u64) -> u32 {
    cookie as u32 & (MAX_STREAMS - 1)
}

#[inline(always)]
fn mark(places: &mut impl Places, cookie: u64) -> Option<&mut u8> {
    let taken = places.taken(place(cookie) / MARKS)?;
    Some(&mut taken.0[(place(cookie) % MARKS) as usize])
}

/// Keeps the record of a socket in its place; false when another socket has that.
#[inline(always)]
pub fn keep(places: &mut impl Places, cookie: u64, record: &SocketRecord) -> bool {
    let Some(mark) = mark(places, cookie) else {
        return false;
    };
    let is_free = *mark == 0;
    *mark = 1;
    let Some(place) = places.place(place(cookie)) else {
        return false;
    };
    let is_ours = is_free || place.cookie == cookie;
    if is_ours {
        *place = StreamRecord {
            cookie,
            record: *record,
        };
    }
    is_ours
}

/// The record of a socket that has a place.
#[inline(always)]
pub fn find(places: &mut impl Places, cookie: u64) -> Option<&mut SocketRecord> {
    if *mark(places, cookie)? == 0 {
        return None;
    }
    let place = places.place(place(cookie))?;
    (place.cookie == cookie).then_some(&mut place.record)
}

/// Frees the place of a socket, if it has one.
#[inline(always)]
pub fn free(places: &mut impl Places, cookie: u64) {
    if mark(places, cookie).is_none_or(|mark| *mark == 0) {
        return;
    }
    let Some(place) = places.place(place(cookie)) else {
        return;
    };
    if place.cookie == cookie {
        place.cookie = 0;
        if let Some(mark) = mark(places, cookie) {
            *mark = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::record::Peer;

    #[derive(Default)]
    struct Table {
        places: BTreeMap<u32, StreamRecord>,
        taken: BTreeMap<u32, Taken>,
    }

    impl Places for Table {
        fn place(&mut self, index: u32) -> Option<&mut StreamRecord> {
            (index < MAX_STREAMS).then(|| self.places.entry(index).or_default())
        }

        fn taken(&mut self, index: u32) -> Option<&mut Taken> {
            (index < MAX_TAKEN).then(|| self.taken.entry(index).or_insert(Taken::all(false)))
        }
    }

    impl Table {
        /// How many places somebody has, and how many are marked so.
        fn counts(&self) -> (usize, usize) {
            let places = self.places.values().filter(|place| place.cookie != 0).count();
            let marks = self.taken.values().flat_map(|taken| taken.0).filter(|mark| *mark != 0);
            (places, marks.count())
        }
    }

    fn record(port: u16) -> SocketRecord {
        SocketRecord::connected(Peer::v4(1, port), Peer::v4(2, port))
    }

    /// Sockets of which two share a place, and all but one a line of marks.
    const COOKIES: [u64; 4] = [7, 7 + MAX_STREAMS as u64, 8, 7 + MARKS as u64];

    #[test]
    fn of_two_sockets_with_one_place_the_first_has_it_until_it_is_closed() {
        let mut table = Table::default();
        let [first, second, ..] = COOKIES;
        assert!(keep(&mut table, first, &record(1)));
        assert!(!keep(&mut table, second, &record(2)));
        free(&mut table, second);
        assert_eq!(find(&mut table, first), Some(&mut record(1)));
        assert!(keep(&mut table, first, &record(3)), "connects anew");
        assert_eq!(find(&mut table, first), Some(&mut record(3)));
        free(&mut table, first);
        assert!(keep(&mut table, second, &record(2)));
        assert_eq!(find(&mut table, first), None);
    }

    proptest! {
        /// Whatever connects and is closed, in any order: who was kept is found as it was kept last, who was not or is
        /// closed is not found, and nothing stays when all are closed.
        #[test]
        fn sockets_find_what_was_kept_for_them(steps in prop::collection::vec((0..COOKIES.len(), 0..4_u16), 0..60)) {
            let (mut table, mut kept) = (Table::default(), BTreeMap::new());
            for (which, port) in steps {
                let cookie = COOKIES[which];
                if port == 0 {
                    free(&mut table, cookie);
                    kept.remove(&cookie);
                } else if keep(&mut table, cookie, &record(port)) {
                    kept.insert(cookie, record(port));
                }
                for cookie in COOKIES {
                    prop_assert_eq!(find(&mut table, cookie).copied(), kept.get(&cookie).copied());
                }
                prop_assert_eq!(table.counts(), (kept.len(), kept.len()));
            }
        }
    }
}
