//! The programs that serve SCTP at the host's ends of pods' links, and for processes of the node at `lo`: filters behind those
//! of the pod network, so that they see nothing that a pod may not send. They stay when the agent ends, and go with the link.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, OwnedFd};

use agent_core::service::pod_links::{PodLinkStep, PodLinks};
use aya::Ebpf;
use cni::served::{Links, Programs};

use super::{MapsError, uplinks};

const ARRIVING: &str = "inside_arriving";
const LEAVING: &str = "inside_leaving";
const AT_NODE: &str = "node_arriving";
pub(super) const PROGRAMS: [&str; 3] = [LEAVING, ARRIVING, AT_NODE];
/// Index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

/// Which links have the programs, which are loaded when the first one needs them.
#[derive(Default)]
pub(super) struct Served {
    programs: Option<Loaded>,
    links: PodLinks,
}

struct Loaded {
    arriving: OwnedFd,
    leaving: OwnedFd,
    at_node: OwnedFd,
}

impl Served {
    pub(super) fn is_news(&self, is_needed: bool) -> bool {
        self.links.is_news(is_needed)
    }

    /// Whether links have programs of this agent.
    pub(super) fn are_served(&self) -> bool {
        matches!(self.links, PodLinks::Served(_))
    }

    /// Whether processes of the node are met.
    pub(super) fn is_node_served(&self) -> bool {
        matches!(&self.links, PodLinks::Served(links) if links.contains(&LOOPBACK))
    }

    /// Has `lo` and all links of pods served that are there now, or none; `open` gives the programs. What one link refuses is no
    /// reason to leave others out: it is tried again when there is another look.
    pub(super) fn look(
        &mut self,
        is_needed: bool,
        mut open: impl FnMut() -> Result<Ebpf, MapsError>,
    ) -> Result<(), MapsError> {
        let links = Links::open()?;
        let present = links_of(&links)?;
        let (mut refused, mut last) = (BTreeSet::new(), Ok(()));
        for step in self.links.plan(&present, is_needed) {
            let (index, result) = match step {
                PodLinkStep::Serve(index) => (index, links.serve(index, &self.programs(index, &mut open)?)),
                PodLinkStep::Release(index) => (index, links.release(index)),
            };
            if result.is_err() {
                refused.insert(index);
                last = result;
            }
        }
        let before = std::mem::take(&mut self.links);
        self.links = before.settled(&present, &refused, is_needed);
        Ok(last?)
    }

    fn programs(
        &mut self,
        index: u32,
        open: impl FnOnce() -> Result<Ebpf, MapsError>,
    ) -> Result<Programs<'_>, MapsError> {
        let loaded = match self.programs.take() {
            Some(loaded) => loaded,
            None => Loaded::of(&mut open()?)?,
        };
        Ok(self.programs.insert(loaded).of_link(index))
    }
}

impl Loaded {
    fn of(programs: &mut Ebpf) -> Result<Self, MapsError> {
        Ok(Self {
            arriving: load(programs, ARRIVING)?,
            leaving: load(programs, LEAVING)?,
            at_node: load(programs, AT_NODE)?,
        })
    }

    fn of_link(&self, index: u32) -> Programs<'_> {
        if index == LOOPBACK {
            return Programs {
                incoming: self.at_node.as_fd(),
                outgoing: None,
            };
        }
        Programs {
            incoming: self.arriving.as_fd(),
            outgoing: Some(self.leaving.as_fd()),
        }
    }
}

/// Takes the programs away from all links.
pub(super) fn remove() -> Result<(), MapsError> {
    let links = Links::open()?;
    for index in links_of(&links)? {
        links.release(index)?;
    }
    Ok(())
}

fn links_of(links: &Links) -> Result<BTreeSet<u32>, MapsError> {
    let mut present = links.list()?;
    present.insert(LOOPBACK);
    Ok(present)
}

fn load(programs: &mut Ebpf, name: &'static str) -> Result<OwnedFd, MapsError> {
    let program = uplinks::loaded(programs, name)?;
    let descriptor = program.fd().map_err(uplinks::failed("find", name))?.as_fd();
    descriptor.try_clone_to_owned().map_err(MapsError::Descriptor)
}
