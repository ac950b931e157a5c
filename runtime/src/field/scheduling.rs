//! When the process gets the CPU and the disks, and from which memory: `process.scheduler`, `process.ioPriority`,
//! `process.execCPUAffinity`, `linux.memoryPolicy`, `linux.personality`.

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Scheduler,
};

use super::number_list::mask;
use crate::plan::{FieldError, Steps};
use crate::spec::{ExecCpuAffinity, Process};
use crate::step::InitStep;
use crate::sys::schedule::{SchedulerAttributes, io_priority};

/// Plans what the process and its container ask for.
pub(crate) fn plan(process: &Process, linux: &Linux, steps: &mut Steps) -> Result<(), FieldError> {
    if let Some(personality) = linux.personality() {
        steps.push("linux.personality", InitStep::SetPersonality(domain(personality)?));
    }
    if let Some(policy) = linux.memory_policy() {
        steps.push("linux.memoryPolicy", memory_policy(policy)?);
    }
    if let Some(scheduler) = process.scheduler() {
        steps.push("process.scheduler", InitStep::SetScheduler(attributes(scheduler)?));
    }
    if let Some(priority) = process.io_priority() {
        steps.push("process.ioPriority", InitStep::SetIoPriority(priority_of_io(priority)?));
    }
    Ok(())
}

/// The CPUs that an added process is born on, and the ones that it goes on with.
pub(crate) fn affinity(asked: Option<&ExecCpuAffinity>) -> Result<[Option<Vec<u64>>; 2], FieldError> {
    let list = |name: &str, list: Option<&String>| {
        let field = format!("process.execCPUAffinity.{name}");
        list.filter(|list| !list.is_empty())
            .map(|list| mask(&field, list))
            .transpose()
    };
    Ok([
        list("initial", asked.and_then(|asked| asked.initial().as_ref()))?,
        list("final", asked.and_then(|asked| asked.last().as_ref()))?,
    ])
}

/// `PER_*` of linux/personality.h.
fn domain(personality: &LinuxPersonality) -> Result<u32, FieldError> {
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        let field = "linux.personality.flags";
        return Err(FieldError::new(field, "the specification has no flags yet"));
    }
    match personality.domain() {
        LinuxPersonalityDomain::PerLinux => Ok(0),
        LinuxPersonalityDomain::PerLinux32 => Ok(8),
    }
}

/// `MPOL_*` of linux/mempolicy.h.
fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<InitStep, FieldError> {
    let field = "linux.memoryPolicy";
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
                MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
                MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            }
    });
    let nodes = policy.nodes().as_deref().filter(|nodes| !nodes.is_empty());
    let takes_none = matches!(mode, 0 | 4);
    if takes_none && nodes.is_some() {
        return Err(FieldError::new(format!("{field}.nodes"), "this mode takes no nodes"));
    }
    if !takes_none && mode != 1 && nodes.is_none() {
        return Err(FieldError::new(format!("{field}.nodes"), "this mode needs nodes"));
    }
    let nodes = nodes.map(|nodes| mask(&format!("{field}.nodes"), nodes)).transpose()?;
    Ok(InitStep::SetMemoryPolicy {
        mode: mode | flags,
        nodes: nodes.unwrap_or_default(),
    })
}

