//! Which cluster addresses each Service has: those it asks for, those it already has, and new ones of the node's ranges.
//!
//! The result depends on the names alone as long as nothing collides, so that a node that has lost its record gives the
//! same addresses again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use sha2::{Digest as _, Sha256};

use super::{AddressRange, ServiceName, bulk, walk};

/// Cluster addresses of each Service, the primary family first. A Service without an entry has none.
pub type Addresses = BTreeMap<ServiceName, Vec<IpAddr>>;

/// What became of everybody's wishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Cluster addresses of each Service.
    pub addresses: Addresses,
    /// Why a Service lacks an address that it should have, one sentence each.
    pub problems: BTreeMap<ServiceName, Vec<String>>,
    /// What all cluster addresses are taken from. Nobody brings one of these from outside, whoever has it.
    pub ranges: Vec<AddressRange>,
}

/// What one Service got, and what all cluster addresses are taken from.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// Its cluster addresses.
    pub addresses: &'a [IpAddr],
    /// Why it lacks one.
    pub problems: &'a [String],
    /// As in [`Assignment`].
    pub ranges: &'a [AddressRange],
}

/// A look at what Services got, one after the other.
pub struct Walk<'a> {
    addresses: walk::Walk<'a, ServiceName, Vec<IpAddr>>,
    problems: walk::Walk<'a, ServiceName, Vec<String>>,
    ranges: &'a [AddressRange],
}

impl Assignment {
    /// Looks for one Service after the other, the faster if that is in the order of their names.
    pub fn walk(&self) -> Walk<'_> {
        Walk {
            addresses: walk::Walk::new(&self.addresses),
            problems: walk::Walk::new(&self.problems),
            ranges: &self.ranges,
        }
    }
}

impl<'a> Walk<'a> {
    /// What one Service got.
    pub fn given(&mut self, name: &ServiceName) -> Given<'a> {
        Given {
            addresses: self.addresses.get(name).map_or(&[], Vec::as_slice),
            problems: self.problems.get(name).map_or(&[], Vec::as_slice),
            ranges: self.ranges,
        }
    }
}

/// Gives every Service its addresses. What `previous` gave stays as long as it fits; a Service that asks for an address
/// gets that one or none, and who had it before goes first.
pub fn assign<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    ranges: &[AddressRange],
    previous: &Addresses,
) -> Assignment {
    let services: BTreeMap<ServiceName, &Service> = services
        .into_iter()
        .map(|service| (ServiceName::of(service), service))
        .collect();
    let mut desk = Desk::new(ranges.to_vec(), previous.clone());
    let names = services.keys().cloned().collect();
    desk.update(&names, &mut |name| services.get(name).copied());
    desk.assignment
}

/// Whether this is a Service that an address stands for: not headless, not just a name for something outside.
pub fn has_cluster_address(spec: &ServiceSpec) -> bool {
    let headless = spec.cluster_ip.as_deref() == Some("None");
    !headless && spec.type_.as_deref() != Some("ExternalName")
}

/// Whether it is left to the node which address the Service gets.
pub fn is_allocated(spec: &ServiceSpec) -> bool {
    has_cluster_address(spec) && parsed(spec).next().is_none()
}

/// Where Services come for their addresses, one after the other as they change.
#[derive(Clone, Debug)]
pub struct Desk {
    owners: BTreeMap<IpAddr, ServiceName>,
    assignment: Assignment,
    /// From before the first update.
    remembered: Addresses,
}

/// A Service that is to be served, and what it had.
struct Customer<'a> {
    spec: Option<&'a ServiceSpec>,
    asks_for: Vec<IpAddr>,
    addresses: Vec<IpAddr>,
    problems: Vec<String>,
}

impl Customer<'_> {
    /// Whether it has what it asks for already.
    fn keeps(&self) -> bool {
        let has = |address: &IpAddr| self.addresses.contains(address);
        !self.addresses.is_empty() && self.asks_for.iter().all(has)
    }
}

impl Desk {
    /// A desk that has given away nothing yet; `previous` was given before.
    pub fn new(ranges: Vec<AddressRange>, previous: Addresses) -> Self {
        Self {
            owners: BTreeMap::new(),
            assignment: Assignment {
                ranges,
                ..Assignment::default()
            },
            remembered: previous,
        }
    }

