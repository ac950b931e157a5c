//! From an OCI spec to the list of steps that the child performs. Pure: nothing is opened or asked here, so that the
//! whole of it is tested without root. [`crate::prepare`] opens what the steps name.

use std::ffi::{CString, OsStr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Linux, LinuxNamespaceType};

use crate::container::{Manner, Rootfs};
use crate::field::namespaces::Namespaces;
use crate::field::net_devices::{self, NetDevice};
use crate::field::process::Affinity;
use crate::field::rootfs::Propagation;
use crate::field::seccomp::Listener;
use crate::field::user::{self, IdMappings};
use crate::field::{
    devices, honoured, labels, mounts, paths, process, program, rlimits, rootfs, scheduling, seccomp, sysctl, time,
};
use crate::guard::Guard;
use crate::mapping;
use crate::privileges::Privileges;
use crate::security::SecurityModules;
use crate::spec::{Process, Spec};
use crate::step::{Groups, InitStep, NamespaceFile, Planned};
use crate::sys::capability::Mask;
use crate::sys::exec::StringArray;
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
    /// Existing namespaces that another process enters first, to make this one there.
    pub(crate) door: Vec<NamespaceFile>,
    /// Maps of the new user namespace, for the parent to write.
    pub(crate) mappings: Option<IdMappings>,
    /// The CPUs to be born on.
    pub(crate) affinity: Option<Vec<u64>>,
    /// Who decides about some of its system calls.
    pub(crate) listener: Option<Listener>,
    /// Hard limits that are asked for, by their number: the parent may be allowed to raise them where the child is not.
    pub(crate) hard_limits: Vec<(i32, u64)>,
    pub(crate) steps: Vec<Planned>,
    /// Devices for the parent to move into the network namespace.
    pub(crate) net_devices: Vec<NetDevice>,
    /// The network namespace, if it is there already.
    pub(crate) network: Option<PathBuf>,
    /// For the parent to write, who can say what it could not.
    pub(crate) oom_score_adj: Option<i32>,
    /// What was asked for and can't be given, one sentence each.
    pub(crate) unenforced: Vec<String>,
}

impl InitPlan {
    pub(crate) fn is_in_user_namespace(&self) -> bool {
        let kinds = self.door.iter().fold(self.namespaces, |kinds, file| kinds | file.kind);
        kinds & libc::CLONE_NEWUSER != 0
    }

    /// Whether the process waits for no word but the one to start, of all that are said while it is being made.
    pub(crate) fn hears_nothing_else(&self) -> bool {
        let waits = |planned: &Planned| matches!(planned.step, InitStep::WaitForHooks);
        self.listener.is_none() && !self.steps.iter().any(waits)
    }

    /// Who the process's user is outside of its new user namespace.
    pub(crate) fn owner_outside(&self) -> Option<u32> {
        let mappings = self.mappings.as_ref()?;
        let user = self.steps.iter().find_map(|planned| planned.step.user())?;
        user::outside(&mappings.uids, user)
    }
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
    /// The capabilities that there are to give.
    pub(crate) available: Mask,
    pub(crate) manner: Manner,
    pub(crate) privileges: Privileges,
    pub(crate) modules: SecurityModules,
    /// Whether its user namespace lets it change its supplementary groups; for a new one the plan knows itself.
    pub(crate) groups: Groups,
}

impl InitPlan {
    /// Has the program called with these arguments, the name that it is called by among them.
    pub(crate) fn call_with(&mut self, arguments: &[String]) -> Result<(), FieldError> {
        let strings = arguments.iter().map(|text| c_string("hooks", text.as_ref()));
        let strings = StringArray::new(strings.collect::<Result<_, _>>()?);
        if let Some(InitStep::Execute(program)) = self.steps.last_mut().map(|planned| &mut planned.step) {
            program.arguments = strings;
        }
        Ok(())
    }
}

