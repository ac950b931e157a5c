//! The choice of a backend. The eBPF programs run this function on the kernel's maps; tests, fuzzing and `trace` run it on
//! theirs. It decides only: rewriting the socket's address and remembering it is the programs'.

use crate::maps::{Frontend4, Frontend6, Region, Service};

/// How often a lookup is repeated when the value changes under it. Each time takes two updates of other Services within
/// the same few nanoseconds, so that once is rare and four times does not happen.
const ATTEMPTS: u32 = 4;

/// The maps of one family: frontends of type `K`, slots of type `S`.
pub trait Maps<K, S> {
    /// The value of a frontend. Its region has to be read as one word.
    fn service(&self, frontend: &K) -> Option<Service>;
    /// One slot; `None` beyond the end.
    fn slot(&self, index: u32) -> Option<S>;
}

/// A key of `svc4` or `svc6`.
pub trait Frontend {
    /// Sixteen bits that tell this frontend from others, kept in its [`Region`].
    fn check(&self) -> u16;
}

/// What becomes of a new connection or datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<S> {
    /// The address is no Service's: it goes where it wants to go.
    NotAService,
    /// A Service without a backend.
    Refused {
        /// Id of the Service port.
        id: u32,
    },
    /// A backend.
    Backend {
        /// Id of the Service port.
        id: u32,
        /// The chosen backend.
        slot: S,
    },
}

impl<S> Choice<S> {
    /// The same choice with its backend in another form.
    #[inline(always)]
    pub fn map<T>(self, form: impl FnOnce(S) -> T) -> Choice<T> {
        match self {
            Choice::NotAService => Choice::NotAService,
            Choice::Refused { id } => Choice::Refused { id },
            Choice::Backend { id, slot } => Choice::Backend { id, slot: form(slot) },
        }
    }
}

/// Chooses a backend. `draw` gives an evenly spread number: random for a fresh choice each time, [`stable`] for the same
/// choice as long as the backends stay.
#[inline(always)]
pub fn choose<K: Frontend, S>(maps: &impl Maps<K, S>, frontend: &K, draw: impl Fn() -> u32) -> Choice<S> {
    for _ in 0..ATTEMPTS {
        let Some(service) = maps.service(frontend) else {
            return Choice::NotAService;
        };
        if service.region.check() == frontend.check() {
            return pick(maps, service, draw());
        }
    }
    // The frontend is a Service's all right, though not one that can be read. A client that is refused tries again.
    Choice::Refused { id: 0 }
}

#[inline(always)]
fn pick<K, S>(maps: &impl Maps<K, S>, service: Service, draw: u32) -> Choice<S> {
    let id = service.id;
    match index(service.region, draw).and_then(|index| maps.slot(index)) {
        Some(slot) => Choice::Backend { id, slot },
        None => Choice::Refused { id },
    }
}

/// The slot that a number falls on; `None` in an empty region.
#[inline(always)]
pub fn index(region: Region, draw: u32) -> Option<u32> {
    if region.count() == 0 {
        return None;
    }
    // The upper word of the product is spread like the number, without a division.
    let offset = (u64::from(draw) * u64::from(region.count())) >> 32;
    Some(region.base().wrapping_add(offset as u32))
}

