//! `process`: who the program runs as and with what; the same for a container's first process and for exec.

use std::path::Path;

use oci_spec::runtime::Process;

use super::{capabilities::Granted, program, rlimits};
use crate::container_path::ContainerPath;
use crate::plan::{FieldError, Steps};
use crate::step::{Identity, InitStep};
use crate::sys::capability::Mask;
use crate::sys::pty::WindowSize;

/// What a process is planned from, besides itself.
pub(crate) struct Surroundings {
    /// The capabilities that there are to give.
    pub(crate) available: Mask,
    pub(crate) dies_with_parent: bool,
    /// Its streams are the caller's, not a terminal of its own.
    pub(crate) has_streams: bool,
}

/// Plans everything from the rlimits to the exec. Returns what can't be given, one sentence each.
pub(crate) fn plan(process: &Process, around: &Surroundings, steps: &mut Steps) -> Result<Vec<String>, FieldError> {
    let user = process.user();
    let granted = Granted::of(process.capabilities().as_ref(), around.available);
    rlimits::plan(process.rlimits().as_deref().unwrap_or_default(), steps)?;
    if around.has_streams {
        steps.push("process.user", InitStep::OwnStreams { owner: user.uid() });
    }
    steps.push("process.cwd", InitStep::ChangeDirectory(cwd(process)?));
    steps.push("process.capabilities", InitStep::LimitBoundingSet(granted.bounding));
    let additional_gids = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|gid| nix::unistd::Gid::from_raw(*gid))
        .collect();
    steps.push(
        "process.user",
        InitStep::SetUser(Identity {
            uid: user.uid(),
            gid: user.gid(),
            additional_gids,
        }),
    );
    steps.push("process.capabilities", InitStep::SetCapabilities(granted.sets));
    steps.push("process.user.umask", InitStep::SetUmask(umask(user.umask())?));
    if process.no_new_privileges().unwrap_or(false) {
        steps.push("process.noNewPrivileges", InitStep::SetNoNewPrivileges);
    }
    if around.dies_with_parent {
        // After the user is set: a change of credentials forgets it (prctl(2), PR_SET_PDEATHSIG).
        steps.push("process", InitStep::DieWithParent);
    }
    steps.push("process", InitStep::CloseDescriptors);
    steps.push("process", InitStep::WaitForStart);
    let arguments = process.args().as_deref().unwrap_or_default();
    let environment = process.env().as_deref().unwrap_or_default();
    steps.push(
        "process.args",
        InitStep::Execute(program::of(arguments, environment, user.uid())?),
    );
    Ok(granted.unenforced)
}

/// The working directory.
pub(crate) fn cwd(process: &Process) -> Result<ContainerPath, FieldError> {
    if !process.cwd().is_absolute() {
        return Err(FieldError::new("process.cwd", "must be an absolute path"));
    }
    ContainerPath::new("process.cwd", Path::new(process.cwd()))
}

/// The size of the terminal that the spec asks for.
pub(crate) fn console_size(process: &Process) -> Result<Option<WindowSize>, FieldError> {
    let Some(size) = process.console_size() else {
        return Ok(None);
    };
    let short = |value: u64| {
        u16::try_from(value).map_err(|_| FieldError::new("process.consoleSize", "is more than 65535 characters"))
    };
    Ok(Some(WindowSize {
        rows: short(size.height())?,
        columns: short(size.width())?,
    }))
}

/// Without one in the spec the usual 022, not whatever this process was started with.
fn umask(asked: Option<u32>) -> Result<u32, FieldError> {
    match asked.unwrap_or(0o022) {
        mask @ 0..=0o777 => Ok(mask),
        _ => Err(FieldError::new("process.user.umask", "is more than 0777")),
    }
}
