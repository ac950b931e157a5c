//! Which address is next: a pure allocator over one range. It hints; the kernel decides (see `identity`).
//!
//! Next-fit, so that an address comes round again as late as can be, and a released one cools down first. Clients and
//! peers keep state by address for a while: connection tracking, DNS, keep-alive.

use std::net::IpAddr;

use crate::cidr::Cidr;

/// Seconds that a released address rests while another one is free.
pub const COOL_DOWN_SECONDS: u64 = 30;
/// Most addresses that cool at once; with more, the one that was released first stops cooling.
const COOLING_MAX: usize = 1024;
/// First offset that pods get: 0 is the network (IPv6: the routers' anycast address), 1 the node's own address.
const FIRST_OFFSET: u32 = 2;

/// The addresses of one range, as far as they are known to be taken. Offsets count from the network's address; a range
/// with more than 2^32 addresses is used up to there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    /// Offset that is tried first.
    pub next: u32,
    /// What is not simply free, by offset, each there once and in their order.
    entries: Vec<(u32, Entry)>,
}

/// Why an address is not simply free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The link of that name holds it: as many bytes as a link's name may have, zeroes behind a shorter one.
    Held([u8; 16]),
    /// It was released in that second.
    Cooling(u64),
}

impl Entry {
    fn held(link: &str) -> Self {
        let mut holder = [0; 16];
        holder.iter_mut().zip(link.bytes()).for_each(|(to, byte)| *to = byte);
        Self::Held(holder)
    }

    fn released(&self) -> Option<u64> {
        match self {
            Self::Held(_) => None,
            Self::Cooling(released) => Some(*released),
        }
    }
}

impl Pool {
    /// Takes the next free address for `link`; `None` when all are held.
    pub fn take(&mut self, cidr: &Cidr, link: &str, now: u64) -> Option<IpAddr> {
        self.warm(now);
        let offset = self.next_free(cidr)?;
        self.set(offset, Entry::held(link));
        self.next = offset.saturating_add(1);
        cidr.address(offset.into())
    }

    /// Notes that `link` holds `address`; one outside of what the pool gives out is nothing to it.
    pub fn note(&mut self, cidr: &Cidr, address: IpAddr, link: &str) {
        if let Some(offset) = cidr.offset(address).and_then(|offset| u32::try_from(offset).ok()) {
            self.set(offset, Entry::held(link));
        }
    }

    /// Releases everything that `link` holds; it begins to cool.
    pub fn release(&mut self, link: &str, now: u64) {
        let held = Entry::held(link);
        for (_, entry) in &mut self.entries {
            if *entry == held {
                *entry = Entry::Cooling(now);
            }
        }
        let cooling = |pool: &Self| {
            pool.entries
                .iter()
                .filter(|(_, entry)| entry.released().is_some())
                .count()
        };
        for _ in COOLING_MAX..cooling(self) {
            if let Some(warmest) = self.coolest(u32::MAX) {
                self.entries.retain(|(offset, _)| *offset != warmest);
            }
        }
    }

    /// Forgets who holds what, for a fresh [`Self::note`] of all that is true.
    pub fn forget_holders(&mut self) {
        self.entries.retain(|(_, entry)| entry.released().is_some());
    }

    /// What is not simply free, by offset.
    pub fn entries(&self) -> &[(u32, Entry)] {
        &self.entries
    }

    /// Makes room for so many entries, one that is taken among them.
    pub fn expect(&mut self, count: usize) {
        self.entries.reserve(count);
    }

    /// Makes this the only entry of its offset. The last of all is put behind the others without a search.
    pub fn set(&mut self, offset: u32, entry: Entry) {
        match self.entries.last() {
            Some((last, _)) if offset <= *last => match self.place(offset) {
                Ok(place) => self.entries[place].1 = entry,
                Err(place) => self.entries.insert(place, (offset, entry)),
            },
            Some(_) | None => self.entries.push((offset, entry)),
        }
    }

