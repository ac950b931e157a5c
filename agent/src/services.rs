//! The one task that keeps the kernel's Service maps equal to what the Services and pods of this node say.
//!
//! Facts come in by a watch channel, so that a burst of changes is one change. What is decided stands in
//! `agent_core::service`, what touches the kernel in `hands::maps`. After a failure nothing is believed any more: the maps
//! are opened and read again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent_core::service::address::{Addresses, assign};
use agent_core::service::diff::diff;
use agent_core::service::ids::REST;
use agent_core::service::image::{Image, Ledger, Problems, clients};
use agent_core::service::metrics::{Scrape, without_local};
use agent_core::service::table::{NodeFacts, Objects, ServiceTable, table};
use agent_core::service::{AddressRange, ReadyPod, ServicePort, ServicesStatus};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;

use crate::hands::maps::look::Question;
use crate::hands::maps::{KernelMaps, MapsError};
use crate::hands::sockets;
use crate::node::timestamp;

pub mod detail;
pub(crate) mod node;
mod record;
pub mod report;

pub use crate::hands::maps::remove_all;
use detail::{PortDetail, Trace};

pub use node::{BindAddress, NodePortAddresses, ServiceFlags};
pub use record::RecordError;

/// How often the flows from outside are looked through for those that are over.
const SWEEP: Duration = Duration::from_secs(10);
/// The first wait after a failure; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Everything that the Service maps follow from. `None` in the channel means that it is not known yet: nothing is removed
/// from the maps until the first list is complete.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceFacts {
    /// All Services, as given; cluster addresses that they lack are allocated here.
    pub services: Vec<Service>,
    /// All EndpointSlices, as given.
    pub slices: Vec<EndpointSlice>,
    /// All pods of this node that have an address.
    pub pods: Vec<ReadyPod>,
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
    mut facts: watch::Receiver<Option<ServiceFacts>>,
    status: watch::Sender<ServicesStatus>,
    mut queries: mpsc::Receiver<Query>,
) {
    let mut keeper: Option<Keeper> = None;
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
            false
        });
        match update(&config, keeper.take(), now).await {
            Ok((next, report, again)) => {
                keeper = Some(next);
                wait = again;
                publish(&status, report, start.elapsed());
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
fn publish(status: &watch::Sender<ServicesStatus>, report: ServicesStatus, took: Duration) {
    status.send_modify(|status| {
        status.progress.finish(timestamp());
        status.measures.updates.observe(took);
        *status = ServicesStatus {
            progress: status.progress,
            measures: std::mem::take(&mut status.measures),
            ..report
        };
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

type Updated = (Keeper, ServicesStatus, Option<Duration>);

/// Brings the maps up to date on a blocking thread. A keeper whose update fails is not used again.
async fn update(config: &ServicesConfig, keeper: Option<Keeper>, facts: ServiceFacts) -> Result<Updated, UpdateError> {
    let config = config.clone();
    let work = move || -> Result<Updated, UpdateError> {
        let mut keeper = match keeper {
            Some(keeper) => keeper,
            None => Keeper::open(config)?,
        };
        let (status, again) = keeper.update(&facts)?;
        Ok((keeper, status, again))
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
                if let Err(error) = keeper.count(&mut report) {
                    report.problem = Some(format!("{:#}", anyhow::Error::from(error)));
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
    config: ServicesConfig,
    maps: KernelMaps,
    have: Image,
    ledger: Ledger,
    addresses: Addresses,
    table: ServiceTable,
    start: Instant,
}

impl Keeper {
    fn open(config: ServicesConfig) -> Result<Self, UpdateError> {
        let maps = KernelMaps::open(&config.bpf_dir, &config.cgroup, &config.uplinks)?;
        let have = maps.dump()?;
        let ledger = Ledger::restore(&have, maps.capacity());
        let addresses = record::read(&config.record).unwrap_or_else(|error| {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(
                error,
                "Services without an address in their manifest may get another one"
            );
            Addresses::new()
        });
        Ok(Self {
            config,
            maps,
            have,
            ledger,
            addresses,
            table: ServiceTable::default(),
            start: Instant::now(),
        })
    }

    /// Makes the maps say what the facts mean. Comes back with how soon to try again, if a Service found no room.
    fn update(&mut self, facts: &ServiceFacts) -> Result<(ServicesStatus, Option<Duration>), UpdateError> {
        let assignment = assign(&facts.services, &self.config.ranges, &self.addresses);
        if assignment.addresses != self.addresses {
            record::write(&self.config.record, &assignment.addresses)?;
            self.addresses = assignment.addresses.clone();
        }
        let objects = Objects {
            services: &facts.services,
            slices: &facts.slices,
            pods: &facts.pods,
        };
        let table = table(objects, &assignment, &facts.node);
        let (mut want, problems) = self.ledger.image(&table, &self.have, self.start.elapsed());
        want.clients = clients(&facts.node, &facts.pods);
        // After a failure nobody asks this keeper for what the maps hold.
        self.maps.perform(&diff(&self.have, &want))?;
        self.ledger.settle(&want, self.start.elapsed());
        let before = self.have.datagram_backends();
        let gone = before.difference(&want.datagram_backends()).copied().collect();
        self.have = want;
        self.maps.attach()?;
        self.end_stale(&gone, &facts.pods);
        let again = (!problems.is_empty()).then_some(REST);
        let mut status = ServicesStatus {
            in_kernel: true,
            services: table.services.clone(),
            ..ServicesStatus::default()
        };
        self.table = table;
        add_problems(&mut status, problems);
        Ok((status, again))
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
        self.count(&mut status)?;
        Ok(Scrape {
            status,
            without_local: without_local(&self.table),
            unreadable: self.maps.counters(0)?.unreadable,
            ..Scrape::default()
        })
    }

    fn count(&self, status: &mut ServicesStatus) -> Result<(), MapsError> {
        let ids = self.ledger.ids();
        for (service, status) in &mut status.services {
            for port in &mut status.ports {
                let key = ServicePort {
                    service: service.clone(),
                    protocol: port.protocol,
                    port: port.port,
                };
                if let Some(id) = ids.get(&key) {
                    port.counters = self.maps.counters(*id)?;
                }
            }
        }
        Ok(())
    }
}

fn add_problems(status: &mut ServicesStatus, problems: Problems) {
    for (service, problems) in problems {
        if let Some(status) = status.services.get_mut(&service) {
            status.problems.extend(problems);
        }
    }
}