/// What the caller has for standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// Three files of its own; the step that uses them is put in by the caller, who owns them.
    None,
    /// A new terminal, of this size if the spec does not say, which leaves the ends of lines alone or not.
    New {
        size: Option<WindowSize>,
        plain_lines: bool,
    },
}

#[cfg(test)]
impl Terminal {
    /// One of no particular size.
    pub(crate) const NEW: Self = Self::New {
        size: None,
        plain_lines: false,
    };
}

/// How many steps an ordinary container takes: a longer list grows.
const ORDINARY: usize = 96;

/// The list of steps while it grows.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    list: Vec<Planned>,
    /// Where in the list the host's mounts are left.
    root_at: usize,
    late: Vec<Planned>,
}

impl Steps {
    /// An empty list with room for those of an ordinary container.
    fn new() -> Self {
        Self {
            list: Vec::with_capacity(ORDINARY),
            ..Self::default()
        }
    }

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

    /// What is pushed from here on comes after what is taken from the host.
    fn leave_host(&mut self) {
        self.root_at = self.list.len();
    }

    /// Adds a step to be performed as the last one that sees the host's mounts.
    pub(crate) fn push_early(&mut self, field: &str, step: InitStep) {
        let planned = Planned {
            field: field.into(),
            step,
        };
        self.list.insert(self.root_at, planned);
        self.root_at += 1;
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
    let nothing = Process::nothing();
    let process = match spec.process() {
        Some(process) => with_arguments(process)?,
        // Only a start needs one.
        None => &nothing,
    };
    let linux = required(spec.linux().as_ref(), "linux")?;
    let namespaces = Namespaces::of(linux.namespaces().as_deref().unwrap_or_default())?;
    let propagation = Propagation::of(spec)?;
    let mappings = user::of(
        &namespaces,
        linux.uid_mappings().as_deref(),
        linux.gid_mappings().as_deref(),
    )?;
    let is_mapped = namespaces.is_new(libc::CLONE_NEWUSER);
    let mut process_facts = facts.process;
    if is_mapped {
        process_facts.groups = groups(mapping::lets_set_groups(&mappings, process_facts.privileges));
    }
    process_facts.groups = asked_groups(spec, process_facts.groups);
    let mut steps = Steps::new();

    // Both while others may still write to its /proc entry, and the first while nobody else is in its user namespace.
    time::plan(linux.time_offsets().as_ref(), &namespaces, &mut steps)?;
    if is_mapped {
        steps.push("linux.uidMappings", InitStep::AwaitMappings);
    }
    begin(
        process_facts.manner,
        keeps_others_out(&namespaces, process_facts.privileges),
        labels::of_process(process, process_facts.modules)?,
        &mut steps,
    );
    enter_user_namespace(&namespaces, process_facts.groups, &mut steps);
    let has_sysctl = linux.sysctl().as_ref().is_some_and(|values| !values.is_empty());
    if has_sysctl || labels::has_any(process) {
        steps.push("process", InitStep::OpenProc);
    }
    namespaces.steps(&mut steps);
    host_names(spec, &namespaces, &mut steps)?;
    // Mounts are still those of the host, whose later ones a part of them may be to show.
    steps.leave_host();
    if namespaces.has_own_mounts() {
        steps.push("linux.namespaces", InitStep::MakeMountsPrivate);
    }
    if linux.masked_paths().as_ref().is_some_and(|paths| !paths.is_empty()) {
        steps.push("linux.maskedPaths", InitStep::OpenHostNull);
    }
    let change = rootfs::Change::of(spec, process_facts.manner, &namespaces);
    let rootfs = match &facts.rootfs {
        Rootfs::Directory(directory) => Some(directory.clone()),
        Rootfs::Overlay { .. } => None,
    };
    rootfs::plan(facts.rootfs, propagation, change, process_facts.privileges, &mut steps)?;
    let label = labels::of_mounts(linux, process_facts.modules)?;
    let around = mounts::Surroundings {
        bundle: facts.bundle,
        rootfs,
        namespaces: &namespaces,
        cgroup: facts.cgroup,
        propagation: propagation.during_setup,
        devices: devices::of(linux.devices().as_deref().unwrap_or_default())?,
        privileges: process_facts.privileges,
        mappings: &mappings,
        label: label.as_deref(),
    };
    let unenforced = mounts::plan(spec.mounts().as_deref().unwrap_or_default(), &around, &mut steps)?;
    if let Some(values) = linux.sysctl() {
        sysctl::plan(values, &namespaces, &mut steps)?;
    }
    terminal(process, facts.process.terminal, &mut steps)?;
    if facts.process.terminal != Terminal::None {
        steps.push("process.terminal", InitStep::BindConsole);
    }
    steps.push("process.cwd", InitStep::MakeDirectory(process::cwd(process)?));
    paths::plan(linux, label.as_ref(), &mut steps)?;
    steps.add_late();
    change.after_hooks(&mut steps);
    rootfs::finish(spec.root().as_ref(), propagation, &mut steps);
    let mut plan = finish(process, process_facts, linux, Affinity::Reset, steps)?;
    plan.door = namespaces.through_door();
    plan.net_devices = net_devices::of(linux, &namespaces)?;
    plan.network = namespaces.joined_network().cloned();
    plan.mappings = is_mapped.then_some(mappings);
    plan.unenforced.splice(0..0, unenforced);
    plan.unenforced
        .extend(linux.seccomp().as_ref().and_then(seccomp::unasked_listener));
    Ok(plan)
}

/// Plans one more process of a running container. `init` is for the child to enter the container by, and `root` is
/// where that has its root; the parent sets the pid namespace.
pub(crate) fn exec(
    spec: &Spec,
    process: &Process,
    (init, root): (OwnedFd, Option<OwnedFd>),
    mut facts: ProcessFacts,
) -> Result<InitPlan, FieldError> {
    let linux = required(spec.linux().as_ref(), "linux")?;
    let namespaces = Namespaces::of(linux.namespaces().as_deref().unwrap_or_default())?;
    facts.groups = asked_groups(spec, facts.groups);
    let mut steps = Steps::default();
    let label = labels::of_process(process, facts.modules)?;
    begin(facts.manner, true, label, &mut steps);
    let door = door_of(&init, &namespaces)?;
    if labels::has_any(process) {
        steps.push("process", InitStep::OpenProc);
    }
    join_container(init, &namespaces, &mut steps);
    enter_user_namespace(&namespaces, facts.groups, &mut steps);
    if namespaces.has_own_mounts() {
        steps.push("linux.namespaces", InitStep::OpenRoot);
    } else {
        let root = root.ok_or_else(|| FieldError::new("root", "the container's process has ended"))?;
        steps.push("root", InitStep::EnterRoot(root));
    }
    terminal(process, facts.terminal, &mut steps)?;
    let [initial, last] = scheduling::affinity(process.exec_cpu_affinity().as_ref())?;
    let affinity = last.map_or(Affinity::Reset, Affinity::Last);
    let mut plan = finish(with_arguments(process)?, facts, linux, affinity, steps)?;
    plan.affinity = initial;
    if Guard::FilteredExec.is_out() {
        plan.steps
            .retain(|planned| !matches!(planned.step, InitStep::InstallSeccomp(_)));
    }
    plan.namespaces = 0;
    plan.pid_namespace = None;
    plan.door = door;
    Ok(plan)
}

/// Plans a hook: as the runtime itself is, or in the namespaces of a container's process; in a directory if one is given.
pub(crate) fn hook(
    hook: &Hook,
    environment: &[String],
    container: Option<(&Spec, BorrowedFd<'_>)>,
    directory: Option<OwnedFd>,
) -> Result<InitPlan, FieldError> {
    let mut steps = Steps::default();
    let mut door = Vec::new();
    if container.is_some() && !Guard::UndumpableJoin.is_out() {
        steps.push("hooks", InitStep::BecomeUndumpable);
    }
    steps.push("hooks", InitStep::ResetSignals);
    steps.push("hooks", InitStep::NewSession);
    if let Some((spec, init)) = container {
        let linux = required(spec.linux().as_ref(), "linux")?;
        let namespaces = Namespaces::of(linux.namespaces().as_deref().unwrap_or_default())?;
        let process = init.try_clone_to_owned();
        let process = process.map_err(|error| FieldError::new("hooks", format!("duplicate a pidfd: {error}")))?;
        door = door_of(&process, &namespaces)?;
        join_container(process, &namespaces, &mut steps);
        enter_user_namespace(&namespaces, Groups::Kept, &mut steps);
    }
    if let Some(directory) = directory {
        steps.push("hooks", InitStep::StartIn(directory));
    }
    steps.push("hooks", InitStep::CloseDescriptors { preserved: 0 });
    steps.push("hooks", InitStep::WaitForStart { gate: None });
    steps.push("hooks", InitStep::Execute(program::of_hook(hook, environment)?));
    Ok(InitPlan {
        namespaces: 0,
        pid_namespace: None,
        door,
        mappings: None,
        affinity: None,
        listener: None,
        hard_limits: Vec::new(),
        steps: steps.list,
        net_devices: Vec::new(),
        network: None,
        oom_score_adj: None,
        unenforced: Vec::new(),
    })
}

/// Whether the container of `spec` has a pid namespace apart from the host's.
pub(crate) fn has_pid_namespace(spec: &Spec) -> bool {
    has_namespace(spec, LinuxNamespaceType::Pid)
}

/// Whether the container of `spec` has a namespace of this kind apart from the host's.
pub(crate) fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let linux = spec.linux().as_ref();
    let list = linux
        .and_then(|linux| linux.namespaces().as_deref())
        .unwrap_or_default();
    list.iter().any(|namespace| namespace.typ() == kind)
}

/// Whether nobody but the container of `spec` sees its mounts.
pub(crate) fn has_own_mounts(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref());
    Namespaces::of(namespaces.unwrap_or_default()).is_ok_and(|namespaces| namespaces.has_own_mounts())
}

