//! The one task that keeps the kernel's Service maps equal to what the Services and pods of this node say.
//!
//! Facts come in by a watch channel, so that a burst of changes is one change. What is decided stands in
//! `agent_core::service`, what touches the kernel in `hands::maps`. After a failure nothing is believed any more: the maps
//! are opened and read again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_core::service::address::{Addresses, Desk, is_allocated};
use agent_core::service::catalog::{Affected, Catalog, Objects};
use agent_core::service::detours;
use agent_core::service::diff::diff;
use agent_core::service::host_port::{HostPorts, Published, PublishedStatus};
use agent_core::service::ids::REST;
use agent_core::service::image::{Image, Ledger, Problems, clients};
use agent_core::service::metrics::{Scrape, changes, without_local};
use agent_core::service::shelf::Shelf;
use agent_core::service::slice::Slice;
use agent_core::service::table::{Change, Entry, Frontend, NodeFacts, ServiceTable};
use agent_core::service::walk::Walk;
use agent_core::service::{AddressRange, ReadyPod, ServiceName, ServicePort, ServiceStatus, ServicesStatus};
use k8s_openapi::api::core::v1::Service;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;

use crate::hands::maps::look::Question;
use crate::hands::maps::{CounterView, KernelMaps, MapsError};
use crate::hands::sockets;
use crate::node::timestamp;

pub mod detail;
pub(crate) mod node;
mod record;
pub mod report;

pub use crate::hands::maps::remove_all;
use detail::{PortDetail, Trace};

pub use node::{BindAddress, NodePortAddresses, ServiceFlags};
use record::Record;
pub use record::RecordError;

/// How often the flows at links are looked through for those that are over, and links for those of pods that somebody else
/// has made.
const SWEEP: Duration = Duration::from_secs(10);
/// The first wait after a failure; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Everything that the Service maps follow from. `None` in the channel means that it is not known yet: nothing is removed
/// from the maps until the first list is complete.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceFacts {
    /// All Services, as given; cluster addresses that they lack are allocated here. One that is the same allocation as
    /// before is not looked at again.
    pub services: Shelf<Service>,
    /// All EndpointSlices; the same holds for them.
    pub slices: Shelf<Slice>,
    /// All pods of this node that have an address.
    pub pods: Vec<ReadyPod>,
    /// All pods of this node that ports of the node lead to.
    pub published: Vec<Published>,
    /// The node itself.
    pub node: NodeFacts,
}

/// Where things are, and which addresses may be given to Services.
#[derive(Clone, Debug)]
pub struct ServicesConfig {
    /// Directory of pins, on a bpffs or where one may be mounted.
    pub bpf_dir: PathBuf,
    /// Absolute path of the cgroup v2 directory whose processes are served: the root of the tree on a node.
    pub cgroup: PathBuf,
    /// Links whose packets from outside are served.
    pub uplinks: Vec<String>,
    /// Ranges of cluster addresses, at most one of each family.
    pub ranges: Vec<AddressRange>,
    /// File that remembers the allocated cluster addresses.
    pub record: PathBuf,
}

/// A question; the answer comes through the sender.
#[derive(Debug)]
pub enum Query {
    /// The status with fresh counters.
    Status(oneshot::Sender<ServicesStatus>),
    /// The status with fresh counters, and what else metrics tell.
    Scrape(oneshot::Sender<Scrape>),
    /// Every port in full. Without an answer the maps can't be read now.
    Details(oneshot::Sender<Vec<PortDetail>>),
    /// What would become of a connection. Without an answer the maps can't be read now.
    Trace(Question, oneshot::Sender<Trace>),
}

/// Why the kernel's maps are not what they should be.
#[derive(Debug, thiserror::Error)]
enum UpdateError {
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("the update of the Service maps was cut off")]
    CutOff(#[from] tokio::task::JoinError),
}

