//! The eBPF program of pod links, loaded; `cni` attaches it to each link with the batch that makes the link. Links keep
//! the program when the agent ends, and get that of the next one when it starts.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use aya::maps::PerCpuArray;
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader};
use ebpf_common::pods::Count;

static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pods"));
const NAME: &str = "pod_sends";

/// The loaded program and its counters.
#[derive(Debug)]
pub struct Inspector {
    programs: Ebpf,
    program: Arc<OwnedFd>,
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
    /// No descriptor can be had.
    #[error("keep the program of pod links")]
    Descriptor(#[from] std::io::Error),
    /// The object that the agent carries lacks something: it was built from other sources.
    #[error("the object of pod links has no {0}")]
    Missing(&'static str),
}

impl Inspector {
    /// Loads the program.
    pub fn load() -> Result<Self, InspectorError> {
        // The program reads nothing of the kernel's own structures, whose description takes 20 MiB to read.
        let mut programs = EbpfLoader::new().btf(None).load(PROGRAM)?;
        let program: &mut SchedClassifier = programs
            .program_mut(NAME)
            .ok_or(InspectorError::Missing(NAME))?
            .try_into()?;
        program.load()?;
        let program = Arc::new(program.fd()?.as_fd().try_clone_to_owned()?);
        Ok(Self { programs, program })
    }

    /// What is attached to links.
    pub fn program(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.program)
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
