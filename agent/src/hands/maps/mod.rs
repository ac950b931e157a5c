//! The kernel's Service maps and the programs that read them. Everything is pinned, so that it outlives the agent:
//!
//! ```text
//! <bpf-dir>/v3/maps/<name>       the maps, see `ebpf_common::maps`
//! <bpf-dir>/v3/links/<hook>      what holds each program to the cgroup; and `arriving_<index>`, `leaving_<index>` of a link
//! ```
//!
//! Only the programs at pods' links are held by filters of those.
//!
//! What is written is decided in `agent_core::service`; here it is only done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use agent_core::service::diff::MapStep;
use agent_core::service::image::{Capacity, Image};
use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::{Ebpf, EbpfError, EbpfLoader};
use cni::pod_network::NetworkError;
use ebpf_common::flow::Way;
use ebpf_common::maps::{Affinity, AffinityKey};

mod content;
mod detours;
mod links;
pub mod look;
mod pins;
mod pod_links;
mod uplinks;

pub use content::CounterView;
pub use pins::remove_all;

use content::Content;
use detours::Detoured;
use pins::{MapSet, Pins};
use pod_links::Served;

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/services"));

/// The maps of one node, opened, with the programs that it needs loaded against them.
pub struct KernelMaps {
    pins: Pins,
    set: MapSet,
    content: Content,
    /// Loaded programs that are not attached yet.
    programs: Option<Ebpf>,
    cgroup: PathBuf,
    uplinks: Vec<String>,
    pods: Served,
    detours: Detoured,
}

/// A kind of link whose packets are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It leads out of the node.
    Uplink,
    /// It leads to a pod; for SCTP alone.
    Pod,
    /// `lo`, where packets only arrive; for SCTP alone.
    Loopback,
}