/// Keeps the maps right until the facts' sender is gone. Services go on answering afterwards.
pub async fn run(
    config: ServicesConfig,
    mut facts: watch::Receiver<Option<Arc<ServiceFacts>>>,
    status: watch::Sender<ServicesStatus>,
    mut queries: mpsc::Receiver<Query>,
) {
    let mut keeper: Option<Keeper> = None;
    let mut seen: Arc<ServiceFacts> = Arc::default();
    let mut wait: Option<Duration> = None;
    let mut wake: Option<Instant> = None;
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    facts.mark_changed();
    loop {
        // Every branch is cancel-safe: each waits for a channel or the clock and has done nothing yet.
        tokio::select! {
            changed = facts.changed() => if changed.is_err() { return },
            () = sleep_until(wake) => {}
            _ = sweep.tick() => {
                keeper = swept(keeper).await;
                continue;
            }
            Some(query) = queries.recv() => {
                keeper = answer(keeper, &status, query).await;
                continue;
            }
        }
        let Some(now) = facts.borrow_and_update().clone() else {
            continue;
        };
        let start = Instant::now();
        status.send_if_modified(|status| {
            status.progress.queue(start, timestamp());
            status.measures.queue(&changes(seen.objects(), now.objects()));
            false
        });
        seen = Arc::clone(&now);
        match update(&config, keeper.take(), now).await {
            Ok((next, news)) => {
                keeper = Some(next);
                wait = news.again;
                publish(&status, news, start.elapsed());
            }
            Err(error) => {
                wait = Some(wait.map_or(FIRST_WAIT, |wait| wait * 2).min(LONGEST_WAIT));
                report_failure(&status, error);
            }
        }
        wake = wait.map(|wait| Instant::now() + wait);
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

/// Tells what is so now, beside what has been.
fn publish(status: &watch::Sender<ServicesStatus>, news: News, took: Duration) {
    status.send_modify(|status| {
        status.progress.finish(timestamp());
        status.measures.finish(timestamp(), took, news.is_whole);
        status.in_kernel = true;
        status.problem = None;
        if news.is_whole {
            status.clear();
        }
        status.tell(news.services);
        if let Some(host_ports) = news.host_ports {
            status.host_ports = Arc::new(host_ports);
        }
    });
}

fn report_failure(status: &watch::Sender<ServicesStatus>, error: UpdateError) {
    let message = format!("{:#}", anyhow::Error::from(error));
    status.send_if_modified(|status| {
        let news = status.problem.as_ref() != Some(&message);
        if news {
            tracing::error!(error = message, "Services are not up to date; trying again");
        }
        status.in_kernel = false;
        status.measures.failures += 1;
        status.problem = Some(message);
        news
    });
}

type Updated = (Keeper, News);

/// What an update has changed.
struct News {
    /// The Services that were read anew; without a status they are gone. Of a whole update those are all.
    services: BTreeMap<ServiceName, Option<Arc<ServiceStatus>>>,
    /// What became of pods' ports of the node, if they were read anew.
    host_ports: Option<BTreeMap<ServiceName, PublishedStatus>>,
    is_whole: bool,
    /// How soon to try again, if a Service found no room.
    again: Option<Duration>,
}

/// Brings the maps up to date on a blocking thread. A keeper whose update fails is not used again.
async fn update(
    config: &ServicesConfig,
    keeper: Option<Keeper>,
    facts: Arc<ServiceFacts>,
) -> Result<Updated, UpdateError> {
    let config = config.clone();
    let work = move || -> Result<Updated, UpdateError> {
        let mut keeper = match keeper {
            Some(keeper) => keeper,
            None => Keeper::open(config)?,
        };
        let news = keeper.update(&facts)?;
        Ok((keeper, news))
    };
    spawn_blocking(work).await?
}

/// Looks through the flows. What can't be swept now is swept later: a full table takes no new flow, and keeps the others.
async fn swept(keeper: Option<Keeper>) -> Option<Keeper> {
    let mut keeper = keeper?;
    let work = move || {
        if let Err(error) = keeper.maps.sweep(node::seconds_since_boot()) {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "flows that are over are still there"
            );
        }
        keeper.serve_associations(true);
        keeper
    };
    spawn_blocking(work).await.ok()
}

/// Answers a query from the kernel's maps where they can be read. Whoever asked may have gone away; nobody misses the
/// answer.
async fn answer(keeper: Option<Keeper>, status: &watch::Sender<ServicesStatus>, query: Query) -> Option<Keeper> {
    let mut report = status.borrow().clone();
    let Some(keeper) = keeper else {
        match query {
            Query::Status(asker) => drop(asker.send(report)),
            Query::Scrape(asker) => drop(asker.send(Scrape {
                status: report,
                ..Scrape::default()
            })),
            Query::Details(_) | Query::Trace(..) => {}
        }
        return None;
    };
    let work = move || {
        match query {
            Query::Status(asker) => {
                match keeper.counters() {
                    Ok(counters) => keeper.count(&counters, &mut report),
                    Err(error) => report.problem = Some(format!("{:#}", anyhow::Error::from(error))),
                }
                drop(asker.send(report));
            }
            Query::Scrape(asker) => reply(asker, keeper.scrape(report)),
            Query::Details(asker) => reply(asker, keeper.details()),
            Query::Trace(question, asker) => reply(asker, keeper.trace(&question)),
        }
        keeper
    };
    spawn_blocking(work).await.ok()
}

fn reply<T>(asker: oneshot::Sender<T>, answer: Result<T, UpdateError>) {
    match answer {
        Ok(answer) => drop(asker.send(answer)),
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(error, "a question about Services can't be answered");
        }
    }
}

