//! Choices on maps in memory.

extern crate std;

use core::cell::{Cell, RefCell};
use core::net::Ipv4Addr;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::maps::TCP;

const POD: [u32; 4] = [0, 0, 0xffff_0000_u32.swap_bytes(), 7];

/// Maps in memory; the first `torn` lookups of any frontend see the value of another.
struct Table {
    services: BTreeMap<Frontend4, Service>,
    slots: Vec<Slot4>,
    torn: Cell<u32>,
    draw: Cell<u32>,
    now: Cell<u32>,
    caller: Cell<Caller>,
    affinities: RefCell<BTreeMap<AffinityKey, Affinity>>,
    members: BTreeSet<Member>,
    allowed: BTreeSet<(u32, [u32; 4])>,
}

impl World<Frontend4, Slot4> for Table {
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

    fn caller(&self) -> Caller {
        self.caller.get()
    }

    fn draw(&self, _: Traits) -> u32 {
        self.draw.get()
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinities.borrow().get(key).copied()
    }

    fn keep(&self, key: &AffinityKey, affinity: &Affinity) {
        self.affinities.borrow_mut().insert(*key, *affinity);
    }

    fn is_member(&self, member: &Member) -> bool {
        self.members.contains(member)
    }

    fn allows(&self, id: u32, source: &[u32; 4]) -> bool {
        self.allowed.contains(&(id, *source))
    }
}

fn frontend(last: u8) -> Frontend4 {
    Frontend4::new(Ipv4Addr::new(10, 96, 0, last), 80, TCP)
}

/// One Service port with id 7, whose backends have their slot's index as their port, from 1.
fn table(base: u32, count: u16, traits: Traits) -> Table {
    let key = frontend(1);
    let service = Service::new(Region::new(base, count, key.check()).with(traits), 7).keeping(10);
    let slots: Vec<Slot4> = (0..1024_u16)
        .map(|port| Slot4::new(Ipv4Addr::new(10, 244, 0, 1), port))
        .collect();
    let members = (base..base + u32::from(count)).filter_map(|index| slots.get(index as usize));
    Table {
        services: [(key, service)].into(),
        members: members.map(|slot| Member::new(7, &slot.peer(), traits)).collect(),
        slots,
        torn: Cell::new(0),
        draw: Cell::new(0),
        now: Cell::new(1000),
        caller: Cell::new(Caller {
            is_node: false,
            address: Some(POD),
            identity: POD,
        }),
        affinities: RefCell::default(),
        allowed: BTreeSet::new(),
    }
}

fn port(choice: &Choice) -> Option<u16> {
    match choice {
        Choice::Backend { id, backend, .. } => (*id == 7).then(|| u16::from_be(backend.port)),
        Choice::NotAService | Choice::Refused { .. } | Choice::Dropped { .. } => None,
    }
}

const DROPPED: Choice = Choice::Dropped {
    id: 7,
    why: Drop::NoLocalBackend,
};
const NOT_ALLOWED: Choice = Choice::Dropped {
    id: 7,
    why: Drop::NotAllowed,
};

#[test]
fn an_address_that_is_no_service_is_left_alone() {
    assert_eq!(choose(&table(0, 3, Traits::NONE), &frontend(2)), Choice::NotAService);
    let outside = frontend(1).from_outside();
    assert_eq!(choose(&table(0, 3, Traits::NONE), &outside), Choice::NotAService);
}

#[test]
fn a_service_without_backends_refuses() {
    let table = table(0, 0, Traits::NONE);
    table.draw.set(u32::MAX);
    assert_eq!(choose(&table, &frontend(1)), Choice::Refused { id: 7 });
}

#[test]
fn a_service_whose_backends_are_elsewhere_drops() {
    assert_eq!(choose(&table(0, 0, Traits::DROPS), &frontend(1)), DROPPED);
    assert_eq!(port(&choose(&table(5, 1, Traits::DROPS), &frontend(1))), Some(5));
}

#[test]
fn a_region_beyond_the_map_refuses() {
    let table = table(1024, 1, Traits::NONE);
    assert_eq!(choose(&table, &frontend(1)), Choice::Refused { id: 7 });
}

#[test]
fn a_value_of_another_frontend_is_not_used() {
    let table = table(100, 1, Traits::NONE);
    table.torn.set(3);
    assert_eq!(port(&choose(&table, &frontend(1))), Some(100));
    table.torn.set(ATTEMPTS);
    assert_eq!(choose(&table, &frontend(1)), Choice::Refused { id: 0 });
}

#[test]
fn a_loopback_address_is_the_nodes_own_alone() {
    let table = table(5, 1, Traits::NODE_ONLY);
    assert_eq!(choose(&table, &frontend(1)), Choice::NotAService);
    table.caller.set(Caller {
        is_node: true,
        ..table.caller.get()
    });
    assert_eq!(port(&choose(&table, &frontend(1))), Some(5));
}

#[test]
fn source_ranges_let_in_whom_they_name_and_nobody_whose_address_is_unknown() {
    let mut table = table(5, 1, Traits::GUARDED);
    assert_eq!(choose(&table, &frontend(1)), NOT_ALLOWED);
    table.allowed.insert((7, POD));
    assert_eq!(port(&choose(&table, &frontend(1))), Some(5));
    table.caller.set(Caller {
        address: None,
        ..table.caller.get()
    });
    assert_eq!(choose(&table, &frontend(1)), NOT_ALLOWED);
}