    /// What became of everybody's wishes.
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// Serves Services that have changed; comes back with those that have other addresses or problems than before. All
    /// is then as if every Service had come anew.
    pub fn update<'a>(
        &mut self,
        changed: &BTreeSet<ServiceName>,
        service: &mut dyn FnMut(&ServiceName) -> Option<&'a Service>,
    ) -> BTreeSet<ServiceName> {
        let mut spec = |name: &ServiceName| service(name)?.spec.as_ref().filter(|spec| has_cluster_address(spec));
        let changed = changed.iter().map(|name| (name.clone(), self.leave(name, spec(name))));
        let mut customers: BTreeMap<ServiceName, Customer<'a>> = changed.collect();
        // What one gives back is what another may have been waiting for.
        if customers.values().any(|customer| !customer.addresses.is_empty()) {
            for name in self.assignment.problems.keys().cloned().collect::<Vec<_>>() {
                let customer = self.leave(&name, spec(&name));
                customers.insert(name, customer);
            }
        }
        self.remembered.clear();
        self.serve_all(&customers);
        let mut walk = self.assignment.walk();
        let is_other = |(name, customer): &(ServiceName, Customer)| {
            let given = walk.given(name);
            given.addresses != customer.addresses || given.problems != customer.problems
        };
        let others = customers.into_iter().filter(is_other);
        others.map(|(name, _)| name).collect()
    }

    /// A Service gives back what it has.
    fn leave<'a>(&mut self, name: &ServiceName, spec: Option<&'a ServiceSpec>) -> Customer<'a> {
        let known = self.assignment.addresses.remove(name);
        let addresses = known.or_else(|| self.remembered.remove(name)).unwrap_or_default();
        for address in &addresses {
            self.give_back(name, address);
        }
        Customer {
            spec,
            asks_for: spec.map(given).unwrap_or_default(),
            addresses,
            problems: self.assignment.problems.remove(name).unwrap_or_default(),
        }
    }

    fn give_back(&mut self, name: &ServiceName, address: &IpAddr) {
        if self.owners.get(address) == Some(name) {
            self.owners.remove(address);
        }
    }

    /// First those that keep what they have, then those that ask for an address, then the others; each by name.
    fn serve_all(&mut self, customers: &BTreeMap<ServiceName, Customer>) {
        let present = customers
            .iter()
            .filter_map(|(name, customer)| Some((name, customer, customer.spec?)));
        let (keepers, others): (Vec<_>, Vec<_>) = present.partition(|(_, customer, _)| customer.keeps());
        for (name, customer, _) in &keepers {
            for address in &customer.addresses {
                self.owners.entry(*address).or_insert_with(|| (*name).clone());
            }
        }
        let mut served = Vec::with_capacity(customers.len());
        for (name, customer, spec) in keepers {
            let kept = self.serve(name, spec, &customer.asks_for, &customer.addresses);
            for address in customer.addresses.iter().filter(|address| !kept.contains(address)) {
                self.give_back(name, address);
            }
            served.push((name.clone(), kept));
        }
        let (others, asking): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|(_, customer, _)| customer.asks_for.is_empty());
        for (name, customer, spec) in asking.into_iter().chain(others) {
            served.push((name.clone(), self.serve(name, spec, &customer.asks_for, &[])));
        }
        bulk::insert(&mut self.assignment.addresses, served);
    }

    fn serve(&mut self, name: &ServiceName, spec: &ServiceSpec, asked: &[IpAddr], before: &[IpAddr]) -> Vec<IpAddr> {
        let families: Vec<AddressRange> = self.families(name, spec, asked);
        match asked.is_empty() {
            true => families
                .iter()
                .filter_map(|range| self.allocate(name, range, before))
                .collect(),
            false => {
                // As long as it has to be: it stays.
                let mut addresses = Vec::with_capacity(asked.len());
                addresses.extend(asked.iter().filter_map(|address| self.claim(name, *address)));
                addresses
            }
        }
    }

    /// The ranges to take addresses from, one for each family that the Service has.
    fn families(&mut self, name: &ServiceName, spec: &ServiceSpec, asked: &[IpAddr]) -> Vec<AddressRange> {
        let both = matches!(
            spec.ip_family_policy.as_deref(),
            Some("PreferDualStack" | "RequireDualStack")
        );
        let named = spec.ip_families.as_deref().unwrap_or_default();
        let mut families: Vec<AddressRange> = Vec::new();
        for family in named {
            match self
                .assignment
                .ranges
                .iter()
                .find(|range| range.address.is_ipv6() == (family == "IPv6"))
            {
                Some(range) => families.push(*range),
                None => self.problem(
                    name,
                    format!("spec.ipFamilies: {family}: the node has no Service range of it"),
                ),
            }
        }
        if both || named.is_empty() {
            let more = self
                .assignment
                .ranges
                .iter()
                .filter(|range| !families.contains(range))
                .copied()
                .collect::<Vec<_>>();
            families.extend(more);
        }
        if !both {
            families.truncate(named.len().max(1));
        }
        if spec.ip_family_policy.as_deref() == Some("RequireDualStack") && families.len() < 2 {
            self.problem(
                name,
                "spec.ipFamilyPolicy: RequireDualStack: the node has one Service range only".into(),
            );
        }
        if families.is_empty() && named.is_empty() && asked.is_empty() {
            self.problem(name, "the node has no Service range to take an address from".into());
        }
        families
    }

    fn claim(&mut self, name: &ServiceName, address: IpAddr) -> Option<IpAddr> {
        if !self
            .assignment
            .ranges
            .iter()
            .any(|range| range.usable().contains(address))
        {
            let ranges: Vec<String> = self.assignment.ranges.iter().map(AddressRange::to_string).collect();
            self.problem(
                name,
                format!("spec.clusterIP: {address} is not an address of {}", ranges.join(" or ")),
            );
            return None;
        }
        let owner = self.owners.entry(address).or_insert_with(|| name.clone());
        if owner == name {
            return Some(address);
        }
        let message = format!("spec.clusterIP: {address} belongs to Service {owner}");
        self.problem(name, message);
        None
    }

    fn allocate(&mut self, name: &ServiceName, range: &AddressRange, before: &[IpAddr]) -> Option<IpAddr> {
        let usable = range.usable();
        let kept = before.iter().copied().filter(|address| usable.contains(*address));
        let address = kept
            .chain(usable.in_order_for(name))
            .find(|address| self.owners.get(address).is_none_or(|owner| owner == name));
        match address {
            Some(address) => drop(self.owners.insert(address, name.clone())),
            None => self.problem(name, format!("no address is free in {range}")),
        }
        address
    }

    fn problem(&mut self, name: &ServiceName, message: String) {
        self.assignment.problems.entry(name.clone()).or_default().push(message);
    }
}

