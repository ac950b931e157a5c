//! `config.json` as this runtime reads it
//! ([config.md](https://github.com/opencontainers/runtime-spec/blob/main/config.md)).
//!
//! All but the outermost structures are those of oci-spec. Its own `Spec` reads what is for other systems, and its `Process`
//! checks lists of CPUs with regular expressions: together a fifth of a program that is started with every container. What
//! reads a list of CPUs here is [`crate::field`], as it does for cgroups.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;

use getset::{CopyGetters, Getters, MutGetters, Setters};
use oci_spec::runtime::{
    Box, Hooks, Linux, LinuxCapabilities, LinuxIOPriority, Mount, PosixRlimit, Root, Scheduler, User,
};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// The configuration of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Getters, MutGetters, Setters)]
#[serde(rename_all = "camelCase")]
#[getset(get = "pub", get_mut = "pub", set = "pub")]
pub struct Spec {
    /// The version of the specification that it was written for.
    #[serde(default, rename = "ociVersion")]
    version: String,
    /// Where its root filesystem is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<Root>,
    /// What is mounted below that, in this order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mounts: Option<Vec<Mount>>,
    /// What runs in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    process: Option<Process>,
    /// Its name in its UTS namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    /// Its NIS domain name there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domainname: Option<String>,
    /// Programs that are run at turns of its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hooks: Option<Hooks>,
    /// What others know about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<HashMap<String, String>>,
    /// What only Linux has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    linux: Option<Linux>,
    // What is for other systems, or never was in this place, is read to be refused by its name.
    /// Whether something is there for Solaris.
    #[serde(default, skip_serializing)]
    solaris: Option<IgnoredAny>,
    /// The same for Windows.
    #[serde(default, skip_serializing)]
    windows: Option<IgnoredAny>,
    /// The same for virtual machines.
    #[serde(default, skip_serializing)]
    vm: Option<IgnoredAny>,
    /// The same for z/OS.
    #[serde(default, skip_serializing)]
    zos: Option<IgnoredAny>,
    /// Whether ids are mapped here instead of in `linux`.
    #[serde(default, skip_serializing)]
    uid_mappings: Option<IgnoredAny>,
    /// The same for groups.
    #[serde(default, skip_serializing)]
    gid_mappings: Option<IgnoredAny>,
}

/// What runs in a container, or is added to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CopyGetters, Getters, MutGetters, Setters)]
#[serde(rename_all = "camelCase")]
#[getset(set = "pub")]
pub struct Process {
    /// Whether it has a terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[getset(get_copy = "pub")]
    terminal: Option<bool>,
    /// The size of that, in characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[getset(get_copy = "pub")]
    console_size: Option<Box>,
    /// Who it is.
    #[getset(get = "pub")]
    user: User,
    /// The program and its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[getset(get = "pub")]
    args: Option<Vec<String>>,
    /// Whether there is a command for Windows.
    #[serde(default, skip_serializing)]
    #[getset(get = "pub")]
    command_line: Option<IgnoredAny>,
    /// Its environment, `NAME=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[getset(get = "pub", get_mut = "pub")]
    env: Option<Vec<String>>,
    /// Its working directory, below the container's root.
    #[getset(get = "pub")]
    cwd: PathBuf,
    /// Its capabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[getset(get = "pub")]
    capabilities: Option<LinuxCapabilities>,
    /// Its limits of resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[getset(get = "pub")]
    rlimits: Option<Vec<PosixRlimit>>,
    /// Whether no program gives it more rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[getset(get_copy = "pub")]
    no_new_privileges: Option<bool>,
    /// The AppArmor profile that it is confined by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[getset(get = "pub")]
    apparmor_profile: Option<String>,
    /// How willingly the kernel ends it when memory is short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[getset(get_copy = "pub")]
    oom_score_adj: Option<i32>,
    /// Its SELinux context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[getset(get = "pub")]
    selinux_label: Option<String>,
    /// When its requests to disks are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[getset(get = "pub")]
    io_priority: Option<LinuxIOPriority>,
    /// When it gets a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[getset(get = "pub")]
    scheduler: Option<Scheduler>,
    /// Which CPUs it gets, if it is an added one.
    #[serde(rename = "execCPUAffinity", default, skip_serializing_if = "Option::is_none")]
    #[getset(get = "pub")]
    exec_cpu_affinity: Option<ExecCpuAffinity>,
}

impl Process {
    /// What stands for the process of a container that has none.
    pub(crate) fn nothing() -> Self {
        let cwd = "/".into();
        Self { cwd, ..Self::default() }
    }

