//! `create`: a process with everything set up, which waits to be started.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::LinuxNamespaceType;

use super::error::{CreateError, host};
use super::hook::{self, Hooks};
use super::launch::{Launch, launch, streams};
use super::{CreateRequest, SingleThreaded, Who, own_cgroup};
use crate::cgroup::systemd::Unit;
use crate::cgroup::{Cgroup, DeviceRules, Limits};
use crate::field::labels;
use crate::guard::Guard;
use crate::plan::{self, Facts, FieldError, ProcessFacts};
use crate::privileges::Privileges;
use crate::security::SecurityModules;
use crate::spec::Spec;
use crate::step::Gate;
use crate::sys::stopwatch::{Lap, lap};

/// A container whose process has done all of its set-up and waits for [`Created::start`].
///
/// Dropping it ends the waiting process, which the owner of the pidfd has still to reap.
#[derive(Debug)]
pub struct Created {
    /// Process id of the container's init, as this process sees it.
    pub pid: u32,
    /// The same process; readable when it has ended.
    pub pidfd: OwnedFd,
    /// Master of the container's terminal.
    pub terminal: Option<OwnedFd>,
    /// What the spec asks for and this host can't enforce, one sentence each.
    pub unenforced: Vec<String>,
    /// Wakes the process; its end says that the exec succeeded.
    pub(super) channel: OwnedFd,
    /// Its process was told beforehand.
    pub(super) is_told: bool,
    /// What can still fail, for an error: number, action and field of each step from the one that waits for the start.
    pub(crate) steps: Vec<(u32, (String, String))>,
}

impl Created {
    /// What is left to do when the process goes on from where it waits, by the number of the step.
    pub(super) fn pending(&self) -> impl Iterator<Item = (u32, (String, String))> {
        self.steps.iter().skip(1).cloned()
    }
}

/// Creates a container from `request`. Its process waits for [`Created::start`].
///
/// It has no name that a hook could be told or a class be called by, nobody to run the later hooks, and it is made to be
/// started: a spec with hooks or `linux.intelRdt`, or without a process, is refused.
pub fn create(token: &SingleThreaded, request: CreateRequest<'_>) -> Result<Created, CreateError> {
    let linux = request.spec.linux().as_ref();
    let has_class = linux.is_some_and(|linux| linux.intel_rdt().is_some());
    for (field, is_there) in [("hooks", hook::has_any(request.spec)), ("linux.intelRdt", has_class)] {
        if is_there {
            return Err(FieldError::new(field, "is not supported for a container without a name").into());
        }
    }
    plan::to_start(request.spec)?;
    create_with(token, request, Company::default())
}

/// What a container with a name has besides.
#[derive(Default)]
pub(super) struct Company<'a> {
    /// Those that come before the start are run.
    pub(super) hooks: Option<&'a Hooks<'a>>,
    /// Where it can be left behind.
    pub(super) gate: Option<Gate>,
    /// The directories of its groups of the resctrl filesystem.
    pub(super) groups: &'a [PathBuf],
    /// The systemd unit that its cgroup is.
    pub(super) unit: Option<Unit<'a>>,
}

