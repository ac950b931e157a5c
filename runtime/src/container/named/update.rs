//! `update`: other limits for a container.

use oci_spec::runtime::{LinuxCpu, LinuxIntelRdt, LinuxResources};

use super::{Named, Status, VerbError};
use crate::cgroup::{Cgroup, Limits};
use crate::container::FieldError;

impl Named {
    /// Sets the limits that `resources` names and leaves the others. All of them can be enforced, or it is an error.
    /// `classes` may have `l3CacheSchema` and `memBwSchema`, for the class of a container that has one.
    pub fn update(&self, resources: &LinuxResources, classes: &LinuxIntelRdt) -> Result<(), VerbError> {
        if self.status() == Status::Stopped {
            return Err(VerbError::NotRunning);
        }
        if resources.devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
            let reason = "can't be changed after the container was created";
            return Err(FieldError::new("linux.resources.devices", reason).into());
        }
        let groups = self.plan_change(classes)?;
        if groups.is_none() || *resources != LinuxResources::default() {
            self.update_cgroup(resources)?;
        }
        groups.map_or(Ok(()), |groups| groups.make())
    }

    fn update_cgroup(&self, resources: &LinuxResources) -> Result<(), VerbError> {
        let limits = Limits::of(&self.with_own_limits(resources))?;
        let cgroup = self.cgroup_for("update")?;
        check_use(&cgroup, resources)?;
        if let Some(unit) = self.record.scope() {
            unit.tell(&limits)?;
        }
        cgroup.create(&limits.controllers().into_iter().collect::<Vec<_>>())?;
        match cgroup.limit(&limits)?.into_iter().next() {
            None => Ok(()),
            Some(sentence) => Err(VerbError::Unenforced(sentence)),
        }
    }

    /// What one file of the kernel holds besides what the order names, as it is now: a limit of swap counts memory in,
    /// and a CPU quota is one of a period.
    fn with_own_limits(&self, resources: &LinuxResources) -> LinuxResources {
        let mut resources = resources.clone();
        let Some(cgroup) = self.cgroup() else { return resources };
        if let Some(mut memory) = *resources.memory()
            && memory.swap().is_some_and(|swap| swap > 0)
            && memory.limit().is_none_or(|limit| limit == 0)
        {
            let limit = cgroup.number("memory.max");
            memory.set_limit(limit.and_then(|limit| i64::try_from(limit).ok()));
            resources.set_memory(Some(memory));
        }
        if let Some(cpu) = resources.cpu() {
            let cpu = with_own_bandwidth(cpu.clone(), &cgroup.text("cpu.max"));
            resources.set_cpu(Some(cpu));
        }
        resources
    }
}

/// With the half of the `present` bandwidth (`QUOTA PERIOD`, as `cpu.max` has it) that the order leaves out.
fn with_own_bandwidth(mut cpu: LinuxCpu, present: &str) -> LinuxCpu {
    let Some((quota, period)) = present.trim().split_once(' ') else {
        return cpu;
    };
    let quota_is_new = cpu.quota().is_some_and(|quota| quota != 0);
    let period_is_new = cpu.period().is_some_and(|period| period != 0);
    if period_is_new && !quota_is_new {
        cpu.set_quota(quota.parse().ok());
    } else if quota_is_new && !period_is_new {
        cpu.set_period(period.parse().ok());
    }
    cpu
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_bandwidth_leaves_the_other_half_as_it_is() {
        for (json, present, expected) in [
            (r#"{"period":40000}"#, "20000 50000\n", (Some(20_000), Some(40_000))),
            (r#"{"period":40000,"quota":0}"#, "max 50000\n", (None, Some(40_000))),
            (r#"{"quota":30000}"#, "20000 50000\n", (Some(30_000), Some(50_000))),
            (
                r#"{"quota":-1,"period":40000}"#,
                "20000 50000\n",
                (Some(-1), Some(40_000)),
            ),
            (r#"{"shares":5}"#, "20000 50000\n", (None, None)),
            (r#"{"period":40000}"#, "", (None, Some(40_000))),
        ] {
            let cpu = with_own_bandwidth(serde_json::from_str(json).unwrap(), present);
            assert_eq!((cpu.quota(), cpu.period()), expected, "{json} in {present:?}");
        }
    }
}
