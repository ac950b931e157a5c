//! The eBPF programs of pod links, loaded; `cni` attaches them to each link with the batch that makes the link. Links keep
//! the programs when the agent ends, and get those of the next one when it starts.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use aya::maps::{HashMap, MapError, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader};
use cni::pacer::Pacer;
use ebpf_common::pods::Count;

use super::limits::{Limits, Pacing};

static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pods"));
const SENDS: &str = "pod_sends";
const RECEIVES: &str = "pod_receives";
const DEPARTS: &str = "pod_departs";
const LIMITS: &str = "pod_limits";

/// The loaded programs, their counters and the limits that they go by.
#[derive(Debug)]
pub struct Inspector {
    programs: Ebpf,
    program: Arc<OwnedFd>,
    limits: Arc<Limits>,
}

/// Why pods are not inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectorError {
    /// The kernel takes no such objects at all, or not this one.
    #[error("load the program of pod links")]
    Load(#[from] EbpfError),
    /// The kernel does not take the program; the verifier's words are in it.
    #[error("load the program of pod links")]
    Program(#[from] ProgramError),
    /// A map of the object is not what it was made as.
    #[error("open the limits of pods")]
    Map(#[from] MapError),
    /// The kernel can't be asked what it has.
    #[error("look for a queue that paces")]
    Queue(#[from] cni::pod_network::NetworkError),
    /// No descriptor can be had.
    #[error("keep the program of pod links")]
    Descriptor(#[from] std::io::Error),
    /// The object that the agent carries lacks something: it was built from other sources.
    #[error("the object of pod links has no {0}")]
    Missing(&'static str),
}

impl Inspector {
    /// Loads the programs. Those that pace are of no use where the kernel lacks the queue for it.
    pub fn load() -> Result<Self, InspectorError> {
        // The programs read nothing of the kernel's own structures, whose description takes 20 MiB to read.
        let mut programs = EbpfLoader::new().btf(None).load(PROGRAM)?;
        let program = Arc::new(load(&mut programs, SENDS)?);
        let pacing = if cni::pod_network::has_pacing_queue()? {
            Some(Pacing {
                receives: load(&mut programs, RECEIVES)?,
                departs: load(&mut programs, DEPARTS)?,
            })
        } else {
            None
        };
        let limits = programs.take_map(LIMITS).ok_or(InspectorError::Missing(LIMITS))?;
        let limits = Arc::new(Limits::new(HashMap::try_from(limits)?, pacing));
        Ok(Self {
            programs,
            program,
            limits,
        })
    }

    /// What is attached to links.
    pub fn program(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.program)
    }

    /// What limits pods.
    pub fn pacer(&self) -> Arc<dyn Pacer> {
        Arc::clone(&self.limits) as _
    }

    /// How many instructions the kernel went through to accept each program that is loaded.
    pub fn verified_instructions(&self) -> Vec<(&'static str, Option<u32>)> {
        let count = |name| self.programs.program(name)?.info().ok()?.verified_instruction_count();
        [SENDS, RECEIVES, DEPARTS].map(|name| (name, count(name))).to_vec()
    }

    /// What was counted since the agent started, over all CPUs.
    pub fn counts(&self) -> Vec<(Count, u64)> {
        let counters = self.programs.map("pod_counts").map(PerCpuArray::<_, u64>::try_from);
        let Some(Ok(counters)) = counters else {
            return Vec::new();
        };
        let of = |(place, count): (u32, Count)| {
            let values = counters.get(&place, 0).ok()?;
            Some((count, values.iter().sum()))
        };
        (0..).zip(Count::ALL).filter_map(of).collect()
    }
}

fn load(programs: &mut Ebpf, name: &'static str) -> Result<OwnedFd, InspectorError> {
    let program: &mut SchedClassifier = programs
        .program_mut(name)
        .ok_or(InspectorError::Missing(name))?
        .try_into()?;
    program.load()?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}
