//! The one task that keeps the kernel's Service maps equal to what the Services and pods of this node say.
//!
//! Facts come in by a watch channel, so that a burst of changes is one change; what is decided stands in
//! `agent_core::service`, what touches the kernel in `hands::maps`.

use std::path::PathBuf;

use agent_core::service::{AddressRange, ReadyPod, ServicesStatus};
use k8s_openapi::api::core::v1::Service;
use tokio::sync::{mpsc, oneshot, watch};

/// Everything that the Service maps follow from. `None` in the channel means that it is not known yet: nothing is removed
/// from the maps until the first list is complete.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceFacts {
    /// All Services, as given; cluster addresses that they lack are allocated here.
    pub services: Vec<Service>,
    /// All pods of this node that have an address.
    pub pods: Vec<ReadyPod>,
}

/// Where things are, and which addresses may be given to Services.
#[derive(Clone, Debug)]
pub struct ServicesConfig {
    /// Directory of pins, on a bpffs or where one may be mounted.
    pub bpf_dir: PathBuf,
    /// Absolute path of the cgroup v2 directory whose processes are served: the root of the tree on a node.
    pub cgroup: PathBuf,
    /// Ranges of cluster addresses, at most one of each family.
    pub ranges: Vec<AddressRange>,
    /// File that remembers the allocated cluster addresses.
    pub record: PathBuf,
}

/// A question for the status with fresh counters; the answer comes through the sender.
pub type Query = oneshot::Sender<ServicesStatus>;

/// Keeps the maps right until the facts' sender is gone. Services go on answering afterwards.
pub async fn run(
    _config: ServicesConfig,
    mut facts: watch::Receiver<Option<ServiceFacts>>,
    status: watch::Sender<ServicesStatus>,
    mut queries: mpsc::Receiver<Query>,
) {
    loop {
        tokio::select! {
            changed = facts.changed() => if changed.is_err() { return },
            // The one who asked may have gone away; nobody misses the answer.
            Some(query) = queries.recv() => drop(query.send(status.borrow().clone())),
        }
    }
}