fn attributes(scheduler: &Scheduler) -> Result<SchedulerAttributes, FieldError> {
    let field = |name: &str| format!("process.scheduler.{name}");
    // `SCHED_*` of linux/sched.h.
    let (policy, takes_priority, takes_times) = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => (0, false, false),
        LinuxSchedulerPolicy::SchedFifo => (1, true, false),
        LinuxSchedulerPolicy::SchedRr => (2, true, false),
        LinuxSchedulerPolicy::SchedBatch => (3, false, false),
        LinuxSchedulerPolicy::SchedIso => (4, false, false),
        LinuxSchedulerPolicy::SchedIdle => (5, false, false),
        LinuxSchedulerPolicy::SchedDeadline => (6, false, true),
    };
    // The kernel takes a nice value with every policy, for whenever it counts again.
    let (nice, priority) = (scheduler.nice().unwrap_or(0), scheduler.priority().unwrap_or(0));
    let times = [*scheduler.runtime(), *scheduler.deadline(), *scheduler.period()];
    let times = times.map(|time| time.unwrap_or(0));
    let priority = u32::try_from(priority).map_err(|_| FieldError::new(field("priority"), "is negative"))?;
    let misfit = [
        ("priority", priority != 0 && !takes_priority),
        ("runtime", times != [0; 3] && !takes_times),
    ];
    if let Some((name, _)) = misfit.iter().find(|(_, is_misfit)| *is_misfit) {
        return Err(FieldError::new(field(name), "is not for this policy"));
    }
    if !(-20..=19).contains(&nice) {
        return Err(FieldError::new(field("nice"), "is not between -20 and 19"));
    }
    let [runtime, deadline, period] = times;
    Ok(SchedulerAttributes {
        policy,
        flags: scheduler
            .flags()
            .iter()
            .flatten()
            .fold(0, |flags, one| flags | flag(*one)),
        nice,
        priority,
        runtime,
        deadline,
        period,
    })
}

/// `SCHED_FLAG_*` of linux/sched.h.
fn flag(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 1,
        LinuxSchedulerFlag::SchedFlagReclaim => 2,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 4,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 8,
        LinuxSchedulerFlag::SchedFlagKeepParams => 16,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 32,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 64,
    }
}

/// `IOPRIO_CLASS_*` of linux/ioprio.h.
fn priority_of_io(asked: &LinuxIOPriority) -> Result<i32, FieldError> {
    let class = match asked.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match i32::try_from(asked.priority()) {
        Ok(priority @ 0..=7) => Ok(io_priority(class, priority)),
        _ => Err(FieldError::new("process.ioPriority.priority", "is not between 0 and 7")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn scheduler(json: Value) -> Result<SchedulerAttributes, FieldError> {
        attributes(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn each_policy_takes_its_own_fields() {
        let deadline = json!({ "policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3,
                               "flags": ["SCHED_FLAG_RECLAIM", "SCHED_FLAG_KEEP_PARAMS"] });
        let attributes = scheduler(deadline).unwrap();
        assert_eq!((attributes.policy, attributes.flags), (6, 2 | 16));
        assert_eq!([attributes.runtime, attributes.deadline, attributes.period], [1, 2, 3]);
        assert_eq!(
            scheduler(json!({ "policy": "SCHED_RR", "priority": 5 }))
                .unwrap()
                .priority,
            5
        );
        assert_eq!(
            scheduler(json!({ "policy": "SCHED_BATCH", "nice": -3 })).unwrap().nice,
            -3
        );
        for (json, field) in [
            (json!({ "policy": "SCHED_OTHER", "nice": 20 }), "process.scheduler.nice"),
            (
                json!({ "policy": "SCHED_OTHER", "priority": 1 }),
                "process.scheduler.priority",
            ),
            (
                json!({ "policy": "SCHED_FIFO", "priority": -1 }),
                "process.scheduler.priority",
            ),
            (
                json!({ "policy": "SCHED_IDLE", "period": 1 }),
                "process.scheduler.runtime",
            ),
        ] {
            assert_eq!(scheduler(json).unwrap_err().field, field);
        }
    }

    #[test]
    fn policies_of_memory_have_the_nodes_that_they_need() {
        let step = |json: Value| memory_policy(&serde_json::from_value(json).unwrap());
        let bind = step(json!({ "mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"] })).unwrap();
        assert_eq!(bind.describe(), "set the memory policy 0x8002");
        for json in [
            json!({ "mode": "MPOL_BIND" }),
            json!({ "mode": "MPOL_LOCAL", "nodes": "0" }),
        ] {
            assert_eq!(step(json).unwrap_err().field, "linux.memoryPolicy.nodes");
        }
    }
}
