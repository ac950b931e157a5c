//! Carries a plan out: the clone, and the talk with the child until it waits for the start.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use nix::sys::stat::fstat;
use nix::unistd::{Uid, fchown};

use super::birth::Birth;
use super::create::Confinement;
use super::error::{CreateError, StepError, host};
use super::hook::{HookError, Hooks};
use super::{Created, Exit, SingleThreaded, Stdio, Who, kill, listener, net_device, own_cgroup};
use crate::cgroup::Cgroup;
use crate::cgroup::systemd::{Manager, Unit};
use crate::plan::{InitPlan, Terminal};
use crate::prepare::{Preparation, prepare_namespace};
use crate::privileges::Privileges;
use crate::report::{LENGTH, MAPPED, Report, START};
use crate::step::{Gate, InitStep, NamespaceFile, Planned};
use crate::sys::clone::Child;
use crate::sys::fd::duplicate_from;
use crate::sys::schedule::{affinity, set_affinity};
use crate::sys::socket;
use crate::sys::stopwatch::{Lap, lap, name_steps};
use crate::{init, mapping, resctrl};

/// Everything that a process is made from.
pub(super) struct Launch<'a> {
    pub(super) plan: InitPlan,
    pub(super) streams: Option<[OwnedFd; 3]>,
    /// Where the process is born.
    pub(super) cgroup: Option<&'a Cgroup>,
    /// What that one is to enforce, if that is not done yet.
    pub(super) confinement: Option<&'a Confinement>,
    /// The systemd unit that the cgroup belongs to.
    pub(super) unit: Option<Unit<'a>>,
    /// A process in whose cgroup it is born if that one takes none: it is gone, or has controllers for cgroups below it.
    pub(super) companion: Option<u32>,
    /// An existing pid namespace that it is born in (its file, or a pidfd of a process in it).
    pub(super) pid_namespace: Option<BorrowedFd<'a>>,
    /// The root of the running container that the process is added to.
    pub(super) root: Option<OwnedFd>,
    /// The directories of the groups of the resctrl filesystem that it is put into, one after the other.
    pub(super) groups: &'a [PathBuf],
    /// What to run when the process says that its hooks may run.
    pub(super) hooks: Option<&'a Hooks<'a>>,
    /// Its start follows at once.
    pub(super) starts_at_once: bool,
    /// Where it can be left behind.
    pub(super) gate: Option<Gate>,
    pub(super) privileges: Privileges,
    /// Whose process it is, if its container has a name.
    pub(super) who: Option<Who<'a>>,
}

