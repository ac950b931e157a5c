//! `process`: who the program runs as and with what; the same for a container's first process and for exec.

use std::path::Path;

use nix::unistd::Gid;
use oci_spec::runtime::{Linux, LinuxSeccomp};

use super::{capabilities::Granted, labels, program, rlimits, scheduling, seccomp};
use crate::container::Manner;
use crate::container_path::ContainerPath;
use crate::plan::{FieldError, Steps};
use crate::security::SecurityModules;
use crate::spec::Process;
use crate::step::{Groups, Identity, InitStep, Program, SeccompFilter};
use crate::sys::capability::Mask;
use crate::sys::pty::WindowSize;

/// The CPUs that a program is to have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Affinity {
    /// Every one that its cgroup has.
    Reset,
    /// These, from the last steps on.
    Last(Vec<u64>),
}

/// What a process is planned from, besides itself.
pub(crate) struct Surroundings<'a> {
    /// The capabilities that there are to give.
    pub(crate) available: Mask,
    pub(crate) manner: Manner,
    /// Its streams are the caller's, not a terminal of its own.
    pub(crate) has_streams: bool,
    /// The container's part of the spec.
    pub(crate) linux: &'a Linux,
    pub(crate) modules: SecurityModules,
    /// The CPUs to go on with.
    pub(crate) affinity: Affinity,
    pub(crate) groups: Groups,
}

/// Plans everything from the rlimits to the exec, if there is something to execute. Returns what can't be given, one sentence each.
pub(crate) fn plan(process: &Process, around: &Surroundings<'_>, steps: &mut Steps) -> Result<Vec<String>, FieldError> {
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    let mut filter = filter(around.linux.seccomp().as_ref())?;
    rlimits::plan(process.rlimits().as_deref().unwrap_or_default(), steps)?;
    if around.affinity == Affinity::Reset {
        // Before the scheduler, whose deadlines take all CPUs.
        steps.push("process", InitStep::ResetAffinity);
    }
    scheduling::plan(process, around.linux, steps)?;
    if let Affinity::Last(cpus) = &around.affinity {
        steps.push("process.execCPUAffinity.final", InitStep::SetAffinity(cpus.clone()));
    }
    let label = labels::of_process(process, around.modules)?;
    labels::plan(process, around.modules, label.clone(), steps)?;
    if around.has_streams {
        let owner = process.user().uid();
        steps.push("process.user", InitStep::OwnStreams { owner });
    }
    steps.push("process.cwd", InitStep::ChangeDirectory(cwd(process)?));
    // Without no_new_privs a filter takes a capability that the next steps give up; with it the filter comes last, and
    // has to allow hardly more than the program does.
    let program = process.args().as_ref().map(|_| program(process)).transpose()?;
    let program = program.map(|program| Program { label, ..program });
    let find = program.as_ref().map(|program| InitStep::FindProgram {
        name: program.name(),
        candidates: program.candidates.clone(),
    });
    let mut find = find.filter(|_| !around.manner.finds_program_late);
    let preserved = around.manner.preserved_fds;
    let mut close = Some(InitStep::CloseDescriptors { preserved });
    if let Some(filter) = filter.take_if(|_| !no_new_privileges) {
        // The filter need not allow what looking and closing take: close_range(2) is younger than many profiles.
        steps.extend("process.args", find.take());
        steps.extend("process", close.take());
        steps.push("linux.seccomp", InitStep::InstallSeccomp(filter));
    }
    let unenforced = give_privileges_up(process, around, steps)?;
    steps.extend("process.args", find);
    if no_new_privileges {
        steps.push("process.noNewPrivileges", InitStep::SetNoNewPrivileges);
    }
    if around.manner.dies_with_parent {
        // After the user is set: a change of credentials forgets it (prctl(2), PR_SET_PDEATHSIG).
        steps.push("process", InitStep::DieWithParent);
    }
    if let Some(filter) = filter.take_if(|filter| filter.listens) {
        // While somebody is there to hand the listener over: not only when the container is started.
        steps.push("linux.seccomp", InitStep::InstallSeccomp(filter));
    }
    steps.extend("process", close);
    steps.push("process", InitStep::WaitForStart { gate: None });
    if let Some(filter) = filter {
        steps.push("linux.seccomp", InitStep::InstallSeccomp(filter));
    }
    steps.extend("process.args", program.map(InitStep::Execute));
    Ok(unenforced)
}

fn filter(profile: Option<&LinuxSeccomp>) -> Result<Option<SeccompFilter>, FieldError> {
    profile.map(seccomp::plan).transpose()
}

/// The bounding set goes while there is the capability to change it, then the user, then the rest of the capabilities.
fn give_privileges_up(
    process: &Process,
    around: &Surroundings<'_>,
    steps: &mut Steps,
) -> Result<Vec<String>, FieldError> {
    let user = process.user();
    let granted = Granted::of(process.capabilities().as_ref(), around.available);
    let additional_gids: Vec<_> = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    if around.groups == Groups::Kept && !additional_gids.is_empty() {
        return Err(FieldError::new(
            "process.user.additionalGids",
            "the user namespace does not let anybody set groups; that takes gidMappings through newgidmap(1)",
        ));
    }
    let identity = Identity {
        uid: user.uid(),
        gid: user.gid(),
        additional_gids,
        groups: around.groups,
    };
    steps.push("process.capabilities", InitStep::LimitBoundingSet(granted.bounding));
    steps.push("process.user", InitStep::SetUser(identity));
    steps.push("process.capabilities", InitStep::SetCapabilities(granted.sets));
    steps.push("process.user.umask", InitStep::SetUmask(umask(user.umask())?));
    Ok(granted.unenforced)
}

fn program(process: &Process) -> Result<Program, FieldError> {
    let arguments = process.args().as_deref().unwrap_or_default();
    let environment = process.env().as_deref().unwrap_or_default();
    program::of(arguments, environment, process.user().uid())
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
