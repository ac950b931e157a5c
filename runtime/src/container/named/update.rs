//! `update`: other limits for a container.

use oci_spec::runtime::LinuxResources;

use super::{Named, Status, VerbError};
use crate::cgroup::{Cgroup, Limits, systemd};
use crate::container::FieldError;

impl Named {
    /// Sets the limits that `resources` names and leaves the others. All of them can be enforced, or it is an error.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), VerbError> {
        if self.status() == Status::Stopped {
            return Err(VerbError::NotRunning);
        }
        if resources.devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
            let reason = "can't be changed after the container was created";
            return Err(FieldError::new("linux.resources.devices", reason).into());
        }
        let limits = Limits::of(&self.with_own_limit(resources))?;
        let cgroup = self.cgroup_for("update")?;
        check_use(&cgroup, resources)?;
        if let Some(unit) = &self.record.unit {
            systemd::tell(unit, &limits)?;
        }
        cgroup.create(&limits.controllers().into_iter().collect::<Vec<_>>())?;
        match cgroup.limit(&limits)?.into_iter().next() {
            None => Ok(()),
            Some(sentence) => Err(VerbError::Unenforced(sentence)),
        }
    }

    /// A limit of swap counts memory in: without one of memory in the order it is the container's present one.
    fn with_own_limit(&self, resources: &LinuxResources) -> LinuxResources {
        let mut resources = resources.clone();
        let limit = self.cgroup().and_then(|cgroup| cgroup.number("memory.max"));
        let limit = limit.and_then(|limit| i64::try_from(limit).ok());
        if let Some(mut memory) = *resources.memory()
            && memory.swap().is_some_and(|swap| swap > 0)
            && memory.limit().is_none_or(|limit| limit == 0)
        {
            memory.set_limit(limit);
            resources.set_memory(Some(memory));
        }
        resources
    }
}

/// `memory.checkBeforeUpdate`: a limit below what is in use would have the kernel kill at once.
fn check_use(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), FieldError> {
    let Some(memory) = resources
        .memory()
        .filter(|memory| memory.check_before_update() == Some(true))
    else {
        return Ok(());
    };
    let limit = memory.limit().and_then(|limit| u64::try_from(limit).ok());
    match (limit.filter(|limit| *limit > 0), cgroup.number("memory.current")) {
        (Some(limit), Some(used)) if limit < used => Err(FieldError::new(
            "linux.resources.memory.limit",
            format!("{limit} is below the {used} bytes that are in use"),
        )),
        _ => Ok(()),
    }
}