/// The maps together with what is known of them.
struct Keeper {
    maps: KernelMaps,
    have: Image,
    ledger: Ledger,
    /// What was known at the last update, and what follows from it.
    known: Arc<ServiceFacts>,
    catalog: Catalog,
    desk: Desk,
    record: Record,
    table: ServiceTable,
    host_ports: HostPorts,
    /// Whether the maps hold exactly what the table says.
    is_exact: bool,
    start: Instant,
}

impl ServiceFacts {
    fn objects(&self) -> Objects<'_> {
        Objects {
            services: &self.services,
            slices: &self.slices,
            pods: &self.pods,
        }
    }
}

impl Keeper {
    fn open(config: ServicesConfig) -> Result<Self, UpdateError> {
        let maps = KernelMaps::open(&config.bpf_dir, &config.cgroup, &config.uplinks)?;
        let have = maps.dump()?;
        let ledger = Ledger::restore(&have, maps.capacity());
        let (record, addresses) = Record::open(&config.record);
        let addresses = addresses.unwrap_or_else(|error| {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(
                error,
                "Services without an address in their manifest may get another one"
            );
            Addresses::new()
        });
        Ok(Self {
            maps,
            have,
            ledger,
            known: Arc::default(),
            catalog: Catalog::default(),
            desk: Desk::new(config.ranges, addresses),
            record,
            table: ServiceTable::default(),
            host_ports: HostPorts::default(),
            is_exact: false,
            start: Instant::now(),
        })
    }

    /// Makes the maps say what the facts mean. What has not changed is not looked at, unless the maps hold something else
    /// than the table or the node is another one.
    fn update(&mut self, facts: &Arc<ServiceFacts>) -> Result<News, UpdateError> {
        let known = std::mem::replace(&mut self.known, Arc::clone(facts));
        let Affected { mut names, services } = self.catalog.update(known.objects(), facts.objects());
        let is_whole = !self.is_exact || known.node != facts.node;
        names.extend(self.assign(&services)?);
        if is_whole {
            names.extend(self.catalog.names().chain(self.table.services.keys()).cloned());
        }
        let mut change = self
            .table
            .update(names, &self.catalog, self.desk.assignment(), &facts.node);
        let are_others = is_whole || known.published != facts.published;
        let ports_before = self.publish_ports(&change, facts, are_others);
        let problems = if is_whole {
            self.write_all(facts)?
        } else {
            let before = std::mem::take(&mut change.before);
            self.write(&change.names, before, ports_before.as_ref(), facts)?
        };
        self.maps.attach()?;
        self.serve_associations(known.pods != facts.pods);
        self.is_exact = problems.is_empty();
        let mut said = Walk::new(&self.table.services);
        let services = change.names.into_iter().map(|name| {
            let service = said.get(&name).cloned();
            (name, service)
        });
        let mut services: BTreeMap<_, _> = services.collect();
        let mut host_ports = ports_before.map(|_| self.host_ports.pods.clone());
        for (name, problems) in problems {
            if self.host_ports.pods.contains_key(&name) {
                let pods = host_ports.get_or_insert_with(|| self.host_ports.pods.clone());
                pods.entry(name).or_default().problems.extend(problems);
                continue;
            }
            let status = services
                .entry(name.clone())
                .or_insert_with(|| self.table.services.get(&name).cloned());
            for status in status.iter_mut() {
                Arc::make_mut(status).problems.extend(problems.clone());
            }
        }
        Ok(News {
            services,
            host_ports,
            is_whole,
            again: (!self.is_exact).then_some(REST),
        })
    }