/// An evenly spread number of a socket's cookie. Cookies count upwards; a multiple of the golden ratio spreads any run of
/// them evenly, so that many sockets use all backends alike.
#[inline(always)]
pub fn stable(cookie: u64) -> u32 {
    (cookie.wrapping_mul(GOLDEN) >> 32) as u32
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Frontend for Frontend4 {
    #[inline(always)]
    fn check(&self) -> u16 {
        let word = u64::from_ne_bytes(self.to_bytes());
        (word.wrapping_mul(GOLDEN) >> 48) as u16
    }
}

impl Frontend for Frontend6 {
    #[inline(always)]
    fn check(&self) -> u16 {
        let [a, b, c, d] = self.wire_address();
        let upper = u64::from(a) << 32 | u64::from(b);
        let lower = u64::from(c) << 32 | u64::from(d);
        let rest = u64::from(self.port()) << 8 | u64::from(self.protocol());
        let mixed = (upper.wrapping_mul(GOLDEN) ^ lower).wrapping_mul(GOLDEN) ^ rest;
        (mixed.wrapping_mul(GOLDEN) >> 48) as u16
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::cell::Cell;
    use core::net::Ipv4Addr;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::maps::{Slot4, TCP};

    /// Maps in memory; the first `torn` lookups of any frontend see the value of another.
    #[derive(Default)]
    struct Table {
        services: BTreeMap<Frontend4, Service>,
        slots: Vec<Slot4>,
        torn: Cell<u32>,
    }

    impl Maps<Frontend4, Slot4> for Table {
        fn service(&self, frontend: &Frontend4) -> Option<Service> {
            let service = self.services.get(frontend)?;
            if self.torn.get() == 0 {
                return Some(*service);
            }
            self.torn.set(self.torn.get() - 1);
            Some(Service::new(Region::new(0, 1, !frontend.check()), 99))
        }

        fn slot(&self, index: u32) -> Option<Slot4> {
            self.slots.get(index as usize).copied()
        }
    }

    fn frontend(last: u8) -> Frontend4 {
        Frontend4::new(Ipv4Addr::new(10, 96, 0, last), 80, TCP)
    }

    fn table(base: u32, count: u16) -> Table {
        let key = frontend(1);
        let service = Service::new(Region::new(base, count, key.check()), 7);
        let slots = (0..1024_u16)
            .map(|port| Slot4::new(Ipv4Addr::new(10, 244, 0, 1), port))
            .collect();
        Table {
            services: [(key, service)].into(),
            slots,
            torn: Cell::new(0),
        }
    }

    #[test]
    fn an_address_that_is_no_service_is_left_alone() {
        assert_eq!(choose(&table(0, 3), &frontend(2), || 0), Choice::NotAService);
    }

    #[test]
    fn a_service_without_backends_refuses() {
        assert_eq!(
            choose(&table(0, 0), &frontend(1), || u32::MAX),
            Choice::Refused { id: 7 }
        );
    }

    #[test]
    fn a_region_beyond_the_map_refuses() {
        assert_eq!(choose(&table(1024, 1), &frontend(1), || 0), Choice::Refused { id: 7 });
    }

    #[test]
    fn a_value_of_another_frontend_is_not_used() {
        let table = table(100, 1);
        table.torn.set(3);
        let slot = Slot4::new(Ipv4Addr::new(10, 244, 0, 1), 100);
        assert_eq!(choose(&table, &frontend(1), || 0), Choice::Backend { id: 7, slot });
        table.torn.set(ATTEMPTS);
        assert_eq!(choose(&table, &frontend(1), || 0), Choice::Refused { id: 0 });
    }

    #[test]
    fn consecutive_cookies_use_all_backends_alike() {
        let mut hits = [0_u32; 5];
        for cookie in 1000..2000 {
            let index = index(Region::new(0, 5, 0), stable(cookie)).unwrap();
            hits[index as usize] += 1;
        }
        assert!(hits.iter().all(|hits| (190..=210).contains(hits)), "{hits:?}");
    }

    proptest! {
        #[test]
        fn every_number_falls_inside_the_region(base in 0..u32::MAX / 2, count in 1..=u16::MAX, draw: u32) {
            let index = index(Region::new(base, count, 0), draw).unwrap();
            prop_assert!(index >= base && index - base < u32::from(count));
        }

        #[test]
        fn every_slot_of_a_region_is_reached(base in 0_u32..500, count in 1_u16..500) {
            let region = Region::new(base, count, 0);
            let width = u32::MAX / u32::from(count);
            let hit: Vec<u32> = (0..u32::from(count))
                .map(|slot| index(region, slot * width + width / 2 + slot).unwrap() - base)
                .collect();
            prop_assert_eq!(hit, (0..u32::from(count)).collect::<Vec<_>>());
        }

        #[test]
        fn a_chosen_backend_is_one_of_the_region(base in 0_u32..900, count in 1_u16..100, draw: u32) {
            let Choice::Backend { id: 7, slot } = choose(&table(base, count), &frontend(1), || draw) else {
                return Err(TestCaseError::fail("no backend"));
            };
            let port = u32::from(slot.endpoint().1);
            prop_assert!((base..base + u32::from(count)).contains(&port));
        }
    }
}
