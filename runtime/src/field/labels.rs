//! `process.apparmorProfile`, `process.selinuxLabel` and `linux.mountLabel`.

use std::ffi::CString;

use oci_spec::runtime::Linux;

use crate::plan::{FieldError, Steps, c_string};
use crate::security::SecurityModules;
use crate::spec::{Process, filled};
use crate::step::InitStep;

pub(crate) const PROCESS_LABEL: &str = "process.selinuxLabel";

/// Whether the process or a mount is to get a label.
pub(crate) fn are_asked_for(linux: Option<&Linux>, process: Option<&Process>) -> bool {
    let mount = linux.and_then(|linux| filled(linux.mount_label()));
    mount.is_some() || process.is_some_and(has_any)
}

/// Whether the process is to get a label.
pub(crate) fn has_any(process: &Process) -> bool {
    filled(process.apparmor_profile())
        .or(filled(process.selinux_label()))
        .is_some()
}

/// Plans the labels that the next exec gives: they are written through a procfs that the container has no part in
/// (CVE-2019-16884, CVE-2023-28642, CVE-2025-52881). `label` is that of SELinux.
pub(crate) fn plan(
    process: &Process,
    modules: SecurityModules,
    label: Option<CString>,
    steps: &mut Steps,
) -> Result<(), FieldError> {
    if let Some(profile) = filled(process.apparmor_profile()) {
        let field = "process.apparmorProfile";
        if !modules.apparmor {
            return Err(FieldError::new(field, "this host has no AppArmor"));
        }
        let value = c_string(field, format!("exec {profile}").as_ref())?;
        push(field, c"thread-self/attr/apparmor/exec".into(), value, steps);
    }
    if let Some(value) = label {
        push(PROCESS_LABEL, c"thread-self/attr/exec".into(), value, steps);
    }
    Ok(())
}

/// `process.selinuxLabel`, which is that of the process's keys, too.
pub(crate) fn of_process(process: &Process, modules: SecurityModules) -> Result<Option<CString>, FieldError> {
    of_selinux(PROCESS_LABEL, process.selinux_label(), modules)
}

fn of_selinux(field: &str, label: &Option<String>, modules: SecurityModules) -> Result<Option<CString>, FieldError> {
    let Some(label) = filled(label) else {
        return Ok(None);
    };
    if !modules.selinux {
        return Err(FieldError::new(field, "this host has no SELinux"));
    }
    c_string(field, label.as_ref()).map(Some)
}

fn push(field: &str, file: CString, value: CString, steps: &mut Steps) {
    steps.push(field, InitStep::WriteLabel { file, value });
}

/// `linux.mountLabel`
pub(crate) fn of_mounts(linux: &Linux, modules: SecurityModules) -> Result<Option<CString>, FieldError> {
    of_selinux("linux.mountLabel", linux.mount_label(), modules)
}

/// What of a filesystem the container's label is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Labelled {
    /// Every file, by an option of its mount: its files have no labels of their own.
    Files,
    /// The directory at its root: it was mounted before, by the kernel itself, and takes no option.
    Root,
    /// The kernel labels what it shows of itself.
    Nothing,
}

impl Labelled {
    /// Of a filesystem of this kind.
    pub(crate) fn of(kind: &str) -> Self {
        match kind {
            "proc" | "sysfs" | "cgroup" | "cgroup2" => Self::Nothing,
            "mqueue" => Self::Root,
            _ => Self::Files,
        }
    }
}
