//! From an OCI spec to the list of steps that the child performs. Pure: nothing is opened or asked here, so that the
//! whole of it is tested without root. [`crate::prepare`] opens what the steps name.

use std::ffi::{CString, OsStr};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Linux, Process, Spec};

use crate::container::{Manner, Rootfs};
use crate::field::namespaces::Namespaces;
use crate::field::rootfs::Propagation;
use crate::field::{devices, honoured, mounts, paths, process, program, rootfs, sysctl};
use crate::guard::Guard;
use crate::step::{InitStep, Planned};
use crate::sys::capability::Mask;
use crate::sys::pty::WindowSize;

/// A field of the spec that is not honoured, or that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FieldError {
    /// Path of the field as the OCI specification writes it, for example `linux.namespaces[2].path`.
    pub field: String,
    /// What is wrong with it, or why it is not honoured.
    pub reason: String,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

/// Text for the kernel; `field` is named if it holds a null byte.
pub(crate) fn c_string(field: &str, text: &OsStr) -> Result<CString, FieldError> {
    CString::new(text.as_bytes()).map_err(|_| FieldError::new(field, "holds a null byte"))
}

/// Everything that happens between clone and exec.
#[derive(Debug)]
pub(crate) struct InitPlan {
    /// New namespaces, `CLONE_NEW*`.
    pub(crate) namespaces: libc::c_int,
    /// An existing pid namespace to be born in.
    pub(crate) pid_namespace: Option<PathBuf>,
    pub(crate) steps: Vec<Planned>,
    /// For the parent to write, who can say what it could not.
    pub(crate) oom_score_adj: Option<i32>,
    /// What was asked for and can't be given, one sentence each.
    pub(crate) unenforced: Vec<String>,
}

/// What a plan is made from, besides the spec.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) bundle: &'a Path,
    pub(crate) rootfs: Rootfs,
    pub(crate) cgroup: Option<&'a Path>,
    pub(crate) process: ProcessFacts,
}

/// What a process is planned from, besides its spec.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessFacts {
    pub(crate) terminal: Terminal,
    pub(crate) available: Mask,
    pub(crate) manner: Manner,
}

/// What the caller has for standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// Three files of its own; the step that uses them is put in by the caller, who owns them.
    None,
    /// A new terminal, of this size if the spec does not say.
    New(Option<WindowSize>),
}

/// The list of steps while it grows.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    list: Vec<Planned>,
    late: Vec<Planned>,
}

impl Steps {
    pub(crate) fn push(&mut self, field: &str, step: InitStep) {
        self.list.push(Planned {
            field: field.into(),
            step,
        });
    }

    /// Adds a step if there is one.
    pub(crate) fn extend(&mut self, field: &str, step: Option<InitStep>) {
        if let Some(step) = step {
            self.push(field, step);
        }
    }

    /// Adds a step to be performed when every mount is in place.
    pub(crate) fn push_late(&mut self, field: &str, step: InitStep) {
        self.late.push(Planned {
            field: field.into(),
            step,
        });
    }

    fn add_late(&mut self) {
        self.list.append(&mut self.late);
    }
}

/// Plans a new container.
pub(crate) fn container(spec: &Spec, facts: Facts<'_>) -> Result<InitPlan, FieldError> {
    honoured::check(spec)?;
    crate::container::hook::check(spec)?;
    let process = required(spec.process().as_ref(), "process")?;
    let linux = required(spec.linux().as_ref(), "linux")?;
    let namespaces = Namespaces::of(linux.namespaces().as_deref().unwrap_or_default())?;
    let propagation = Propagation::of(spec)?;
    let mut steps = Steps::default();

    begin(facts.process.manner, &mut steps);
    namespaces.steps(&mut steps);
    host_names(spec, &namespaces, &mut steps)?;
    steps.push("linux.namespaces", InitStep::MakeMountsPrivate);
    if linux.masked_paths().as_ref().is_some_and(|paths| !paths.is_empty()) {
        steps.push("linux.maskedPaths", InitStep::OpenHostNull);
    }
    let change = rootfs::Change::of(spec, facts.process.manner);
    rootfs::plan(facts.rootfs, propagation, change, &mut steps)?;
    let around = mounts::Surroundings {
        bundle: facts.bundle,
        namespaces: &namespaces,
        cgroup: facts.cgroup,
        propagation: propagation.during_setup,
        devices: devices::of(linux.devices().as_deref().unwrap_or_default())?,
    };
    mounts::plan(spec.mounts().as_deref().unwrap_or_default(), &around, &mut steps)?;
    if let Some(values) = linux.sysctl() {
        sysctl::plan(values, &namespaces, &mut steps)?;
    }
    terminal(process, facts.process.terminal, &mut steps)?;
    if facts.process.terminal != Terminal::None {
        steps.push("process.terminal", InitStep::BindConsole);
    }
    steps.push("process.cwd", InitStep::MakeDirectory(process::cwd(process)?));
    paths::plan(linux, &mut steps)?;
    steps.add_late();
    change.after_hooks(&mut steps);
    rootfs::finish(spec.root().as_ref(), propagation, &mut steps)?;
    finish(process, facts.process, linux, steps)
}

