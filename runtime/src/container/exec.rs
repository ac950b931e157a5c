//! `exec`: one more process in a running container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use oci_spec::runtime::LinuxNamespaceType;

use super::error::{CreateError, ExecError, host};
use super::launch::{Launch, launch, streams};
use super::{Created, Manner, Running, SingleThreaded, Stdio, Who, kill};
use crate::cgroup::Cgroup;
use crate::cgroup::systemd::Unit;
use crate::field::{labels, scheduling};
use crate::plan::{self, ProcessFacts};
use crate::privileges::{Privileges, lets_set_groups};
use crate::security::SecurityModules;
use crate::spec::{Process, Spec};
use crate::sys::pidfd::pid_of;

/// The running container that a process is added to.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its init.
    pub pidfd: BorrowedFd<'a>,
    /// Its cgroup; the new process is born in it.
    pub cgroup: Option<&'a Path>,
    /// The systemd unit that the cgroup belongs to: it brings a process there where we may not.
    pub unit: Option<Unit<'a>>,
    /// Where that cgroup takes no process any more, because the container manages cgroups itself, the new one goes to its
    /// init's.
    pub follows_init: bool,
    /// The directories of its groups of the resctrl filesystem.
    pub groups: &'a [PathBuf],
    /// What it was created from: namespaces and seccomp profile are taken from here, everything else from the process.
    pub spec: &'a Spec,
    /// Its name, for a seccomp profile with a listener.
    pub who: Option<Who<'a>>,
}

/// Adds `process` to a running container and starts it.
///
/// Capabilities, rlimits, user, cwd, environment and `noNewPrivileges` come from `process` alone. Its cwd must exist.
pub fn exec(
    token: &SingleThreaded,
    target: Target<'_>,
    process: &Process,
    stdio: Stdio,
    manner: Manner,
) -> Result<Running, ExecError> {
    let manner = Manner {
        starts_at_once: true,
        ..manner
    };
    Ok(create_exec(token, target, (process, None), stdio, manner)?.start()?)
}

/// As [`exec()`], up to the start. A program that is called otherwise than by its name comes with its whole arguments.
pub(super) fn create_exec(
    token: &SingleThreaded,
    target: Target<'_>,
    (process, called): (&Process, Option<&[String]>),
    stdio: Stdio,
    manner: Manner,
) -> Result<Created, CreateError> {
    let (streams, terminal) = streams(stdio)?;
    let privileges = Privileges::look();
    let facts = ProcessFacts {
        terminal,
        available: Privileges::available(plan::has_namespace(target.spec, LinuxNamespaceType::User)),
        manner,
        privileges,
        modules: SecurityModules::for_labels(labels::are_asked_for(None, Some(process))),
        groups: plan::groups(groups_may_be_set(target.pidfd)),
    };
    let init = target
        .pidfd
        .try_clone_to_owned()
        .map_err(|error| host("duplicate the container's pidfd", error))?;
    let root = if plan::has_own_mounts(target.spec) {
        None
    } else {
        root_of(target.pidfd)
    };
    let mut plan = plan::exec(target.spec, process, (init, root), facts)?;
    if let Some(arguments) = called {
        plan.call_with(arguments)?;
    }
    let cgroup = target
        .cgroup
        .map(Cgroup::at)
        .filter(|cgroup| privileges.mounts || cgroup.exists());
    let pid_namespace = plan::has_pid_namespace(target.spec).then_some(target.pidfd.as_fd());
    launch(
        token,
        Launch {
            plan,
            streams,
            cgroup: cgroup.as_ref(),
            confinement: None,
            unit: target.unit,
            companion: pid_of(target.pidfd).filter(|_| target.follows_init),
            pid_namespace,
            root: root_of(target.pidfd),
            who: target.who,
            groups: target.groups,
            hooks: None,
            starts_at_once: manner.starts_at_once,
            gate: None,
            privileges,
        },
    )
}

/// The CPUs that an added process is to be born on, as bits.
pub fn initial_cpus(process: &Process) -> Option<Vec<u64>> {
    scheduling::affinity(process.exec_cpu_affinity().as_ref())
        .ok()
        .and_then(|[initial, _]| initial)
}

fn groups_may_be_set(process: BorrowedFd<'_>) -> bool {
    pid_of(process).is_none_or(|pid| lets_set_groups(Path::new(&format!("/proc/{pid}/setgroups"))))
}

/// The root directory of a process, for looking its users up; none when it is just ending.
fn root_of(process: BorrowedFd<'_>) -> Option<OwnedFd> {
    let pid = pid_of(process)?;
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(format!("/proc/{pid}/root").as_str(), directory, Mode::empty()).ok()?;
    // Still there: so the number was its own all the time.
    kill(process, 0).ok().map(|()| root)
}