pub(crate) fn groups(may_be_set: bool) -> Groups {
    if may_be_set { Groups::Set } else { Groups::Kept }
}

/// crun's, for [`asked_groups`].
pub(crate) const GROUPS_ANNOTATION: &str = "run.oci.keep_original_groups";

/// crun's annotation, which `podman run --group-add keep-groups` sets: files that are given to a group of the user's outside
/// stay theirs inside. Nobody can name such a group in a user namespace that does not have it.
fn asked_groups(spec: &Spec, groups: Groups) -> Groups {
    let annotations = spec.annotations().as_ref();
    let asked = annotations.and_then(|annotations| annotations.get(GROUPS_ANNOTATION));
    match asked.map(String::as_str) {
        None | Some("0") => groups,
        Some(_) => Groups::Makers,
    }
}

/// What is entered before a process can be made in the container of `init`.
fn door_of(init: &OwnedFd, namespaces: &Namespaces) -> Result<Vec<NamespaceFile>, FieldError> {
    let kind = namespaces.entered_by_maker();
    if kind == 0 {
        return Ok(Vec::new());
    }
    let file = init.try_clone();
    let file = file.map_err(|error| FieldError::new("linux.namespaces", error.to_string()))?;
    Ok(vec![NamespaceFile {
        path: "of the container's process".into(),
        kind,
        file: Some(file),
    }])
}

