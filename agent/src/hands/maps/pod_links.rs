//! The programs that serve SCTP at the host's ends of pods' links: filters behind those of the pod network, so that they see
//! nothing that a pod may not send. They stay when the agent ends, and go with the link.

use std::os::fd::{AsFd as _, OwnedFd};

use agent_core::service::pod_links::{PodLinkStep, PodLinks};
use aya::Ebpf;
use cni::served::{Links, Programs};

use super::{MapsError, uplinks};

const ARRIVING: &str = "inside_arriving";
const LEAVING: &str = "inside_leaving";
pub(super) const PROGRAMS: [&str; 2] = [LEAVING, ARRIVING];

/// Which links have the programs, which are loaded when the first one needs them.
#[derive(Default)]
pub(super) struct Served {
    programs: Option<Loaded>,
    links: PodLinks,
}

struct Loaded {
    arriving: OwnedFd,
    leaving: OwnedFd,
}

impl Served {
    pub(super) fn is_news(&self, is_needed: bool) -> bool {
        self.links.is_news(is_needed)
    }

    /// Has all links of pods served that are there now, or none; `open` gives the programs.
    pub(super) fn look(
        &mut self,
        is_needed: bool,
        mut open: impl FnMut() -> Result<Ebpf, MapsError>,
    ) -> Result<(), MapsError> {
        let links = Links::open()?;
        let present = links.list()?;
        for step in self.links.plan(&present, is_needed) {
            match step {
                PodLinkStep::Serve(index) => links.serve(index, &self.programs(&mut open)?)?,
                PodLinkStep::Release(index) => links.release(index)?,
            }
        }
        self.links = PodLinks::settled(present, is_needed);
        Ok(())
    }

    fn programs(&mut self, open: impl FnOnce() -> Result<Ebpf, MapsError>) -> Result<Programs<'_>, MapsError> {
        let loaded = match self.programs.take() {
            Some(loaded) => loaded,
            None => Loaded::of(&mut open()?)?,
        };
        let loaded = self.programs.insert(loaded);
        Ok(Programs {
            incoming: loaded.arriving.as_fd(),
            outgoing: loaded.leaving.as_fd(),
        })
    }
}

impl Loaded {
    fn of(programs: &mut Ebpf) -> Result<Self, MapsError> {
        Ok(Self {
            arriving: load(programs, ARRIVING)?,
            leaving: load(programs, LEAVING)?,
        })
    }
}

/// Takes the programs away from all links.
pub(super) fn remove() -> Result<(), MapsError> {
    let links = Links::open()?;
    for index in links.list()? {
        links.release(index)?;
    }
    Ok(())
}

fn load(programs: &mut Ebpf, name: &'static str) -> Result<OwnedFd, MapsError> {
    let program = uplinks::loaded(programs, name)?;
    let descriptor = program.fd().map_err(uplinks::failed("find", name))?.as_fd();
    descriptor.try_clone_to_owned().map_err(MapsError::Descriptor)
}
