//! `process.apparmorProfile`, `process.selinuxLabel` and `linux.mountLabel`.

use std::ffi::CString;

use oci_spec::runtime::Linux;

use crate::plan::{FieldError, Steps, c_string};
use crate::security::SecurityModules;
use crate::spec::Process;
use crate::step::InitStep;

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
/// (CVE-2019-16884, CVE-2023-28642, CVE-2025-52881).
pub(crate) fn plan(process: &Process, modules: SecurityModules, steps: &mut Steps) -> Result<(), FieldError> {
    if let Some(profile) = filled(process.apparmor_profile()) {
        let field = "process.apparmorProfile";
        if !modules.apparmor {
            return Err(FieldError::new(field, "this host has no AppArmor"));
        }
        let value = c_string(field, format!("exec {profile}").as_ref())?;
        push(field, c"thread-self/attr/apparmor/exec".into(), value, steps);
    }
    if let Some(label) = filled(process.selinux_label()) {
        let field = "process.selinuxLabel";
        if !modules.selinux {
            return Err(FieldError::new(field, "this host has no SELinux"));
        }
        let value = c_string(field, label.as_ref())?;
        push(field, c"thread-self/attr/exec".into(), value, steps);
    }
    Ok(())
}

fn push(field: &str, file: CString, value: CString, steps: &mut Steps) {
    steps.push(field, InitStep::WriteLabel { file, value });
}

/// `linux.mountLabel`, for a filesystem of this kind: an option of the mount, where the files have no labels of their
/// own. The kernel labels what it shows of itself.
pub(crate) fn mount_option(
    label: Option<&str>,
    kind: &str,
    modules: SecurityModules,
) -> Result<Option<CString>, FieldError> {
    let field = "linux.mountLabel";
    let Some(label) = label.filter(|label| !label.is_empty()) else {
        return Ok(None);
    };
    if !modules.selinux {
        return Err(FieldError::new(field, "this host has no SELinux"));
    }
    match kind {
        "proc" | "sysfs" | "cgroup" | "cgroup2" | "mqueue" => Ok(None),
        _ => c_string(field, label.as_ref()).map(Some),
    }
}

fn filled(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}