    /// Where the entry of that offset stands, or would.
    fn place(&self, offset: u32) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&offset, |(offset, _)| *offset)
    }

    /// Ends the cooling that is over. A time in the future is from before a reboot and means nothing.
    fn warm(&mut self, now: u64) {
        self.entries.retain(|(_, entry)| match entry {
            Entry::Held(_) => true,
            Entry::Cooling(released) => now.checked_sub(*released).is_some_and(|age| age < COOL_DOWN_SECONDS),
        });
    }

    /// The first offset from `next` on, wrapping, that is neither held nor cooling; else the one that cools longest.
    fn next_free(&self, cidr: &Cidr) -> Option<u32> {
        let last = last_offset(cidr)?;
        let start = if (FIRST_OFFSET..=last).contains(&self.next) {
            self.next
        } else {
            FIRST_OFFSET
        };
        let is_free = |offset: &u32| self.place(*offset).is_err();
        (start..=last)
            .chain(FIRST_OFFSET..start)
            .find(is_free)
            .or_else(|| self.coolest(last))
    }

    /// The one up to `last` that cools longest.
    fn coolest(&self, last: u32) -> Option<u32> {
        let inside = self
            .entries
            .iter()
            .filter(|(offset, _)| (FIRST_OFFSET..=last).contains(offset));
        let cooling = inside.filter_map(|(offset, entry)| Some((entry.released()?, *offset)));
        cooling.min().map(|(_, offset)| offset)
    }
}

/// The node's own address in a range, on `lo`: source of the node's packets to its pods.
pub fn node_address(cidr: &Cidr) -> Option<IpAddr> {
    last_offset(cidr).and_then(|_| cidr.address(1))
}

/// Whether pods may have `address`: in the range, and neither the network, the node nor the IPv4 broadcast address.
pub fn is_assignable(cidr: &Cidr, address: IpAddr) -> bool {
    let broadcast = if cidr.is_ipv4() { Some(cidr.last_offset()) } else { None };
    cidr.offset(address)
        .is_some_and(|offset| offset >= FIRST_OFFSET.into() && Some(offset) != broadcast)
}

/// How many addresses the range has for pods; 0 when it is too small for any.
pub fn capacity(cidr: &Cidr) -> u32 {
    last_offset(cidr).map_or(0, |last| last - FIRST_OFFSET + 1)
}