/// The addresses that the object itself asks for. What is not an address has been refused with the manifest.
fn given(spec: &ServiceSpec) -> Vec<IpAddr> {
    let first: Option<IpAddr> = spec.cluster_ip.as_ref().and_then(|text| text.parse().ok());
    let mut addresses: Vec<IpAddr> = parsed(spec).collect();
    addresses.sort_unstable_by_key(|address| (Some(*address) != first, *address));
    addresses.dedup();
    addresses
}

fn parsed(spec: &ServiceSpec) -> impl Iterator<Item = IpAddr> {
    let texts = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
    texts.filter_map(|text| text.parse().ok())
}

/// The addresses of a range that a Service may have: not the network's own, nor IPv4's broadcast address.
struct Usable {
    v6: bool,
    first: u128,
    count: u128,
}

/// Addresses of a range that are looked at; a larger range is not used beyond them.
const MOST: u128 = 1 << 20;

impl AddressRange {
    fn usable(&self) -> Usable {
        let (bits, width) = match self.address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let size = 1_u128
            .checked_shl(width - u32::from(self.prefix).min(width))
            .unwrap_or(u128::MAX);
        let reserved = if self.address.is_ipv4() { 2 } else { 1 };
        Usable {
            v6: self.address.is_ipv6(),
            first: bits + 1,
            count: size.saturating_sub(reserved),
        }
    }
}

