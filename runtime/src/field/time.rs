//! `linux.timeOffsets`: how far the clocks of a new time namespace are from the host's.

use std::collections::HashMap;
use std::ffi::CString;

use oci_spec::runtime::LinuxTimeOffset;

use super::namespaces::Namespaces;
use crate::plan::{FieldError, Steps, c_string};
use crate::step::InitStep;

/// A thousand million nanoseconds make a second.
const SECOND: u32 = 1_000_000_000;

/// Plans a new time namespace. A process can't be born in one whose clocks are still to be set, so it makes its own.
pub(crate) fn plan(
    offsets: Option<&HashMap<String, LinuxTimeOffset>>,
    namespaces: &Namespaces,
    steps: &mut Steps,
) -> Result<(), FieldError> {
    let mut sorted: Vec<_> = offsets.into_iter().flatten().collect();
    sorted.sort_by_key(|(clock, _)| *clock);
    if !namespaces.is_new(libc::CLONE_NEWTIME) {
        return match sorted.first() {
            None => Ok(()),
            Some(_) => Err(FieldError::new("linux.timeOffsets", "needs a new time namespace")),
        };
    }
    let lines = sorted.into_iter().map(|(clock, offset)| line(clock, offset));
    let offsets = lines.collect::<Result<String, _>>()?;
    let offsets: CString = c_string("linux.timeOffsets", offsets.as_ref())?;
    steps.push("linux.namespaces", InitStep::NewTimeNamespace { offsets });
    Ok(())
}

/// As `/proc/PID/timens_offsets` takes it (time_namespaces(7)).
fn line(clock: &str, offset: &LinuxTimeOffset) -> Result<String, FieldError> {
    let field = format!("linux.timeOffsets.{clock}");
    let nanoseconds = offset.nanosecs().unwrap_or(0);
    if !matches!(clock, "monotonic" | "boottime") {
        return Err(FieldError::new(
            field,
            "is not a clock that has an offset: monotonic, boottime",
        ));
    }
    if nanoseconds >= SECOND {
        return Err(FieldError::new(format!("{field}.nanosecs"), "is a second or more"));
    }
    Ok(format!("{clock} {} {nanoseconds}\n", offset.secs().unwrap_or(0)))
}