/// The last offset that pods get; `None` when the range is too small for any. IPv4 keeps its broadcast address.
fn last_offset(cidr: &Cidr) -> Option<u32> {
    let last = u32::try_from(cidr.last_offset()).unwrap_or(u32::MAX);
    let last = if cidr.is_ipv4() { last.checked_sub(1)? } else { last };
    (last >= FIRST_OFFSET).then_some(last)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn taken(pool: &mut Pool, range: &str, link: &str, now: u64) -> Option<String> {
        pool.take(&cidr(range), link, now).map(|address| address.to_string())
    }

    #[test]
    fn capacities_leave_out_network_node_and_broadcast() {
        for (range, expected) in [
            ("10.0.0.0/24", 253),
            ("10.0.0.0/30", 1),
            ("10.0.0.0/31", 0),
            ("10.0.0.0/32", 0),
            ("fd00::/126", 2),
            ("fd00::/127", 0),
            ("fd00::/64", u32::MAX - 1),
        ] {
            assert_eq!(capacity(&cidr(range)), expected, "{range}");
            assert_eq!(node_address(&cidr(range)).is_some(), expected > 0, "{range}");
        }
    }

    #[test]
    fn the_next_address_is_tried_before_a_released_one() {
        let mut pool = Pool::default();
        assert_eq!(taken(&mut pool, "10.0.0.0/29", "a", 0).unwrap(), "10.0.0.2");
        pool.release("a", 0);
        assert_eq!(taken(&mut pool, "10.0.0.0/29", "b", 100).unwrap(), "10.0.0.3");
        for (link, address) in [
            ("c", "10.0.0.4"),
            ("d", "10.0.0.5"),
            ("e", "10.0.0.6"),
            ("f", "10.0.0.2"),
        ] {
            assert_eq!(taken(&mut pool, "10.0.0.0/29", link, 100).unwrap(), address);
        }
        assert_eq!(taken(&mut pool, "10.0.0.0/29", "g", 100), None);
    }

    #[test]
    fn a_released_address_cools_while_another_is_free_and_the_coldest_is_used_when_none_is() {
        let mut pool = Pool::default();
        for link in ["a", "b", "c", "d"] {
            taken(&mut pool, "10.0.0.0/29", link, 0).unwrap();
        }
        pool.release("b", 10);
        pool.release("a", 11);
        assert_eq!(taken(&mut pool, "10.0.0.0/29", "e", 12).unwrap(), "10.0.0.6");
        assert_eq!(taken(&mut pool, "10.0.0.0/29", "f", 12).unwrap(), "10.0.0.3");
        assert_eq!(taken(&mut pool, "10.0.0.0/29", "g", 12).unwrap(), "10.0.0.2");
        assert_eq!(taken(&mut pool, "10.0.0.0/29", "h", 12), None);
    }

    #[test]
    fn cooling_from_before_a_reboot_is_over() {
        let mut pool = Pool::default();
        taken(&mut pool, "10.0.0.0/30", "a", 5_000).unwrap();
        pool.release("a", 5_000);
        pool.warm(3);
        assert_eq!(pool.entries(), []);
    }

    #[test]
    fn only_a_pods_own_part_of_the_range_is_assignable() {
        for (address, expected) in [
            ("10.0.0.0", false),
            ("10.0.0.1", false),
            ("10.0.0.2", true),
            ("10.0.0.254", true),
            ("10.0.0.255", false),
            ("10.0.1.2", false),
            ("fd00::2", false),
        ] {
            assert_eq!(
                is_assignable(&cidr("10.0.0.0/24"), address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
        assert!(is_assignable(
            &cidr("fd00::/64"),
            "fd00::ffff:ffff:ffff:ffff".parse().unwrap()
        ));
    }

    #[derive(Debug, Clone)]
    enum Op {
        Take(u8),
        Release(u8),
        Wait(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0u8..20).prop_map(Op::Take),
            2 => (0u8..20).prop_map(Op::Release),
            1 => (0u64..50).prop_map(Op::Wait),
        ]
    }

    proptest! {
        #[test]
        fn no_address_is_ever_held_twice_and_every_one_is_usable(
            ops in prop::collection::vec(op(), 0..200),
            range in prop::sample::select(vec!["10.0.0.0/30", "10.0.0.0/28", "10.0.0.0/24", "fd00::/125", "fd00::/64"]),
        ) {
            let cidr = cidr(range);
            let (mut pool, mut now, mut held) = (Pool::default(), 0, Vec::<(u8, IpAddr)>::new());
            for op in ops {
                match op {
                    Op::Take(link) => {
                        let taken = pool.take(&cidr, &link.to_string(), now);
                        prop_assert_eq!(taken.is_none(), held.len() == capacity(&cidr) as usize);
                        if let Some(address) = taken {
                            prop_assert!(is_assignable(&cidr, address));
                            held.push((link, address));
                        }
                    }
                    Op::Release(link) => {
                        pool.release(&link.to_string(), now);
                        held.retain(|(holder, _)| *holder != link);
                    }
                    Op::Wait(seconds) => now += seconds,
                }
                let distinct: BTreeSet<IpAddr> = held.iter().map(|(_, address)| *address).collect();
                prop_assert_eq!(distinct.len(), held.len());
                let is_held = |(_, entry): &&(u32, Entry)| matches!(entry, Entry::Held(_));
                prop_assert_eq!(pool.entries().iter().filter(is_held).count(), held.len());
                prop_assert!(pool.entries().is_sorted_by(|(one, _), (next, _)| one < next));
            }
        }
    }
}