/// Makes the process and lets it do its steps up to the one that waits for the start. When that fails, the process has
/// ended and been waited for; one whose usher was killed ends by itself.
pub(super) fn launch(token: &SingleThreaded, launch: Launch<'_>) -> Result<Created, CreateError> {
    let Launch {
        mut plan,
        streams,
        cgroup,
        confinement,
        unit,
        companion,
        pid_namespace,
        root,
        groups,
        hooks,
        starts_at_once,
        gate,
        privileges,
        who,
    } = launch;
    listener::check(plan.listener.as_ref(), who.as_ref())?;
    put_gate(&mut plan, gate);
    if let Some(streams) = streams {
        own_streams(&streams, &plan);
        plan.steps.insert(
            0,
            Planned {
                field: "process".into(),
                step: InitStep::UseStreams(streams),
            },
        );
    }
    let roots = root.into_iter().collect();
    let preparation = Preparation {
        token,
        privileges,
        roots,
    };
    preparation.prepare(&mut plan.steps)?;
    for namespace in &mut plan.door {
        let action = format!("open the namespace {}", namespace.path.display());
        prepare_namespace(namespace).map_err(|errno| host(&action, errno))?;
    }
    // Who may have to be brought to its cgroup is made by somebody else, who can't come back either.
    let may_be_brought = unit.is_some_and(|unit| unit.manager == Manager::User);
    let comes_back = privileges.come_back() && !may_be_brought;
    if let Some(namespace) = pid_namespace.filter(|_| plan.door.is_empty() && !comes_back) {
        plan.door.push(pid_door(namespace)?);
    }
    let companions = || companion.and_then(own_cgroup::of_process);
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|errno| host("make a channel to the container's process", errno))?;
    lap(Lap::PREPARED);
    let run = || init::run(&plan.steps, theirs.as_fd(), ours.as_fd());
    let before = plan.affinity.as_deref().map(move_to_cpus).transpose()?;
    let birth = Birth {
        door: &plan.door,
        namespaces: plan.namespaces,
        pid_namespace,
        unit,
    };
    let child = birth.give(token, cgroup, companions, run);
    let is_back = before.map_or(Ok(()), |before| set_affinity(&before));
    let child = child?;
    drop(theirs);
    // All of this while it does its first steps.
    let mut help = || {
        is_back.map_err(|errno| host("set this process's CPU affinity back", errno))?;
        give_devices(token, &plan, &child)?;
        give_maps(&child, &ours, &mut plan, privileges)?;
        give_groups(&child, groups)?;
        if let Some(confinement) = confinement {
            plan.unenforced.splice(0..0, confinement.enforce(cgroup, privileges)?);
        }
        let is_told = starts_at_once && plan.hears_nothing_else();
        if is_told {
            // To one that has just failed nothing can be said; what it has said is heard.
            let _ = say(ours.as_fd(), START);
        }
        name_steps(plan.steps.iter().map(|planned| planned.step.describe()));
        let steps = describe(&plan.steps);
        lap(Lap::HELPED);
        Ok((is_told, steps))
    };
    let (is_told, steps) = match help() {
        Ok(helped) => helped,
        Err(error) => {
            end(child.pidfd.as_fd());
            return Err(error);
        }
    };
    if is_told {
        wait_for_exec(&ours);
    }
    let mut run_hooks = |child: &Child| hooks.map_or(Ok(()), |hooks| hooks.before_root(token, child));
    match listen(&child, &ours, &plan, who.as_ref(), &mut run_hooks) {
        Ok(terminal) => {
            let Child { pid, pidfd } = child;
            Ok(Created {
                pid,
                pidfd,
                terminal,
                unenforced: plan.unenforced,
                channel: ours,
                is_told,
                steps,
            })
        }
        Err(error) => {
            end(child.pidfd.as_fd());
            Err(error)
        }
    }
}

/// The steps in words, with their numbers: those from the one that waits for the start, which alone can fail when the plan
/// is gone.
fn describe(steps: &[Planned]) -> Vec<(u32, (String, String))> {
    let waits = |(_, planned): &(u32, &Planned)| matches!(planned.step, InitStep::WaitForStart { .. });
    let steps = (0..).zip(steps).skip_while(|step| !waits(step));
    steps
        .map(|(number, planned)| (number, (planned.step.describe(), planned.field.clone())))
        .collect()
}

/// Sleeps until the process has executed its program or ended: it is told already, and to be woken for each of its words would
/// take time of both. They are heard afterwards.
fn wait_for_exec(channel: &OwnedFd) {
    // The end of the other end is told whatever is asked for (poll(2)). An interruption is only an early look.
    let _ = poll(
        &mut [PollFd::new(channel.as_fd(), PollFlags::empty())],
        PollTimeout::NONE,
    );
}

/// What a plan has to know of the streams; and the streams, with numbers that no standard stream has.
pub(super) fn streams(stdio: Stdio) -> Result<(Option<[OwnedFd; 3]>, Terminal), CreateError> {
    match stdio {
        Stdio::Streams { stdin, stdout, stderr } => Ok((
            Some([above_streams(stdin)?, above_streams(stdout)?, above_streams(stderr)?]),
            Terminal::None,
        )),
        Stdio::Terminal { size, plain_lines } => Ok((None, Terminal::New { size, plain_lines })),
    }
}

