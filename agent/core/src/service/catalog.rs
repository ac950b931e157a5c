//! The objects that Services follow from, by the Service that they are about, and which Services a change of them is about.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort as PortSpec, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::endpoint::{self, Endpoint};
use super::topology::Place;
use super::{Protocol, ReadyPod, ServiceName};

/// All objects. Those that have not changed since are the same allocation as before; others cost more, and are right too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Objects<'a> {
    /// All Services.
    pub services: &'a [Arc<Service>],
    /// All slices.
    pub slices: &'a [Arc<EndpointSlice>],
    /// The node's pods.
    pub pods: &'a [ReadyPod],
}

/// The objects in order.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    services: BTreeMap<ServiceName, Arc<Service>>,
    slices: BTreeMap<ServiceName, Vec<Arc<EndpointSlice>>>,
    pods: BTreeMap<String, Vec<ReadyPod>>,
}

/// What a change of the objects is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// Services that may mean something else than before.
    pub names: BTreeSet<ServiceName>,
    /// Whether a Service itself is another one, so that addresses may have to be given anew.
    pub services: bool,
}

impl Catalog {
    /// Takes over a change; `before` is what was taken over last.
    pub fn update(&mut self, before: Objects<'_>, now: Objects<'_>) -> Affected {
        let mut names = BTreeSet::new();
        let (gone, new) = differing(before.services, now.services);
        let services = !gone.is_empty() || !new.is_empty();
        for service in gone {
            let name = ServiceName::of(service);
            self.services.remove(&name);
            names.insert(name);
        }
        for service in new {
            let name = ServiceName::of(service);
            self.services.insert(name.clone(), Arc::clone(service));
            names.insert(name);
        }
        let (gone, new) = differing(before.slices, now.slices);
        names.extend(gone.into_iter().filter_map(|slice| self.remove_slice(slice)));
        names.extend(new.into_iter().filter_map(|slice| self.add_slice(slice)));
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

    /// The endpoints of one port of a Service: those that slices name, and the pods of this node that it selects.
    pub fn endpoints(
        &self,
        name: &ServiceName,
        spec: &ServiceSpec,
        port: &PortSpec,
        protocol: Protocol,
        place: &Place,
    ) -> Vec<Endpoint> {
        let slices = self.slices.get(name).into_iter().flatten();
        let named = slices.flat_map(|slice| endpoint::in_slice(slice, port, protocol, place));
        let pods = self.pods.get(name.namespace.as_str()).into_iter().flatten();
        let selected = pods
            .filter(|pod| endpoint::selects(spec, pod))
            .flat_map(|pod| endpoint::of_pod(pod, spec, port, protocol, place));
        named.chain(selected).collect()
    }

    fn remove_slice(&mut self, slice: &Arc<EndpointSlice>) -> Option<ServiceName> {
        let name = endpoint::owner(slice)?;
        let slices = self.slices.get_mut(&name)?;
        slices.retain(|other| !Arc::ptr_eq(other, slice));
        if slices.is_empty() {
            self.slices.remove(&name);
        }
        Some(name)
    }

    fn add_slice(&mut self, slice: &Arc<EndpointSlice>) -> Option<ServiceName> {
        let name = endpoint::owner(slice)?;
        let slices = self.slices.entry(name.clone()).or_default();
        slices.push(Arc::clone(slice));
        Some(name)
    }

    /// Comes back with the Services that select a pod which is not as it was.
    fn take_pods(&mut self, before: &[ReadyPod], now: &[ReadyPod]) -> BTreeSet<ServiceName> {
        if before == now {
            return BTreeSet::new();
        }
        self.pods.clear();
        for pod in now {
            self.pods.entry(pod.namespace.clone()).or_default().push(pod.clone());
        }
        let missing = |of: &'_ [ReadyPod], from: &[ReadyPod]| {
            let changed = of.iter().filter(|pod| !from.contains(pod));
            changed.flat_map(|pod| self.selecting(pod)).collect::<Vec<_>>()
        };
        [missing(before, now), missing(now, before)]
            .concat()
            .into_iter()
            .collect()
    }

    fn selecting(&self, pod: &ReadyPod) -> impl Iterator<Item = ServiceName> {
        let first = ServiceName {
            namespace: pod.namespace.clone(),
            name: String::new(),
        };
        let namesakes = self.services.range(first..);
        let namesakes = namesakes.take_while(|(name, _)| name.namespace == pod.namespace);
        let selects = |service: &Service| service.spec.as_ref().is_some_and(|spec| endpoint::selects(spec, pod));
        namesakes
            .filter(move |(_, service)| selects(service))
            .map(|(name, _)| name.clone())
    }
}

/// What each list has and the other has not, by allocation. Most of the time both ends of the lists are the same.
fn differing<'a, T>(before: &'a [Arc<T>], now: &'a [Arc<T>]) -> (Vec<&'a Arc<T>>, Vec<&'a Arc<T>>) {
    let same = |(one, other): &(&Arc<T>, &Arc<T>)| Arc::ptr_eq(one, other);
    let start = before.iter().zip(now).take_while(same).count();
    let (before, now) = (&before[start..], &now[start..]);
    let end = before.iter().rev().zip(now.iter().rev()).take_while(same).count();
    let (before, now) = (&before[..before.len() - end], &now[..now.len() - end]);
    let set = |list: &[Arc<T>]| list.iter().map(Arc::as_ptr).collect::<HashSet<_>>();
    let (old, new) = (set(before), set(now));
    (
        before.iter().filter(|one| !new.contains(&Arc::as_ptr(one))).collect(),
        now.iter().filter(|one| !old.contains(&Arc::as_ptr(one))).collect(),
    )
}
