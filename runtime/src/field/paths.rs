//! `linux.maskedPaths` and `linux.readonlyPaths`.

use std::ffi::CString;
use std::path::Path;

use oci_spec::runtime::Linux;

use crate::container_path::ContainerPath;
use crate::plan::{FieldError, Steps};
use crate::step::InitStep;

/// Plans the masks last: a read-only mount made on top of one would show again what it hides. `label` is that of the
/// container's mounts.
pub(crate) fn plan(linux: &Linux, label: Option<&CString>, steps: &mut Steps) -> Result<(), FieldError> {
    let (readonly, masked) = (linux.readonly_paths().as_deref(), linux.masked_paths().as_deref());
    each(
        "linux.readonlyPaths",
        readonly.unwrap_or_default(),
        InitStep::MakeReadonly,
        steps,
    )?;
    each(
        "linux.maskedPaths",
        masked.unwrap_or_default(),
        |path| InitStep::MaskPath {
            path,
            label: label.cloned(),
        },
        steps,
    )
}

fn each(
    name: &str,
    paths: &[String],
    step: impl Fn(ContainerPath) -> InitStep,
    steps: &mut Steps,
) -> Result<(), FieldError> {
    // A path that is listed twice is mounted over once.
    let first = |(index, path): &(usize, &String)| !paths[..*index].contains(path);
    for (index, path) in paths.iter().enumerate().filter(first) {
        let field = format!("{name}[{index}]");
        // The specification wants it absolute; the peers take one that is not from the root, and so it is hidden, not shown.
        let path = ContainerPath::new(&field, Path::new(path))?;
        if path.is_root() {
            return Err(FieldError::new(
                field,
                "the root itself can't be masked or made read-only here",
            ));
        }
        steps.push(&field, step(path));
    }
    Ok(())
}