/// Moving a stream to 0, 1 or 2 must not hit one that is still to be moved.
fn above_streams(fd: OwnedFd) -> Result<OwnedFd, CreateError> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    duplicate_from(fd.as_fd(), 3).map_err(|errno| host("duplicate a standard stream", errno))
}

/// Who can't send its next children home again has somebody else go to a pid namespace for it.
fn pid_door(namespace: BorrowedFd<'_>) -> Result<NamespaceFile, CreateError> {
    let file = namespace.try_clone_to_owned();
    Ok(NamespaceFile {
        path: "of the container's process".into(),
        kind: libc::CLONE_NEWPID,
        file: Some(file.map_err(|error| host("duplicate the pid namespace", error))?),
    })
}

/// Moves the devices while the process does its first steps; it has its network namespace by birth or will join it.
fn give_devices(token: &SingleThreaded, plan: &InitPlan, child: &Child) -> Result<(), CreateError> {
    if plan.net_devices.is_empty() {
        return Ok(());
    }
    let born = || format!("/proc/{}/ns/net", child.pid).into();
    let path = plan.network.clone().unwrap_or_else(born);
    let namespace = fs::File::open(&path);
    let namespace =
        namespace.map_err(|error| host(&format!("open the network namespace {}", path.display()), error))?;
    net_device::give(token, &plan.net_devices, &namespace)
}

fn put_gate(plan: &mut InitPlan, ours: Option<Gate>) {
    let Some(ours) = ours else { return };
    for planned in &mut plan.steps {
        if let InitStep::WaitForStart { gate } = &mut planned.step {
            *gate = Some(ours);
            return;
        }
    }
}

/// Puts the process into its class before it executes anything; its children will be in it, too.
fn give_groups(child: &Child, groups: &[PathBuf]) -> Result<(), CreateError> {
    groups.iter().try_for_each(|group| {
        let action = || format!("put the process into the resctrl group {}", group.display());
        resctrl::join(group, child.pid).map_err(|error| host(&action(), error))
    })
}

/// Writes what only a process outside can: who its users are, and what it may not set itself.
fn give_maps(child: &Child, channel: &OwnedFd, plan: &mut InitPlan, privileges: Privileges) -> Result<(), CreateError> {
    if let Some(value) = plan.oom_score_adj {
        plan.unenforced.extend(set_oom_score_adj(child.pid, value)?);
    }
    if plan.is_in_user_namespace() {
        raise_hard_limits(child.pid, &plan.hard_limits);
    }
    if let Some(mappings) = &plan.mappings {
        mapping::write(child.pid, mappings, privileges).map_err(|error| host(&error.action, error.source))?;
        send(channel.as_raw_fd(), &[MAPPED], MsgFlags::MSG_NOSIGNAL)
            .map_err(|errno| host("go on with the container", errno))?;
    }
    Ok(())
}

/// Listens until the child is ready. Returns the master of its terminal, if it has made one.
fn listen(
    child: &Child,
    channel: &OwnedFd,
    plan: &InitPlan,
    who: Option<&Who<'_>>,
    run_hooks: &mut dyn FnMut(&Child) -> Result<(), HookError>,
) -> Result<Option<OwnedFd>, CreateError> {
    let mut terminal = None;
    loop {
        let (report, mut passed) = receive(channel.as_fd()).map_err(|error| host("hear from the container", error))?;
        match report {
            Some(Report::Ready) => {
                lap(Lap::READY);
                return Ok(terminal);
            }
            Some(Report::Terminal) => terminal = passed.pop(),
            Some(Report::Hooks) => {
                run_hooks(child)?;
                say(channel.as_fd(), START).map_err(|errno| host("let the container go on after its hooks", errno))?;
            }
            Some(Report::Listener { number }) => {
                let (listener, who) = plan.listener.as_ref().zip(who).ok_or(CreateError::Died)?;
                listener::hand_over(child, number, listener, who)?;
                say(channel.as_fd(), START).map_err(|errno| host("let the process go on with its filter", errno))?;
            }
            Some(Report::Born) => return Err(CreateError::Died),
            Some(Report::Failed { step, errno }) => return Err(step_error(plan, step, errno).into()),
            None => return Err(CreateError::Died),
        }
    }
}

