//! The health-check node ports: one listener for each Service that has one and each address of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_core::service::health::{self, Answer};
use agent_core::service::{ServiceName, ServicesStatus};
use tokio::task::{AbortHandle, JoinSet};

use super::{Reporter, listen};
use crate::services::ServiceFacts;

/// Between tries for a port that somebody else has.
const RETRY: Duration = Duration::from_secs(5);

/// A listener that is wanted.
type Place = (SocketAddr, ServiceName);

/// Listens where the Services say so, until it is dropped.
pub(super) async fn run(reporter: &Arc<Reporter>) {
    let (mut facts, mut status) = (reporter.facts.clone(), reporter.status.clone());
    let mut open = BTreeMap::new();
    let mut refused = BTreeSet::new();
    let mut served = JoinSet::new();
    loop {
        let addresses = node_ports(&facts.borrow_and_update()).to_vec();
        let (wanted, faces) = {
            let status = status.borrow_and_update();
            (places(&status, &addresses), status.faces)
        };
        close_others(&mut open, &wanted);
        refused = open_missing(reporter, &wanted, &mut open, &mut served, &refused);
        let again = !refused.is_empty();
        // Every branch is cancel-safe: each waits for a channel, the clock or a task.
        tokio::select! {
            changed = facts.wait_for(|facts| node_ports(facts) != addresses) => if changed.is_err() { return },
            changed = status.wait_for(|status| status.faces != faces) => if changed.is_err() { return },
            Some(_) = served.join_next() => {}
            () = tokio::time::sleep(RETRY), if again => {}
        }
    }
}

/// The node's addresses that answer NodePorts.
fn node_ports(facts: &Option<Arc<ServiceFacts>>) -> &[IpAddr] {
    facts.as_ref().map_or(&[], |facts| &facts.node.node_port_addresses)
}

/// Every address of the node that takes part in NodePorts and is of one of the Service's families.
fn places(status: &ServicesStatus, addresses: &[IpAddr]) -> BTreeSet<Place> {
    let checks = status.checked.iter().filter_map(|name| {
        let status = status.services.get(name)?;
        Some((name, status, status.health_check?))
    });
    let listeners = checks.flat_map(|(name, status, check)| {
        let same = |address: &&IpAddr| status.addresses.iter().any(|own| own.is_ipv6() == address.is_ipv6());
        let here = addresses.iter().filter(same);
        here.map(move |address| (SocketAddr::new(*address, check.port), name.clone()))
    });
    listeners.collect()
}

fn close_others(open: &mut BTreeMap<Place, AbortHandle>, wanted: &BTreeSet<Place>) {
    open.retain(|place, task| {
        let stays = wanted.contains(place) && !task.is_finished();
        if !stays {
            task.abort();
        }
        stays
    });
}

/// Opens what is not open; comes back with what can't be, of which `known` has been said.
fn open_missing(
    reporter: &Arc<Reporter>,
    wanted: &BTreeSet<Place>,
    open: &mut BTreeMap<Place, AbortHandle>,
    served: &mut JoinSet<()>,
    known: &BTreeSet<Place>,
) -> BTreeSet<Place> {
    let mut refused = BTreeSet::new();
    for place in wanted
        .iter()
        .filter(|place| !open.contains_key(place))
        .cloned()
        .collect::<Vec<_>>()
    {
        let (address, service) = &place;
        match listen::bind(*address) {
            Ok(listener) => {
                let (reporter, service, is_v6) = (Arc::clone(reporter), service.clone(), address.is_ipv6());
                let answer = move |_| {
                    let answer = reporter.check(&service, is_v6);
                    async move { answer }
                };
                open.insert(place, served.spawn(listen::serve(listener, answer)));
            }
            Err(error) => {
                if !known.contains(&place) {
                    tracing::warn!(%service, %address, %error, "start the health check of a Service; trying again");
                }
                refused.insert(place);
            }
        }
    }
    refused
}

impl Reporter {
    fn check(&self, service: &ServiceName, is_v6: bool) -> Answer {
        let status = self.status.borrow();
        let check = status.services.get(service).and_then(|status| status.health_check);
        let count = check.map_or(0, |check| check.local_endpoints[usize::from(is_v6)]);
        health::check(service, count, &status.progress, Instant::now())
    }
}