fn join_container(process: OwnedFd, namespaces: &Namespaces, steps: &mut Steps) {
    let step = match namespaces.to_enter() {
        0 => return,
        _ if namespaces.has(libc::CLONE_NEWUSER) => InitStep::JoinContainerByFiles {
            process,
            files: namespaces.files_to_enter(),
        },
        namespaces => InitStep::JoinContainer { process, namespaces },
    };
    steps.push("linux.namespaces", step);
}

/// In a user namespace this process has every right, but it is still the user outside that made it.
fn enter_user_namespace(namespaces: &Namespaces, groups: Groups, steps: &mut Steps) {
    if namespaces.has(libc::CLONE_NEWUSER) {
        steps.push("linux.namespaces", InitStep::BecomeNamespaceRoot { groups });
    }
}

/// Whether a container's first process keeps others out of its /proc entry: there may be some in its namespaces. Where it
/// is the first in all of them and root in its user namespace alone, nobody else could enter them by it either, not even
/// who made it.
fn keeps_others_out(namespaces: &Namespaces, privileges: Privileges) -> bool {
    privileges.mounts || !namespaces.is_new(libc::CLONE_NEWUSER) || namespaces.joins_any()
}

fn begin(manner: Manner, keeps_others_out: bool, label: Option<CString>, steps: &mut Steps) {
    if keeps_others_out && !Guard::UndumpableJoin.is_out() {
        steps.push("process", InitStep::BecomeUndumpable);
    }
    steps.push("process", InitStep::ResetSignals);
    steps.push("process", InitStep::NewSession);
    if !manner.keeps_keyring {
        let field = label.as_ref().map_or("process", |_| labels::PROCESS_LABEL);
        steps.push(field, InitStep::NewSessionKeyring { label });
    }
}