/// As [`create`], in `company`.
pub(super) fn create_with(
    token: &SingleThreaded,
    request: CreateRequest<'_>,
    company: Company<'_>,
) -> Result<Created, CreateError> {
    let Company {
        hooks,
        gate,
        groups,
        unit,
    } = company;
    lap(Lap::BEGUN);
    let (streams, terminal) = streams(request.stdio)?;
    let privileges = Privileges::look();
    let linux = request.spec.linux().as_ref();
    let has_user_namespace = plan::has_namespace(request.spec, LinuxNamespaceType::User);
    let cgroup = request.cgroup.map(Cgroup::at);
    let shown = cgroup
        .as_ref()
        .map(|cgroup| cgroup.path().to_owned())
        .or_else(own_cgroup::of_this_process);
    let who = hooks.map(|hooks| Who {
        id: hooks.id,
        bundle: hooks.bundle,
        spec: hooks.spec,
        init: None,
    });
    let facts = Facts {
        bundle: request.bundle,
        rootfs: request.rootfs,
        cgroup: shown.as_deref(),
        process: ProcessFacts {
            terminal,
            available: Privileges::available(has_user_namespace),
            manner: request.manner,
            privileges,
            modules: SecurityModules::for_labels(labels::are_asked_for(linux, request.spec.process().as_ref())),
            groups: plan::groups(privileges.sets_groups),
        },
    };
    let plan = plan::container(request.spec, facts)?;
    lap(Lap::PLANNED);
    let confinement = Confinement::of(request.spec)?;
    let pid_namespace = plan.pid_namespace.as_ref().map(File::open).transpose();
    let pid_namespace = pid_namespace.map_err(|error| host("open the pid namespace to join", error))?;
    let is_new = confinement.make(cgroup.as_ref())?;
    lap(Lap::CONFINED);
    let result = launch(
        token,
        Launch {
            plan,
            streams,
            cgroup: cgroup.as_ref(),
            confinement: Some(&confinement),
            unit,
            companion: None,
            pid_namespace: pid_namespace.as_ref().map(AsFd::as_fd),
            root: None,
            who,
            groups,
            hooks,
            starts_at_once: request.manner.starts_at_once,
            gate,
            privileges,
        },
    );
    if let (Err(_), Some(cgroup), true) = (&result, &cgroup, is_new) {
        // The error that is returned says more than that its cgroup could not be removed either.
        let _ = cgroup.remove();
    }
    result
}

/// Makes the cgroup of a container that this code does not make itself, and returns a sentence for each thing that it
/// can't enforce.
pub(super) fn confine(spec: &Spec, cgroup: Option<&Cgroup>) -> Result<Vec<String>, CreateError> {
    let confinement = Confinement::of(spec)?;
    confinement.make(cgroup)?;
    confinement.enforce(cgroup, Privileges::look())
}

/// The controllers that count what a container uses, limited or not.
const COUNTED: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// What a container's cgroup is to enforce.
pub(super) struct Confinement {
    limits: Limits,
    devices: DeviceRules,
}

impl Confinement {
    fn of(spec: &Spec) -> Result<Self, FieldError> {
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let devices = resources
            .and_then(|resources| resources.devices().as_deref())
            .unwrap_or_default();
        Ok(Self {
            limits: resources.map(Limits::of).transpose()?.unwrap_or_default(),
            devices: DeviceRules::of(devices)?,
        })
    }

    /// Makes the cgroup, and says whether it was not there before. One that stands still is refused: whoever waited for a
    /// process in it would wait for ever.
    fn make(&self, cgroup: Option<&Cgroup>) -> Result<bool, CreateError> {
        let Some(cgroup) = cgroup else { return Ok(false) };
        let controllers = self.limits.controllers().into_iter().chain(COUNTED);
        let is_new = cgroup.create(&controllers.collect::<Vec<_>>())?;
        if !cgroup.stands_still()? {
            return Ok(is_new);
        }
        if is_new {
            // The error says more than that it could not be removed either.
            let _ = cgroup.remove();
        }
        Err(CreateError::CgroupFrozen {
            cgroup: cgroup.path().to_owned(),
        })
    }

    /// Sets its limits and returns a sentence for each thing that it can't enforce.
    pub(super) fn enforce(&self, cgroup: Option<&Cgroup>, privileges: Privileges) -> Result<Vec<String>, CreateError> {
        let Some(cgroup) = cgroup else {
            let fields = self.limits.settings().iter().map(|limit| limit.field.as_str());
            let fields = fields.chain(["linux.resources.devices"]);
            return Ok(fields
                .map(|field| format!("{field}: there is no cgroup to enforce it"))
                .collect());
        };
        let mut unenforced = Vec::new();
        if !Guard::DeniedDevices.is_out() {
            match cgroup.allow_devices(&self.devices) {
                // It has none of the host's devices but those that are bound into it, and can make none.
                Err(error) if !privileges.devices && error.source.kind() == ErrorKind::PermissionDenied => {
                    let reason = "only root outside of every user namespace may say which a cgroup uses";
                    unenforced.push(format!("linux.resources.devices: {reason}"));
                }
                allowed => allowed?,
            }
        }
        unenforced.extend(cgroup.limit(&self.limits)?);
        Ok(unenforced)
    }
}