/// Plans one more process of a running container. `init` is for the child to enter the container by; the parent sets
/// the pid namespace.
pub(crate) fn exec(
    spec: &Spec,
    process: &Process,
    init: std::os::fd::OwnedFd,
    facts: ProcessFacts,
) -> Result<InitPlan, FieldError> {
    let linux = required(spec.linux().as_ref(), "linux")?;
    let namespaces = Namespaces::of(linux.namespaces().as_deref().unwrap_or_default())?;
    let mut steps = Steps::default();
    begin(facts.manner, &mut steps);
    steps.push(
        "linux.namespaces",
        InitStep::JoinContainer {
            process: init,
            namespaces: namespaces.to_enter(),
        },
    );
    steps.push("linux.namespaces", InitStep::OpenRoot);
    terminal(process, facts.terminal, &mut steps)?;
    let mut plan = finish(process, facts, linux, steps)?;
    if Guard::FilteredExec.is_out() {
        plan.steps
            .retain(|planned| !matches!(planned.step, InitStep::InstallSeccomp(_)));
    }
    plan.namespaces = 0;
    plan.pid_namespace = None;
    Ok(plan)
}

/// Plans a hook: as the runtime itself is, or in the namespaces of a container's process.
pub(crate) fn hook(
    hook: &Hook,
    environment: &[String],
    container: Option<(&Spec, BorrowedFd<'_>)>,
) -> Result<InitPlan, FieldError> {
    let mut steps = Steps::default();
    steps.push("hooks", InitStep::ResetSignals);
    steps.push("hooks", InitStep::NewSession);
    if let Some((spec, init)) = container {
        let linux = required(spec.linux().as_ref(), "linux")?;
        let namespaces = Namespaces::of(linux.namespaces().as_deref().unwrap_or_default())?;
        let process = init.try_clone_to_owned();
        let process = process.map_err(|error| FieldError::new("hooks", format!("duplicate a pidfd: {error}")))?;
        let namespaces = namespaces.to_enter();
        steps.push("linux.namespaces", InitStep::JoinContainer { process, namespaces });
    }
    steps.push("hooks", InitStep::CloseDescriptors { preserved: 0 });
    steps.push("hooks", InitStep::WaitForStart { gate: None });
    steps.push("hooks", InitStep::Execute(program::of_hook(hook, environment)?));
    Ok(InitPlan {
        namespaces: 0,
        pid_namespace: None,
        steps: steps.list,
        oom_score_adj: None,
        unenforced: Vec::new(),
    })
}

/// Whether the container of `spec` has a pid namespace apart from the host's.
pub(crate) fn has_pid_namespace(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let list = linux
        .and_then(|linux| linux.namespaces().as_deref())
        .unwrap_or_default();
    list.iter()
        .any(|namespace| namespace.typ() == oci_spec::runtime::LinuxNamespaceType::Pid)
}

fn begin(manner: Manner, steps: &mut Steps) {
    steps.push("process", InitStep::BecomeUndumpable);
    steps.push("process", InitStep::ResetSignals);
    steps.push("process", InitStep::NewSession);
    if !manner.keeps_keyring {
        steps.push("process", InitStep::NewSessionKeyring);
    }
}

fn finish(process: &Process, facts: ProcessFacts, linux: &Linux, mut steps: Steps) -> Result<InitPlan, FieldError> {
    honoured::check_process(process)?;
    let namespaces = Namespaces::of(linux.namespaces().as_deref().unwrap_or_default())?;
    let around = process::Surroundings {
        available: facts.available,
        manner: facts.manner,
        has_streams: facts.terminal == Terminal::None,
        seccomp: linux.seccomp().as_ref(),
    };
    let unenforced = process::plan(process, &around, &mut steps)?;
    Ok(InitPlan {
        namespaces: namespaces.to_clone(),
        pid_namespace: namespaces.joined_pid_namespace().cloned(),
        steps: steps.list,
        oom_score_adj: oom_score_adj(process)?,
        unenforced,
    })
}

fn host_names(spec: &Spec, namespaces: &Namespaces, steps: &mut Steps) -> Result<(), FieldError> {
    let own = namespaces.has(libc::CLONE_NEWUTS);
    let mut set = |field: &str, name: &Option<String>, step: fn(CString) -> InitStep| {
        let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(());
        };
        if !own {
            return Err(FieldError::new(
                field,
                "needs a uts namespace; it would change the host's",
            ));
        }
        steps.push(field, step(c_string(field, name.as_ref())?));
        Ok(())
    };
    set("hostname", spec.hostname(), InitStep::SetHostname)?;
    set("domainname", spec.domainname(), InitStep::SetDomainname)
}

fn terminal(process: &Process, terminal: Terminal, steps: &mut Steps) -> Result<(), FieldError> {
    match (process.terminal().unwrap_or(false), terminal) {
        (false, Terminal::None) => Ok(()),
        (true, Terminal::New(size)) => {
            let size = process::console_size(process)?.or(size);
            steps.push(
                "process.terminal",
                InitStep::OpenTerminal {
                    size,
                    owner: process.user().uid(),
                },
            );
            Ok(())
        }
        (true, Terminal::None) => Err(FieldError::new(
            "process.terminal",
            "is true, but three streams were given",
        )),
        (false, Terminal::New(_)) => Err(FieldError::new(
            "process.terminal",
            "is false, but a terminal was asked for",
        )),
    }
}

fn oom_score_adj(process: &Process) -> Result<Option<i32>, FieldError> {
    match process.oom_score_adj() {
        Some(value) if !(-1000..=1000).contains(&value) => {
            Err(FieldError::new("process.oomScoreAdj", "is not between -1000 and 1000"))
        }
        value => Ok(value),
    }
}

fn required<'a, T>(part: Option<&'a T>, field: &str) -> Result<&'a T, FieldError> {
    part.ok_or_else(|| FieldError::new(field, "is missing"))
}

#[cfg(test)]
mod tests;
