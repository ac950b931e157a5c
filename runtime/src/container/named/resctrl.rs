//! The groups of the resctrl filesystem that a container is in (`linux.intelRdt`).

use oci_spec::runtime::LinuxIntelRdt;

use super::record::ResctrlGroups;
use super::{Named, VerbError};
use crate::container::FieldError;
use crate::field::intel_rdt::{self, ResctrlStep};
use crate::resctrl::{Resctrl, remove};
use crate::spec::Spec;

/// What is still to be done for them.
#[derive(Debug)]
pub(super) struct Groups {
    resctrl: Resctrl,
    steps: Vec<ResctrlStep>,
}

impl Named {
    /// Plans them and takes them down in the record, before any is made: whoever finds the creator dead must know which to
    /// remove.
    pub(super) fn plan_resctrl(&mut self, spec: &Spec) -> Result<Option<Groups>, VerbError> {
        let asked = spec.linux().as_ref().map(intel_rdt::of).transpose()?.flatten();
        let Some(asked) = asked else { return Ok(None) };
        let resctrl = Resctrl::find()?;
        let plan = asked.plan(&self.record.id, |class| resctrl.has(class))?;
        self.record.resctrl = ResctrlGroups {
            joined: plan.joined.iter().map(|group| resctrl.directory(group)).collect(),
            removed: plan.removed.map(|group| resctrl.directory(&group)),
        };
        let steps = plan.steps;
        Ok(Some(Groups { resctrl, steps }))
    }

    /// Plans other lines for the class of a container that has been given one.
    pub(super) fn plan_change(&self, asked: &LinuxIntelRdt) -> Result<Option<Groups>, VerbError> {
        let lines = intel_rdt::lines(asked)?;
        if lines.is_empty() {
            return Ok(None);
        }
        let spec = self.spec()?;
        let own = spec.linux().as_ref().map(intel_rdt::of).transpose()?.flatten();
        let own = own.ok_or_else(|| {
            let reason = "is not in the container's configuration: it belongs to no class that could be changed";
            FieldError::new("linux.intelRdt", reason)
        })?;
        let steps = vec![own.change(&self.record.id, lines)?];
        let resctrl = Resctrl::find()?;
        Ok(Some(Groups { resctrl, steps }))
    }

    /// Removes the one that goes with the container.
    pub(super) fn leave_resctrl(&self) -> Result<(), VerbError> {
        let removed = self.record.resctrl.removed.as_deref();
        Ok(removed.map_or(Ok(()), remove)?)
    }
}

impl Groups {
    /// Makes and describes them.
    pub(super) fn make(&self) -> Result<(), VerbError> {
        let mut steps = self.steps.iter();
        Ok(steps.try_for_each(|step| self.resctrl.perform(step))?)
    }
}