fn finish(
    process: &Process,
    facts: ProcessFacts,
    linux: &Linux,
    affinity: Affinity,
    mut steps: Steps,
) -> Result<InitPlan, FieldError> {
    honoured::check_process(process)?;
    let namespaces = Namespaces::of(linux.namespaces().as_deref().unwrap_or_default())?;
    let around = process::Surroundings {
        available: facts.available,
        manner: facts.manner,
        has_streams: facts.terminal == Terminal::None,
        linux,
        modules: facts.modules,
        affinity,
        groups: facts.groups,
    };
    let unenforced = process::plan(process, &around, &mut steps)?;
    Ok(InitPlan {
        namespaces: namespaces.to_clone(),
        pid_namespace: namespaces.joined_pid_namespace().cloned(),
        door: Vec::new(),
        mappings: None,
        affinity: None,
        listener: linux.seccomp().as_ref().map_or(Ok(None), seccomp::listener)?,
        hard_limits: rlimits::hard(process.rlimits().as_deref().unwrap_or_default()),
        steps: steps.list,
        net_devices: Vec::new(),
        network: None,
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
        (true, Terminal::New { size, plain_lines }) => {
            let size = process::console_size(process)?.or(size);
            steps.push(
                "process.terminal",
                InitStep::OpenTerminal {
                    size,
                    owner: process.user().uid(),
                    plain_lines,
                },
            );
            Ok(())
        }
        (true, Terminal::None) => Err(FieldError::new(
            "process.terminal",
            "is true, but three streams were given",
        )),
        (false, Terminal::New { .. }) => Err(FieldError::new(
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

/// Refuses a configuration without a process: a container can be created of it, and that is all.
pub(crate) fn to_start(spec: &Spec) -> Result<(), FieldError> {
    match spec.process() {
        Some(_) => Ok(()),
        None => Err(FieldError::new("process", "is missing: there is nothing to start")),
    }
}

/// A process that is there has something to run.
fn with_arguments(process: &Process) -> Result<&Process, FieldError> {
    required(process.args().as_ref(), "process.args").map(|_| process)
}

fn required<'a, T>(part: Option<&'a T>, field: &str) -> Result<&'a T, FieldError> {
    part.ok_or_else(|| FieldError::new(field, "is missing"))
}

#[cfg(test)]
mod tests;