#[test]
fn a_client_keeps_its_backend_until_it_has_been_silent_for_long_or_the_backend_goes() {
    let mut table = table(0, 4, Traits::STICKY);
    let ask = |table: &Table, draw: u32, now: u32| {
        table.draw.set(draw << 30);
        table.now.set(now);
        port(&choose(table, &frontend(1)))
    };
    assert_eq!(ask(&table, 1, 1000), Some(1));
    assert_eq!(ask(&table, 2, 1010), Some(1), "ten seconds are not too long");
    assert_eq!(ask(&table, 2, 1020), Some(1), "and every connection counts anew");
    assert_eq!(ask(&table, 2, 1031), Some(2));
    let gone = table.slots[2];
    table.members.remove(&Member::new(7, &gone.peer(), Traits::STICKY));
    assert_eq!(ask(&table, 3, 1032), Some(3));
    table.caller.set(Caller {
        identity: [1; 4],
        ..table.caller.get()
    });
    assert_eq!(ask(&table, 0, 1032), Some(0), "another client chooses for itself");
}

#[test]
fn a_backend_of_the_whole_cluster_is_none_of_the_nodes_own() {
    let traits = Traits::STICKY.and(Traits::LOCAL);
    let mut table = table(0, 1, traits);
    let remote = table.slots[9].peer();
    table.members.insert(Member::new(7, &remote, Traits::STICKY));
    let key = AffinityKey::new(POD, 7);
    table.keep(&key, &Affinity::new(&remote, 1000));
    assert_eq!(port(&choose(&table, &frontend(1))), Some(0));
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

/// A client may make every socket of the node, every second or any other; its sockets use all backends alike.
#[test]
fn sockets_that_come_at_any_distance_are_spread_evenly() {
    for distance in [1, 2, 3, 8, 89, 1024, 4096] {
        let mut hits = [0_u32; 5];
        for socket in 0..5_000 {
            let draw = fresh(4096 + distance * socket, 4_294_937_296);
            hits[index(Region::new(0, 5, 0), draw).unwrap() as usize] += 1;
        }
        assert!(
            hits.iter().all(|hits| (850..=1150).contains(hits)),
            "{distance}: {hits:?}"
        );
    }
}

#[test]
fn a_socket_that_connects_again_later_draws_anew() {
    let mut hits = [0_u32; 5];
    for tick in 0..5_000 {
        hits[index(Region::new(0, 5, 0), fresh(7, 4_294_937_296 + tick)).unwrap() as usize] += 1;
    }
    assert!(hits.iter().all(|hits| (850..=1150).contains(hits)), "{hits:?}");
}

proptest! {
    #[test]
    fn every_number_falls_inside_the_region(base in 0..1_u32 << 23, count in 1..=u16::MAX, draw: u32) {
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
}

/// A million of them with `ORLOP_CASES=1000000`.
fn cases() -> ProptestConfig {
    let cases = std::env::var("ORLOP_CASES").map_or(2_000, |cases| cases.parse().unwrap());
    ProptestConfig::with_cases(cases)
}

proptest! {
    #![proptest_config(cases())]

    /// Whatever the maps hold and whoever asks: a backend is one of the region, or one that was kept and is a member; and
    /// nobody gets one who may not.
    #[test]
    fn a_chosen_backend_is_one_of_the_region(
        base in 0_u32..900, count in 0_u16..100, draw: u32, bits in 0..64_u8, is_node: bool, is_allowed: bool, has_address: bool,
        known in proptest::option::of((0..1000_usize, any::<u32>())), now: u32, torn in 0..6_u32,
    ) {
        let all = [Traits::DROPS, Traits::STICKY, Traits::GUARDED, Traits::NODE_ONLY, Traits::LOCAL, Traits::MAGLEV];
        let chosen = (0..6).filter(|bit| bits & (1 << bit) != 0);
        let traits = chosen.fold(Traits::NONE, |traits, bit| traits.and(all[bit]));
        let mut table = table(base, count, traits);
        table.draw.set(draw);
        table.now.set(now);
        table.torn.set(torn);
        table.caller.set(Caller { is_node, address: has_address.then_some(POD), identity: POD });
        if is_allowed {
            table.allowed.insert((7, POD));
        }
        if let Some((known, last)) = known {
            table.keep(&AffinityKey::new(POD, 7), &Affinity::new(&table.slots[known].peer(), last));
        }
        let is_foreign = traits.has(Traits::NODE_ONLY) && !is_node;
        let is_kept_out = traits.has(Traits::GUARDED) && !(is_allowed && has_address);
        let expected_none = match choose(&table, &frontend(1)) {
            Choice::Backend { id: 7, backend, .. } => {
                let port = u32::from(u16::from_be(backend.port));
                prop_assert!((base..base + u32::from(count)).contains(&port));
                let kept = table.affinities.borrow().get(&AffinityKey::new(POD, 7)).map(|kept| kept.backend());
                prop_assert!(!traits.has(Traits::STICKY) || kept == Some(backend), "a client that is not kept");
                prop_assert!(torn < ATTEMPTS && !is_foreign && !is_kept_out);
                return Ok(());
            }
            Choice::Backend { .. } => return Err(TestCaseError::fail("an id from nowhere")),
            Choice::Refused { id: 0 } => torn >= ATTEMPTS,
            Choice::NotAService => is_foreign,
            Choice::Dropped { id: 7, why: Drop::NotAllowed } => is_kept_out && !is_foreign,
            Choice::Dropped { id: 7, why: Drop::NoLocalBackend } => traits.has(Traits::DROPS) && count == 0,
            Choice::Refused { id: 7 } => !traits.has(Traits::DROPS) && count == 0,
            Choice::Dropped { .. } | Choice::Refused { .. } => false,
        };
        prop_assert!(expected_none);
    }
}
