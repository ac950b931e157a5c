//! What the Services of the node mean: each address and port that clients connect to, and where each leads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::address::Assignment;
use super::catalog::{Catalog, Objects};
use super::shelf::Shelf;
use super::topology::Place;
use super::walk::Walk;
use super::{ServiceName, ServiceStatus, bulk};
use reader::{Reader, Reading};

mod found;
mod frontend;
mod reader;

pub use frontend::{Entry, Frontend, Kind, Rules, Scope};
pub(super) use reader::SCTP_AT_NODE;
pub use reader::may_be_taken;

/// What a node is for its Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Where it stands.
    pub place: Place,
    /// Addresses that take part in NodePorts; a loopback address serves the node's own clients.
    pub node_port_addresses: Vec<IpAddr>,
    /// All its addresses, those of loopback too: where pods have ports of the node.
    pub addresses: Vec<IpAddr>,
    /// Whether `spec.externalIPs` are honoured.
    pub external_ips: bool,
    /// Whether clients outside may ask cluster addresses that are routed here.
    pub cluster_ips_outside: bool,
    /// Whether it is about to leave its cluster: deleted, or marked by an autoscaler.
    pub leaving: bool,
    /// Cookie of the node's own network namespace and the addresses its packets come from.
    pub own: Option<(u64, Vec<IpAddr>)>,
}

/// Every frontend of the node and what is said about its Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTable {
    /// Frontends.
    pub frontends: BTreeMap<Frontend, Entry>,
    /// Every Service, those without an address too.
    pub services: BTreeMap<ServiceName, Arc<ServiceStatus>>,
    /// The frontends of each Service.
    owned: BTreeMap<ServiceName, Box<[Frontend]>>,
    /// The Services that have frontends of SCTP.
    associations: BTreeSet<ServiceName>,
    /// The Services that claim an address of each other, both ways.
    rivals: BTreeMap<ServiceName, BTreeSet<ServiceName>>,
}

/// Reads the table from the objects. The result does not depend on their order.
pub fn table(objects: Objects<'_>, assignment: &Assignment, node: &NodeFacts) -> ServiceTable {
    let mut catalog = Catalog::default();
    let names = catalog
        .update(
            Objects {
                services: &Shelf::default(),
                slices: &Shelf::default(),
                pods: &[],
            },
            objects,
        )
        .names;
    let mut table = ServiceTable::default();
    table.update(names, &catalog, assignment, node);
    table
}

/// Services that were read anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The Services, those that are gone too.
    pub names: BTreeSet<ServiceName>,
    /// The frontends that they had.
    pub before: BTreeMap<Frontend, Entry>,
}

impl ServiceTable {
    /// Reads some Services anew, and those with which they compete for an address. The table is then as if all of them had
    /// been read.
    pub fn update(
        &mut self,
        names: BTreeSet<ServiceName>,
        catalog: &Catalog,
        assignment: &Assignment,
        node: &NodeFacts,
    ) -> Change {
        let mut change = Change::default();
        self.take_out(names, &mut change);
        loop {
            let rivals = self.put_in(&change.names, catalog, assignment, node);
            if rivals.is_empty() {
                return change;
            }
            // Who comes first by name is not known before all of them are read.
            for name in &change.names {
                self.forget(name);
            }
            self.take_out(rivals, &mut change);
        }
    }

    /// The frontends of some Services.
    pub fn frontends_of(&self, names: &BTreeSet<ServiceName>) -> BTreeMap<Frontend, &Entry> {
        let mut owned = Walk::new(&self.owned);
        let owned = names.iter().filter_map(|name| owned.get(name)).flatten();
        let mut owned: Vec<Frontend> = owned.copied().collect();
        owned.sort_unstable();
        let mut entries = Walk::new(&self.frontends);
        let entry = |frontend| Some((frontend, entries.get(&frontend)?));
        owned.into_iter().filter_map(entry).collect()
    }

    /// Whether there is a frontend of SCTP.
    pub fn has_associations(&self) -> bool {
        !self.associations.is_empty()
    }

    /// The frontends of the Services that have one of SCTP.
    pub fn associations(&self) -> BTreeMap<Frontend, &Entry> {
        self.frontends_of(&self.associations)
    }

    /// Takes out Services and, as far as that goes, their rivals.
    fn take_out(&mut self, mut names: BTreeSet<ServiceName>, change: &mut Change) {
        while !names.is_empty() {
            let mut rivals = BTreeSet::new();
            for name in &names {
                rivals.extend(self.rivals.remove(name).into_iter().flatten());
                change.before.extend(self.forget(name));
            }
            bulk::unite(&mut change.names, names);
            rivals.retain(|rival| !change.names.contains(rival));
            names = rivals;
        }
    }

    fn forget(&mut self, name: &ServiceName) -> Vec<(Frontend, Entry)> {
        self.services.remove(name);
        self.rivals.remove(name);
        self.associations.remove(name);
        let owned = self.owned.remove(name).unwrap_or_default();
        owned
            .into_iter()
            .filter_map(|frontend| self.frontends.remove_entry(&frontend))
            .collect()
    }

    /// Reads Services in the order of their names; comes back with others that have an address of theirs.
    fn put_in(
        &mut self,
        names: &BTreeSet<ServiceName>,
        catalog: &Catalog,
        assignment: &Assignment,
        node: &NodeFacts,
    ) -> BTreeSet<ServiceName> {
        let mut outsiders = BTreeSet::new();
        let (mut owned, mut services) = (Vec::new(), Vec::new());
        let (mut objects, mut given) = (catalog.walk(), assignment.walk());
        for name in names {
            let Some(service) = objects.service(name) else {
                continue;
            };
            let reading = match &service.spec {
                Some(spec) => {
                    let (given, candidates) = (given.given(name), objects.candidates(name));
                    Reader::new(name, service, spec, given, candidates, node).read(&mut self.frontends)
                }
                None => Reading::default(),
            };
            for rival in reading.rivals {
                if !names.contains(&rival) {
                    outsiders.insert(rival.clone());
                }
                self.rivals.entry(rival.clone()).or_default().insert(name.clone());
                self.rivals.entry(name.clone()).or_default().insert(rival);
            }
            if reading.owned.iter().any(Frontend::is_association) {
                self.associations.insert(name.clone());
            }
            owned.push((name.clone(), reading.owned.into()));
            services.push((name.clone(), Arc::new(reading.status)));
        }
        bulk::insert(&mut self.owned, owned);
        bulk::insert(&mut self.services, services);
        outsiders
    }
}

#[cfg(test)]
mod tests;