    /// This process, with the labels and limits of a container's first one where it has none of its own.
    pub(crate) fn completed_by(&self, first: &Self) -> Cow<'_, Self> {
        let lacks = |own, other| filled(own).is_none() && filled(other).is_some();
        let has_limits = |process: &Self| process.rlimits.as_ref().is_some_and(|limits| !limits.is_empty());
        let mut completed = Cow::Borrowed(self);
        if lacks(&self.apparmor_profile, &first.apparmor_profile) {
            completed.to_mut().apparmor_profile.clone_from(&first.apparmor_profile);
        }
        if lacks(&self.selinux_label, &first.selinux_label) {
            completed.to_mut().selinux_label.clone_from(&first.selinux_label);
        }
        if !has_limits(self) && has_limits(first) {
            completed.to_mut().rlimits.clone_from(&first.rlimits);
        }
        completed
    }
}

/// A label that is empty is none.
pub(crate) fn filled(label: &Option<String>) -> Option<&str> {
    label.as_deref().filter(|label| !label.is_empty())
}

/// Lists of CPUs, `0-3,7`, as they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Getters)]
#[getset(get = "pub")]
pub struct ExecCpuAffinity {
    /// Those on which it is born, before it is in the container's cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    initial: Option<String>,
    /// Those on which it goes on.
    #[serde(default, rename = "final", skip_serializing_if = "Option::is_none")]
    last: Option<String>,
}

impl From<&oci_spec::runtime::Spec> for Spec {
    /// For whoever makes a configuration with oci-spec. What is for other systems is not taken along.
    fn from(spec: &oci_spec::runtime::Spec) -> Self {
        Self {
            version: spec.version().clone(),
            root: spec.root().clone(),
            mounts: spec.mounts().clone(),
            process: spec.process().as_ref().map(Process::from),
            hostname: spec.hostname().clone(),
            domainname: spec.domainname().clone(),
            hooks: spec.hooks().clone(),
            annotations: spec.annotations().clone(),
            linux: spec.linux().clone(),
            solaris: None,
            windows: None,
            vm: None,
            zos: None,
            uid_mappings: None,
            gid_mappings: None,
        }
    }
}

impl From<&oci_spec::runtime::Process> for Process {
    fn from(process: &oci_spec::runtime::Process) -> Self {
        let affinity = process.exec_cpu_affinity().as_ref().map(|affinity| ExecCpuAffinity {
            initial: affinity.initial().clone(),
            last: affinity.cpu_affinity_final().clone(),
        });
        Self {
            terminal: process.terminal(),
            console_size: process.console_size(),
            user: process.user().clone(),
            args: process.args().clone(),
            command_line: None,
            env: process.env().clone(),
            cwd: process.cwd().clone(),
            capabilities: process.capabilities().clone(),
            rlimits: process.rlimits().clone(),
            no_new_privileges: process.no_new_privileges(),
            apparmor_profile: process.apparmor_profile().clone(),
            oom_score_adj: process.oom_score_adj(),
            selinux_label: process.selinux_label().clone(),
            io_priority: *process.io_priority(),
            scheduler: process.scheduler().clone(),
            exec_cpu_affinity: affinity,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn process(profile: Option<&str>, label: Option<&str>) -> Process {
        serde_json::from_value(json!({
            "user": { "uid": 0, "gid": 0 }, "cwd": "/", "apparmorProfile": profile, "selinuxLabel": label,
        }))
        .unwrap()
    }

    #[test]
    fn limits_that_are_left_out_are_those_of_the_containers_own_process() {
        let limited = |limits| serde_json::from_value(json!({ "user": {}, "cwd": "/", "rlimits": limits }));
        let limit = |soft| json!([{ "type": "RLIMIT_NOFILE", "soft": soft, "hard": 9 }]);
        let first: Process = limited(limit(5)).unwrap();
        for (added, expected) in [(json!(null), limit(5)), (json!([]), limit(5)), (limit(7), limit(7))] {
            let added: Process = limited(added).unwrap();
            assert_eq!(added.completed_by(&first).rlimits, limited(expected).unwrap().rlimits);
        }
    }

    #[test]
    fn labels_that_are_left_out_are_those_of_the_containers_own_process() {
        let first = process(Some("profile"), Some("label"));
        for (added, expected) in [
            (process(None, Some("other")), process(Some("profile"), Some("other"))),
            (process(Some("other"), Some("")), process(Some("other"), Some("label"))),
        ] {
            assert_eq!(*added.completed_by(&first), expected);
        }
        let nothing = process(None, None);
        assert!(matches!(first.completed_by(&nothing), Cow::Borrowed(_)));
    }
}
