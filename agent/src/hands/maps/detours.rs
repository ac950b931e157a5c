//! Detours by `lo` for what processes of the node send to Services by SCTP. The kernel has them; they stay when the agent ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use agent_core::service::detours::{DetourStep, Way, Ways, plan};
use cni::detours::{Detours, Way as Route};

use super::MapsError;

/// What this agent has seen to.
#[derive(Default)]
pub(super) struct Detoured {
    done: Option<(BTreeMap<IpAddr, IpAddr>, bool)>,
}

impl Detoured {
    /// Whether there is something to be done for these addresses and the node's sources to them.
    pub(super) fn is_news(&self, wanted: &BTreeMap<IpAddr, IpAddr>, is_needed: bool) -> bool {
        self.done
            .as_ref()
            .is_none_or(|(done, was_needed)| (done, *was_needed) != (wanted, is_needed))
    }

    /// Makes the kernel's detours those to these addresses, and those that somebody is still on, which `stay` finds out. What
    /// one address refuses is no reason to leave others out.
    pub(super) fn look(
        &mut self,
        wanted: &BTreeMap<IpAddr, IpAddr>,
        stay: impl FnOnce() -> Result<BTreeSet<IpAddr>, MapsError>,
        is_needed: bool,
    ) -> Result<(), MapsError> {
        if !is_needed && !self.is_news(wanted, false) {
            return Ok(());
        }
        let detours = Detours::open()?;
        let mtu = if wanted.is_empty() { 0 } else { detours.mtu()? };
        let want = wanted
            .iter()
            .map(|(to, source)| (*to, Way { source: *source, mtu }))
            .collect();
        let have = present(&detours)?;
        let is_any_gone = is_needed && have.keys().any(|to| !wanted.contains_key(to));
        let stay = if is_any_gone { stay()? } else { BTreeSet::new() };
        self.done = None;
        let mut last = Ok(());
        for step in plan(&have, &want, &stay, is_needed) {
            let result = perform(&detours, step);
            if step == DetourStep::Begin {
                result?;
            } else if result.is_err() {
                last = result;
            }
        }
        if last.is_ok() {
            self.done = Some((wanted.clone(), is_needed));
        }
        last
    }
}

/// Takes all detours away.
pub(super) fn remove() -> Result<(), MapsError> {
    perform(&Detours::open()?, DetourStep::End)
}

fn present(detours: &Detours) -> Result<Ways, MapsError> {
    let way = |(to, Route { source, mtu })| (to, Way { source, mtu });
    Ok(detours.list()?.into_iter().map(way).collect())
}

fn perform(detours: &Detours, step: DetourStep) -> Result<(), MapsError> {
    let result = match step {
        DetourStep::Begin => detours.begin(),
        DetourStep::Route(to, Way { source, mtu }) => detours.route(to, Route { source, mtu }),
        DetourStep::Forget(to) => detours.forget(to),
        DetourStep::End => detours.end(),
    };
    result.map_err(MapsError::Detours)
}