/// What could not be done to the kernel's Service maps or programs.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// The bpf file system, its directories and pins.
    #[error("{action} {path}")]
    Files {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The programs or maps were not taken by the kernel.
    #[error("load the Service programs")]
    Load(#[source] EbpfError),
    /// One map.
    #[error("{action} map {map}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// The map's name.
        map: &'static str,
        /// Why not.
        source: MapError,
    },
    /// One program.
    #[error("{action} program {program}")]
    Program {
        /// What was tried.
        action: &'static str,
        /// The program's name.
        program: &'static str,
        /// Why not; the verifier's words are in it.
        source: ProgramError,
    },
    /// A link could not be given a name.
    #[error("pin a link as {path}")]
    Pin {
        /// The name.
        path: PathBuf,
        /// Why not.
        source: aya::pin::PinError,
    },
    /// A link that leads out of the node.
    #[error("serve clients outside through the link {uplink}")]
    Uplink {
        /// Its name.
        uplink: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Links of pods, or `lo`.
    #[error("serve SCTP of clients on this node")]
    PodLinks(#[from] NetworkError),
    /// Routes of the node's own packets.
    #[error("have SCTP of the node's own processes go by lo")]
    Detours(#[source] NetworkError),
    /// No descriptor can be had.
    #[error("keep a program of pods' links")]
    Descriptor(#[source] std::io::Error),
    /// The object that the agent carries lacks something: it was built from other sources.
    #[error("the Service programs have no {0}")]
    Missing(&'static str),
}

impl KernelMaps {
    /// Opens the pinned maps below `bpf_dir`, or makes them, and loads the programs that sockets and these uplinks need against
    /// them. Programs that an earlier agent attached go on until [`KernelMaps::attach`].
    pub fn open(bpf_dir: &Path, cgroup: &Path, uplinks: &[String]) -> Result<Self, MapsError> {
        let pins = Pins::prepare(bpf_dir)?;
        let cpus = cpus()?;
        let set = pins.usable_set(cpus)?;
        let mut programs = open(&set, cpus)?;
        let content = Content::take(&mut programs, cpus)?;
        links::load(&mut programs)?;
        uplinks::load(&mut programs, uplinks)?;
        Ok(Self {
            pins,
            set,
            content,
            programs: Some(programs),
            cgroup: cgroup.into(),
            uplinks: uplinks.into(),
            pods: Served::default(),
            detours: Detoured::default(),
        })
    }

    /// Lets the cgroup's sockets and the links' packets meet the loaded programs, in the place of earlier ones and without a
    /// moment between.
    /// To be called when the maps hold what they should; a second call does nothing.
    pub fn attach(&mut self) -> Result<(), MapsError> {
        if let Some(programs) = &mut self.programs {
            links::attach(programs, &self.cgroup, &self.pins.links())?;
            uplinks::attach(programs, &self.uplinks, &self.pins.links())?;
            self.pins.commit(&mut self.set)?;
            self.programs = None;
        }
        Ok(())
    }

    /// Whether links and detours are to be looked at now although there is no other pod: the addresses that the node reaches
    /// by a detour, and its sources.
    pub fn is_news_to_associations(&self, detours: &BTreeMap<IpAddr, IpAddr>, are_associations: bool) -> bool {
        self.pods.is_news(are_associations) || self.detours.is_news(detours, are_associations)
    }

    /// Serves SCTP of the node and of all pods that there are now; or of none, as soon as no association is left that was
    /// served.
    pub fn serve_associations(
        &mut self,
        detours: &BTreeMap<IpAddr, IpAddr>,
        are_associations: bool,
    ) -> Result<(), MapsError> {
        let is_needed = are_associations || self.pods.are_served() && !self.content.associations()?.is_empty();
        let links = self.pods.look(is_needed, || open(&self.set, self.content.cpus()));
        let is_met = is_needed && self.pods.is_node_served();
        let detours = self.detours.look(detours, || self.content.associations(), is_met);
        links.and(detours)
    }

    /// What the maps hold now.
    pub fn dump(&self) -> Result<Image, MapsError> {
        self.content.dump()
    }

    /// Performs steps in their order. They may be repeated.
    pub fn perform(&mut self, steps: &[MapStep]) -> Result<(), MapsError> {
        self.content.perform(steps)
    }

    /// Clients that keep to a backend of the Service port `id`.
    pub fn affinities(&self, id: u32) -> Result<Vec<(AffinityKey, Affinity)>, MapsError> {
        self.content.affinities(id)
    }

    /// The counters of the Service ports with ids up to `last`.
    pub fn counters(&self, last: u32) -> Result<CounterView, MapsError> {
        self.content.counters(last)
    }

    /// The sizes of the maps.
    pub fn capacity(&self) -> Capacity {
        Capacity::default()
    }

    /// What the program at a link does to an Ethernet frame that comes in by it or leaves by it: its verdict and the frame.
    /// Only before [`KernelMaps::attach`].
    pub fn try_frame(&mut self, link: Link, way: Way, frame: &[u8]) -> Result<(u32, Vec<u8>), MapsError> {
        let programs = self.programs.as_mut().ok_or(MapsError::Missing("loaded program"))?;
        uplinks::trial(programs, link, way, frame)
    }

    /// What would become of a connection at `now`, in seconds since the machine started.
    pub fn look(&self, question: &look::Question, now: u32) -> Result<look::Finding, MapsError> {
        look::look(&self.content, question, now)
    }

    /// How many flows of clients outside there are, by the id of the Service port.
    pub fn flow_counts(&self) -> Result<BTreeMap<u32, usize>, MapsError> {
        self.content.flow_counts()
    }

    /// Forgets the UDP flows from outside to these backends: their clients would be heard by nobody.
    pub fn forget_datagrams(&mut self, gone: &BTreeSet<SocketAddr>) -> Result<(), MapsError> {
        self.content.forget_datagrams(gone)
    }

    /// Forgets the flows from outside that are over; comes back with how many there were and how many are left.
    pub fn sweep(&mut self, now: u32) -> Result<(usize, usize), MapsError> {
        self.content.sweep(now)
    }

    /// Instructions that the verifier went through for each program, where the kernel tells (5.16). Only before
    /// [`KernelMaps::attach`].
    pub fn verified_instructions(&mut self) -> Result<Vec<(&'static str, Option<u32>)>, MapsError> {
        let programs = self.programs.as_mut().ok_or(MapsError::Missing("loaded program"))?;
        let mut counts = links::verified_instructions(programs);
        counts.extend(uplinks::verified_instructions(programs)?);
        Ok(counts)
    }
}

/// The programs with the maps of a set, which are made where they are not there. None is loaded.
fn open(set: &MapSet, cpus: u32) -> Result<Ebpf, MapsError> {
    let mut loader = EbpfLoader::new();
    // The programs read nothing of the kernel's own structures, whose description takes 20 MiB.
    loader.btf(None);
    for map in &pins::MAPS {
        loader.map_pin_path(map.name, set.path(map.name));
        loader.map_max_entries(map.name, map.entries(cpus));
    }
    loader.load(PROGRAMS).map_err(MapsError::Load)
}

/// How many CPUs the machine may have.
fn cpus() -> Result<u32, MapsError> {
    let number = aya::util::nr_cpus().map_err(|(path, source)| MapsError::Files {
        action: "count the CPUs in",
        path: path.into(),
        source,
    })?;
    Ok(u32::try_from(number).expect("a machine has few CPUs"))
}
