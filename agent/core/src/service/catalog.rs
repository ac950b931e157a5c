//! The objects that Services follow from, by the Service that they are about, and which Services a change of them is about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort as PortSpec, ServiceSpec};

use super::endpoint::{self, Endpoint};
use super::shelf::{Difference, Named as _, Shelf};
use super::slice::Slice;
use super::topology::Place;
use super::{Protocol, ReadyPod, ServiceName, bulk, walk};

/// All objects. Those that have not changed since are the same allocation as before; others cost more, and are right too.
#[derive(Clone, Copy, Debug)]
pub struct Objects<'a> {
    /// All Services.
    pub services: &'a Shelf<Service>,
    /// All slices.
    pub slices: &'a Shelf<Slice>,
    /// The node's pods.
    pub pods: &'a [ReadyPod],
}

/// The objects in order.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    services: BTreeMap<ServiceName, Arc<Service>>,
    slices: BTreeMap<ServiceName, Vec<Arc<Slice>>>,
    pods: BTreeMap<Arc<str>, Vec<ReadyPod>>,
    /// The Services with a selector, by one of the labels that they select.
    selecting: BTreeMap<Label, BTreeSet<ServiceName>>,
}

/// Namespace, key and value.
type Label = (Arc<str>, String, String);

/// What a change of the objects is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// Services that may mean something else than before.
    pub names: BTreeSet<ServiceName>,
    /// Those of them that are another object than before, so that addresses may have to be given anew.
    pub services: BTreeSet<ServiceName>,
}

/// A look at the objects, a Service at a time.
pub struct Walk<'a> {
    services: walk::Walk<'a, ServiceName, Arc<Service>>,
    slices: walk::Walk<'a, ServiceName, Vec<Arc<Slice>>>,
    pods: &'a BTreeMap<Arc<str>, Vec<ReadyPod>>,
}

/// What may serve a Service.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    slices: &'a [Arc<Slice>],
    pods: &'a [ReadyPod],
}

impl<'a> Walk<'a> {
    /// A Service.
    pub fn service(&mut self, name: &ServiceName) -> Option<&'a Service> {
        self.services.get(name).map(AsRef::as_ref)
    }

    /// Its slices, and the pods of its namespace.
    pub fn candidates(&mut self, name: &ServiceName) -> Candidates<'a> {
        Candidates {
            slices: self.slices.get(name).map_or(&[], Vec::as_slice),
            pods: self.pods.get(&name.namespace).map_or(&[], Vec::as_slice),
        }
    }
}

impl<'a> Candidates<'a> {
    /// How many endpoints its slices have.
    pub fn in_slices(self) -> usize {
        self.slices.iter().map(|slice| slice.size()).sum()
    }

    /// The endpoints of one port of the Service: those that slices name, and the pods of this node that it selects.
    pub fn endpoints(
        self,
        spec: &ServiceSpec,
        port: &PortSpec,
        protocol: Protocol,
        place: &Place,
    ) -> impl Iterator<Item = Endpoint> {
        let named = self
            .slices
            .iter()
            .flat_map(move |slice| slice.endpoints(port, protocol, place));
        let selected = self
            .pods
            .iter()
            .filter(move |pod| endpoint::selects(spec, pod))
            .flat_map(move |pod| endpoint::of_pod(pod, spec, port, protocol, place));
        named.chain(selected)
    }
}

impl Catalog {
    /// Takes over a change; `before` is what was taken over last.
    pub fn update(&mut self, before: Objects<'_>, now: Objects<'_>) -> Affected {
        let mut services = BTreeSet::new();
        let Difference { gone, new } = before.services.difference(now.services);
        for service in gone {
            let name = ServiceName::of(service);
            self.remove_service(&name);
            services.insert(name);
        }
        let mut namespaces = Namespaces::default();
        let mut name = |service: &Service| ServiceName {
            namespace: namespaces.shared(service.namespace()),
            name: service.name().into(),
        };
        let new = in_order(new, |service| Some(name(service)));
        bulk::unite(&mut services, new.iter().map(|(name, _)| name.clone()).collect());
        self.add_services(new);
        let mut names = services.clone();
        let Difference { gone, new } = before.slices.difference(now.slices);
        let mut owner = |slice: &Slice| {
            let owner = slice.owner()?;
            Some(ServiceName {
                namespace: namespaces.shared(&owner.namespace),
                name: owner.name,
            })
        };
        for (name, slice) in in_order(gone, &mut owner) {
            self.remove_slice(&name, slice);
            names.insert(name);
        }
        let new = in_order(new, &mut owner);
        bulk::unite(&mut names, new.iter().map(|(name, _)| name.clone()).collect());
        self.add_slices(&new);
        names.extend(self.take_pods(before.pods, now.pods));
        Affected { names, services }
    }