impl Usable {
    fn contains(&self, address: IpAddr) -> bool {
        let bits = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        address.is_ipv6() == self.v6 && bits >= self.first && bits - self.first < self.count
    }

    /// Every address once, from a place that the name gives. The lowest sixteenth, at most 256, comes last: it is what
    /// people write into manifests (KEP-3070).
    fn in_order_for(&self, name: &ServiceName) -> impl Iterator<Item = IpAddr> + use<> {
        let count = self.count.min(MOST);
        let low = (count / 16).clamp(16, 256).min(count);
        let upper = count - low;
        let digest = Sha256::digest(name.to_string());
        let start = digest
            .iter()
            .take(8)
            .fold(0_u128, |start, byte| start << 8 | u128::from(*byte));
        let (first, v6) = (self.first, self.v6);
        let offsets = (0..upper).map(move |step| low + (start + step) % upper).chain(0..low);
        offsets.map(move |offset| at(first + offset, v6))
    }
}

fn at(bits: u128, v6: bool) -> IpAddr {
    match u32::try_from(bits) {
        Ok(bits) if !v6 => IpAddr::V4(Ipv4Addr::from_bits(bits)),
        _ => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(address: &str, prefix: u8) -> AddressRange {
        AddressRange {
            address: address.parse().unwrap(),
            prefix,
        }
    }

    fn service(name: &str, edit: impl FnOnce(&mut ServiceSpec)) -> Service {
        let mut spec = ServiceSpec::default();
        edit(&mut spec);
        let metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some(name.into()),
            namespace: Some("default".into()),
            ..Default::default()
        };
        Service {
            metadata,
            spec: Some(spec),
            status: None,
        }
    }

    fn asks(name: &str, address: &str) -> Service {
        service(name, |spec| spec.cluster_ip = Some(address.into()))
    }

    fn name(name: &str) -> ServiceName {
        ServiceName {
            namespace: "default".into(),
            name: name.into(),
        }
    }

    #[test]
    fn an_address_that_is_asked_for_is_given() {
        let given = assign(&[asks("a", "10.96.0.10")], &[range("10.96.0.0", 16)], &Addresses::new());
        assert_eq!(given.addresses[&name("a")], ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        assert!(given.problems.is_empty());
    }

    #[test]
    fn the_second_who_asks_for_an_address_is_told_who_has_it() {
        let services = [asks("a", "10.96.0.10"), asks("b", "10.96.0.10")];
        let ranges = [range("10.96.0.0", 16)];
        let given = assign(&services, &ranges, &Addresses::new());
        assert_eq!(
            given.problems[&name("b")],
            ["spec.clusterIP: 10.96.0.10 belongs to Service default/a"]
        );
        let before = [(name("b"), vec!["10.96.0.10".parse().unwrap()])].into();
        let given = assign(&services, &ranges, &before);
        assert_eq!(
            given.problems[&name("a")],
            ["spec.clusterIP: 10.96.0.10 belongs to Service default/b"]
        );
    }

    #[test]
    fn an_address_outside_the_range_is_refused() {
        for address in ["127.0.0.1", "10.97.0.1", "10.96.0.0", "10.96.255.255", "::1"] {
            let given = assign(&[asks("a", address)], &[range("10.96.0.0", 16)], &Addresses::new());
            let problem = format!("spec.clusterIP: {address} is not an address of 10.96.0.0/16");
            assert_eq!(given.problems[&name("a")], [problem]);
            assert!(given.addresses[&name("a")].is_empty());
        }
    }

    #[test]
    fn a_headless_service_has_none() {
        let given = assign(&[asks("a", "None")], &[range("10.96.0.0", 16)], &Addresses::new());
        assert!(given.addresses.is_empty() && given.problems.is_empty());
    }

    #[test]
    fn families_follow_the_policy() {
        let ranges = [range("10.96.0.0", 16), range("fd00:96::", 112)];
        let families = |edit: fn(&mut ServiceSpec)| -> Vec<bool> {
            let given = assign(&[service("a", edit)], &ranges, &Addresses::new());
            given.addresses[&name("a")].iter().map(IpAddr::is_ipv6).collect()
        };
        assert_eq!(families(|_| ()), [false]);
        assert_eq!(
            families(|spec| spec.ip_family_policy = Some("PreferDualStack".into())),
            [false, true]
        );
        assert_eq!(families(|spec| spec.ip_families = Some(vec!["IPv6".into()])), [true]);
        let reversed = |spec: &mut ServiceSpec| {
            spec.ip_families = Some(vec!["IPv6".into(), "IPv4".into()]);
            spec.ip_family_policy = Some("RequireDualStack".into());
        };
        assert_eq!(families(reversed), [true, false]);
    }

    #[test]
    fn a_full_range_is_a_problem_of_the_service_alone() {
        let services = [service("a", |_| ()), service("b", |_| ()), service("c", |_| ())];
        let given = assign(&services, &[range("10.96.0.0", 30)], &Addresses::new());
        let addresses: BTreeSet<IpAddr> = given.addresses.values().flatten().copied().collect();
        assert_eq!(
            addresses,
            ["10.96.0.1", "10.96.0.2"].map(|text| text.parse().unwrap()).into()
        );
        assert_eq!(given.problems[&name("c")], ["no address is free in 10.96.0.0/30"]);
    }

    /// What a Service asks for.
    fn wishes() -> impl Strategy<Value = Service> {
        let asked = proptest::option::of(1..16_u8);
        (asked, any::<bool>(), any::<bool>()).prop_map(|(asked, both, headless)| {
            service("", |spec| {
                spec.cluster_ip = asked.map(|last| format!("10.96.0.{last}"));
                spec.ip_family_policy = both.then(|| "PreferDualStack".into());
                if headless && asked.is_none() {
                    spec.cluster_ip = Some("None".into());
                }
            })
        })
    }

    proptest! {
        /// Services that come, change and go one by one have what they would have if all had come at once.
        #[test]
        fn a_desk_that_follows_changes_gives_what_all_would_get(
            turns in proptest::collection::vec(proptest::collection::btree_map(0..24_u8, proptest::option::of(wishes()), 0..4), 1..12)
        ) {
            let ranges = [range("10.96.0.0", 28), range("fd00:96::", 124)];
            let mut desk = Desk::new(ranges.to_vec(), Addresses::new());
            let mut services: BTreeMap<ServiceName, Service> = BTreeMap::new();
            for turn in turns {
                let before = desk.assignment().clone();
                let mut changed = BTreeSet::new();
                for (number, wish) in turn {
                    let name = name(&format!("s{number}"));
                    changed.insert(name.clone());
                    match wish {
                        Some(mut service) => {
                            service.metadata.name = Some(name.name.to_string());
                            services.insert(name, service);
                        }
                        None => drop(services.remove(&name)),
                    }
                }
                let others = desk.update(&changed, &mut |name| services.get(name));
                let now = desk.assignment();
                prop_assert_eq!(now, &assign(services.values(), &ranges, &before.addresses));
                let names = before.addresses.keys().chain(now.addresses.keys());
                for name in names.filter(|name| !others.contains(name)) {
                    let has = |one: &Assignment| one.addresses.get(name).cloned().unwrap_or_default();
                    prop_assert_eq!((has(&before), before.problems.get(name)), (has(now), now.problems.get(name)));
                }
            }
        }

        /// Names come and go in any order: no address has two owners, and who stays keeps what they have.
        #[test]
        fn addresses_are_unique_and_stay(rounds in proptest::collection::vec(proptest::collection::btree_set(0..40_u8, 0..30), 1..8)) {
            let ranges = [range("10.96.0.0", 26), range("fd00:96::", 120)];
            let mut before = Addresses::new();
            for round in rounds {
                let services: Vec<Service> = round
                    .iter()
                    .map(|number| service(&format!("s{number}"), |spec| {
                        spec.ip_family_policy = Some("PreferDualStack".into());
                    }))
                    .collect();
                let given = assign(&services, &ranges, &before).addresses;
                let all: Vec<IpAddr> = given.values().flatten().copied().collect();
                prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
                for (name, addresses) in &given {
                    prop_assert_eq!(addresses.len(), 2);
                    prop_assert!(before.get(name).is_none_or(|kept| kept == addresses));
                }
                before = given;
            }
        }
    }
}