    /// Has SCTP of pods and of the node served while there is any: their sockets meet no program, and the links' programs cost
    /// each packet something. What fails is tried again with the next look through the flows; everybody else is served.
    fn serve_associations(&mut self, are_others: bool) {
        let are_associations = self.table.has_associations() || self.host_ports.has_associations();
        let detours = detours::addresses(self.table.associations().into_keys(), &self.known.node);
        if !(self.maps.is_news_to_associations(&detours, are_associations) || are_associations && are_others) {
            return;
        }
        if let Err(error) = self.maps.serve_associations(&detours, are_associations) {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "SCTP of a pod or the node is not served, or still is; trying again"
            );
        }
    }

    /// Gives Services that have changed their addresses; comes back with those that get others, or are told another problem.
    fn assign(&mut self, changed: &BTreeSet<ServiceName>) -> Result<BTreeSet<ServiceName>, UpdateError> {
        let mut objects = self.catalog.walk();
        let others = self.desk.update(changed, &mut |name| objects.service(name));
        if !others.is_empty() {
            let spec = |name| objects.service(name)?.spec.as_ref();
            // An address that the object names itself is found there again.
            let lasting = others.iter().filter_map(spec).any(is_allocated);
            self.record.write(&others, &self.desk.assignment().addresses, lasting)?;
        }
        Ok(others)
    }

    /// Reads pods' ports of the node anew if they are others, or Services have what they ask for or had. Comes back with
    /// those that were.
    fn publish_ports(&mut self, change: &Change, facts: &ServiceFacts, are_others: bool) -> Option<HostPorts> {
        let is_touched = || {
            let after = self.table.frontends_of(&change.names);
            self.host_ports.care_for(change.before.keys().chain(after.keys()))
        };
        let has_any = !self.host_ports.pods.is_empty();
        (are_others || has_any && is_touched()).then(|| {
            let ports = HostPorts::read(&facts.published, &facts.node, &self.table.frontends);
            std::mem::replace(&mut self.host_ports, ports)
        })
    }

    /// Writes what has become of these Services, which had these frontends `before`, and of pods' ports; or everything if
    /// that found no room.
    fn write(
        &mut self,
        names: &BTreeSet<ServiceName>,
        mut before: BTreeMap<Frontend, Entry>,
        ports_before: Option<&HostPorts>,
        facts: &ServiceFacts,
    ) -> Result<Problems, UpdateError> {
        let mut after = self.table.frontends_of(names);
        if let Some(ports_before) = ports_before {
            let ports = self.host_ports.change(ports_before);
            before.extend(ports.before);
            after.extend(ports.after);
        }
        let now = self.start.elapsed();
        let (mut part, mut want, problems) = self.ledger.part(&before, &after, &self.have, now);
        if !problems.is_empty() {
            return self.write_all(facts);
        }
        part.clients = self.have.clients.clone();
        want.clients = clients(&facts.node, &facts.pods);
        // After a failure nobody asks this keeper for what the maps hold.
        self.maps.perform(&diff(&part, &want))?;
        self.ledger.settle_part(&part, &want, now);
        let stay = want.datagram_backends();
        self.have.replace(&part, want);
        let mut gone: BTreeSet<SocketAddr> = part.datagram_backends().difference(&stay).copied().collect();
        if !gone.is_empty() {
            let others = self.have.datagram_backends();
            gone.retain(|backend| !others.contains(backend));
        }
        self.end_stale(&gone, &facts.pods);
        Ok(problems)
    }

    fn write_all(&mut self, facts: &ServiceFacts) -> Result<Problems, UpdateError> {
        let frontends = self.table.frontends.iter().chain(&self.host_ports.frontends);
        let (mut want, problems) = self.ledger.image(frontends, &self.have, self.start.elapsed());
        want.clients = clients(&facts.node, &facts.pods);
        self.maps.perform(&diff(&self.have, &want))?;
        self.ledger.settle(&want, self.start.elapsed());
        let before = self.have.datagram_backends();
        let gone = before.difference(&want.datagram_backends()).copied().collect();
        self.have = want;
        self.end_stale(&gone, &facts.pods);
        Ok(problems)
    }

    /// Ends what still talks to backends that are gone. A failure leaves a client to notice by itself.
    fn end_stale(&mut self, gone: &BTreeSet<SocketAddr>, pods: &[ReadyPod]) {
        if gone.is_empty() {
            return;
        }
        let result = self.maps.forget_datagrams(gone).map_err(anyhow::Error::from);
        let result = result.and_then(|()| {
            Ok(sockets::destroy(
                gone,
                pods.iter().filter_map(|pod| pod.netns.as_deref()),
            )?)
        });
        match result {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "ended datagram sockets whose backends are gone"),
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "datagrams may still go to backends that are gone"
            ),
        }
    }

    fn scrape(&self, mut status: ServicesStatus) -> Result<Scrape, UpdateError> {
        let counters = self.counters()?;
        self.count(&counters, &mut status);
        Ok(Scrape {
            status,
            without_local: without_local(&self.table),
            unreadable: counters.of(0).unreadable,
            ..Scrape::default()
        })
    }

    /// The counters of all Service ports that there are.
    fn counters(&self) -> Result<CounterView, MapsError> {
        let last = self.ledger.ids().values().max();
        self.maps.counters(last.copied().unwrap_or(0))
    }

    fn count(&self, counters: &CounterView, status: &mut ServicesStatus) {
        let ids = self.ledger.ids();
        for (service, status) in &mut status.services {
            for port in &mut Arc::make_mut(status).ports {
                let key = ServicePort {
                    service: service.clone(),
                    protocol: port.protocol,
                    port: port.port,
                };
                if let Some(id) = ids.get(&key) {
                    port.counters = counters.of(*id);
                }
            }
        }
    }
}
