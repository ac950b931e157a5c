//! Programs at pods' links that come and go: an agent's Services have theirs behind the pod network's own.

use std::{
    collections::BTreeSet,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use nix::errno::Errno;

use crate::{
    netlink::Connection,
    observe,
    pod_network::{NetworkError, connect},
    step::{Hook, LinkStep, Program},
};

/// Loaded programs for packets of a pod's link.
#[derive(Debug, Clone, Copy)]
pub struct Programs<'a> {
    /// For what the pod sends.
    pub incoming: BorrowedFd<'a>,
    /// For what goes to the pod, if there is one.
    pub outgoing: Option<BorrowedFd<'a>>,
}

/// Pods' links, as they can be asked for and changed from the network namespace of the calling thread.
#[derive(Debug)]
pub struct Links(Connection);

impl Links {
    /// Opens a way to the kernel.
    ///
    /// # Errors
    /// When it has none for us.
    pub fn open() -> Result<Self, NetworkError> {
        Ok(Self(connect()?))
    }

    /// Indices of the host's ends, of every network.
    ///
    /// # Errors
    /// When the kernel's table can't be read.
    pub fn list(&self) -> Result<BTreeSet<u32>, NetworkError> {
        Ok(observe::host_ends(&self.0)?.iter().map(|end| end.index).collect())
    }

    /// Attaches programs to a link, in the place of earlier ones and without a moment between. A link that is gone is
    /// passed over.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn serve(&self, index: u32, programs: &Programs<'_>) -> Result<(), NetworkError> {
        // Who translates answers comes before who makes them necessary.
        let outgoing = programs.outgoing.map(|program| (Hook::Outgoing, program));
        for (hook, program) in outgoing.into_iter().chain([(Hook::Incoming, programs.incoming)]) {
            let program = Program {
                descriptor: program.as_raw_fd(),
                place: 0,
            };
            match self.0.perform(&serve(index, hook, program), None) {
                Err(error) if error.source.errno == Errno::ENODEV => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Takes a link's programs away again, if it has any.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release(&self, index: u32) -> Result<(), NetworkError> {
        let steps = [Hook::Incoming, Hook::Outgoing].map(|hook| LinkStep::ServeNot { index, hook });
        Ok(self.0.perform(&steps, None).map(drop)?)
    }
}

fn serve(index: u32, hook: Hook, program: Program) -> [LinkStep; 2] {
    [
        LinkStep::PrepareInspection { index },
        LinkStep::Serve { index, hook, program },
    ]
}
