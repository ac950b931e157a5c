//! The fields that are not honoured: each is refused by its name, never ignored.
//!
//! Everything else of the specification is read by a file of this directory or by [`crate::cgroup`]. `annotations` are
//! for others to read, and `ociVersion` only has to be 1.

use crate::plan::FieldError;
use crate::spec::{Process, Spec};

/// Refuses what a container can't be given.
pub(crate) fn check(spec: &Spec) -> Result<(), FieldError> {
    if !spec.version().starts_with("1.") {
        return Err(FieldError::new(
            "ociVersion",
            format!("{:?} is not a version 1 of the specification", spec.version()),
        ));
    }
    refuse(&[
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
        ("uidMappings", spec.uid_mappings().is_some()),
        ("gidMappings", spec.gid_mappings().is_some()),
    ])
}

/// Refuses what a process can't be given.
pub(crate) fn check_process(process: &Process) -> Result<(), FieldError> {
    refuse(&[
        ("process.commandLine", process.command_line().is_some()),
        // The specification has a name only for Windows.
        ("process.user.username", is_filled(process.user().username().as_deref())),
    ])
}

fn refuse(fields: &[(&str, bool)]) -> Result<(), FieldError> {
    match fields.iter().find(|(_, is_set)| *is_set) {
        Some((field, _)) => Err(FieldError::new(*field, "is not supported")),
        None => Ok(()),
    }
}

fn is_filled(text: Option<&str>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}