/// One word to a child that waits.
pub(super) fn say(channel: BorrowedFd<'_>, word: u8) -> nix::Result<()> {
    send(channel.as_raw_fd(), &[word], MsgFlags::MSG_NOSIGNAL).map(drop)
}

/// The next report of a child; none at the end of the stream.
pub(super) fn receive(channel: BorrowedFd<'_>) -> io::Result<(Option<Report>, Vec<OwnedFd>)> {
    let (mut bytes, mut passed) = ([0; LENGTH], Vec::new());
    let length = loop {
        match socket::receive(channel, &mut bytes, &mut passed, true) {
            // It has ended with a word unheard, which the kernel says once, before what it has said itself.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionReset
                ) => {}
            result => break result?,
        }
    };
    match (length, Report::decode(&bytes)) {
        (0, _) => Ok((None, passed)),
        (LENGTH, Some(report)) => Ok((Some(report), passed)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not a report")),
    }
}

fn step_error(plan: &InitPlan, step: u32, errno: Errno) -> StepError {
    let planned = usize::try_from(step).ok().and_then(|step| plan.steps.get(step));
    let (action, field) = planned.map_or_else(
        || (format!("do step {step}"), "process".into()),
        |planned| (planned.step.describe(), planned.field.clone()),
    );
    let action = match planned.map(|planned| &planned.step) {
        Some(InitStep::Mount(mount)) if mount.refuse_links && matches!(errno, Errno::ELOOP | Errno::ENOTDIR) => {
            format!("{action}, which must be mounted on ordinary directory")
        }
        _ => action,
    };
    StepError {
        action,
        field,
        source: errno.into(),
    }
}

/// The next child is born on these CPUs. Returns those of before.
fn move_to_cpus(cpus: &[u64]) -> Result<Vec<u64>, CreateError> {
    let before = affinity().map_err(|errno| host("read this process's CPU affinity", errno))?;
    let action = "set the CPU affinity, for process.execCPUAffinity.initial";
    set_affinity(cpus).map_err(|errno| host(action, errno))?;
    Ok(before)
}

/// In a user namespace nobody may raise a limit, but perhaps we may. Where not, the step that sets it tells.
fn raise_hard_limits(pid: u32, limits: &[(i32, u64)]) {
    for (resource, hard) in limits {
        let _ = crate::sys::rlimit::raise_hard_limit(pid, *resource, *hard);
    }
}

/// The user of a new user namespace may reopen the pipes that its streams are: inside nobody could see to that. Only
/// pipes: what else a caller passes is not ours to give away.
fn own_streams(streams: &[OwnedFd; 3], plan: &InitPlan) {
    let Some(owner) = plan.owner_outside() else { return };
    for stream in streams {
        if fstat(stream).is_ok_and(|status| status.st_mode & libc::S_IFMT == libc::S_IFIFO) {
            let _ = fchown(stream, Some(Uid::from_raw(owner)), None);
        }
    }
}

/// Lowering it takes CAP_SYS_RESOURCE, which not every host gives its agent.
fn set_oom_score_adj(pid: u32, value: i32) -> Result<Option<String>, CreateError> {
    match fs::write(format!("/proc/{pid}/oom_score_adj"), value.to_string()) {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Some(format!(
            "process.oomScoreAdj: {value} needs CAP_SYS_RESOURCE, which this process does not hold"
        ))),
        Err(error) => Err(host("set the container's oom_score_adj", error)),
    }
}

/// Ends and reaps a process that is of no use. It may have ended by itself.
pub(super) fn end(process: BorrowedFd<'_>) {
    let _ = kill(process, libc::SIGKILL);
    let _ = Exit::wait(process);
}