    /// A Service.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name).map(AsRef::as_ref)
    }

    /// All Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(AsRef::as_ref)
    }

    /// The names of all Services.
    pub fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// Looks for one Service after the other, the faster if that is in the order of their names.
    pub fn walk(&self) -> Walk<'_> {
        Walk {
            services: walk::Walk::new(&self.services),
            slices: walk::Walk::new(&self.slices),
            pods: &self.pods,
        }
    }

    fn add_services(&mut self, new: Vec<(ServiceName, &Arc<Service>)>) {
        for (name, service) in &new {
            if let Some(label) = selected_label(name, service) {
                self.selecting.entry(label).or_default().insert(name.clone());
            }
        }
        let new = new.into_iter().map(|(name, service)| (name, Arc::clone(service)));
        bulk::insert(&mut self.services, new);
    }

    fn remove_service(&mut self, name: &ServiceName) {
        let label = self
            .services
            .remove(name)
            .and_then(|service| selected_label(name, &service));
        let Some(label) = label else { return };
        if let Some(names) = self.selecting.get_mut(&label) {
            names.remove(name);
            if names.is_empty() {
                self.selecting.remove(&label);
            }
        }
    }

    fn remove_slice(&mut self, name: &ServiceName, slice: &Arc<Slice>) {
        let Some(slices) = self.slices.get_mut(name) else {
            return;
        };
        slices.retain(|other| !Arc::ptr_eq(other, slice));
        if slices.is_empty() {
            self.slices.remove(name);
        }
    }

    fn add_slices(&mut self, new: &[(ServiceName, &Arc<Slice>)]) {
        let of_services = new.chunk_by(|(one, _), (next, _)| one == next);
        let lists = of_services.map(|slices| {
            let (name, _) = &slices[0];
            let known = self.slices.get(name).map_or(&[][..], Vec::as_slice);
            let new = slices.iter().map(|(_, slice)| *slice);
            (name.clone(), known.iter().chain(new).cloned().collect())
        });
        let lists: Vec<(ServiceName, Vec<Arc<Slice>>)> = lists.collect();
        bulk::insert(&mut self.slices, lists);
    }

    /// Comes back with the Services that select a pod which is not as it was.
    fn take_pods(&mut self, before: &[ReadyPod], now: &[ReadyPod]) -> BTreeSet<ServiceName> {
        if before == now {
            return BTreeSet::new();
        }
        self.pods.clear();
        for pod in now {
            self.pods
                .entry(pod.namespace.as_str().into())
                .or_default()
                .push(pod.clone());
        }
        let (gone, new) = other_pods(before, now);
        gone.into_iter()
            .chain(new)
            .flat_map(|pod| self.selecting(pod))
            .collect()
    }

    fn selecting(&self, pod: &ReadyPod) -> impl Iterator<Item = ServiceName> {
        let namespace: Arc<str> = pod.namespace.as_str().into();
        let label = move |(key, value): (&String, &String)| (namespace.clone(), key.clone(), value.clone());
        let names = pod
            .labels
            .iter()
            .filter_map(move |pair| self.selecting.get(&label(pair)));
        let selects = |name: &&ServiceName| {
            let spec = self.service(name).and_then(|service| service.spec.as_ref());
            spec.is_some_and(|spec| endpoint::selects(spec, pod))
        };
        names.flatten().filter(selects).cloned()
    }
}

/// Namespaces of names, each the same allocation for all: names are compared faster then.
#[derive(Default)]
struct Namespaces(BTreeSet<Arc<str>>);

impl Namespaces {
    fn shared(&mut self, namespace: &str) -> Arc<str> {
        if let Some(known) = self.0.get(namespace) {
            return Arc::clone(known);
        }
        let new: Arc<str> = namespace.into();
        self.0.insert(Arc::clone(&new));
        new
    }
}

/// Objects by the Services that they are about, in the order of their names.
fn in_order<T>(objects: Vec<&Arc<T>>, mut name: impl FnMut(&T) -> Option<ServiceName>) -> Vec<(ServiceName, &Arc<T>)> {
    let named = objects.into_iter().filter_map(|object| Some((name(object)?, object)));
    let mut named: Vec<_> = named.collect();
    named.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    named
}

/// The pods that one list has and the other has not.
pub(super) fn other_pods<'a>(before: &'a [ReadyPod], now: &'a [ReadyPod]) -> (Vec<&'a ReadyPod>, Vec<&'a ReadyPod>) {
    let missing = |of: &'a [ReadyPod], from: &[ReadyPod]| of.iter().filter(|pod| !from.contains(pod)).collect();
    (missing(before, now), missing(now, before))
}

/// One of the labels that a pod has to have for a Service to select it.
fn selected_label(name: &ServiceName, service: &Service) -> Option<Label> {
    let (key, value) = service.spec.as_ref()?.selector.as_ref()?.first_key_value()?;
    Some((name.namespace.clone(), key.clone(), value.clone()))
}
