//! The child between clone and exec: performs the steps of a plan, one after the other, and nothing else.
//!
//! Nothing here allocates, logs, panics or returns. A debug build aborts when it does allocate
//! ([`crate::sys::allocator`]). Whatever fails is reported by number and errno; the parent has the words.

mod copy;
mod dangling;
mod filesystem;
pub(crate) mod inside;
mod process;
mod terminal;

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
pub(crate) use process::send;

use crate::guard::Guard;
use crate::report::{LEAVE, Report, START};
use crate::step::{Gate, InitStep, Planned};
use crate::sys::clone::exit_now;
use crate::sys::fd::{close_from, close_inherited, dup3_cloexec, duplicate_from, fixed};
use crate::sys::stopwatch::{Lap, lap};
use crate::sys::{schedule, signal};

/// Number of the channel's descriptor once all others are closed, if the program inherits none but its streams.
const CHANNEL: RawFd = 3;

/// As many as a kernel can be built for.
const EVERY_CPU: [u64; 128] = [u64::MAX; 128];

/// Exit code of a child that has reported why it failed.
const FAILED: i32 = 127;

/// What the steps leave for each other. Descriptors stay open until the exec or until all are closed.
struct Init<'a> {
    channel: BorrowedFd<'a>,
    /// The container's root.
    root: Option<OwnedFd>,
    /// A mount of the host's /dev/null, to copy for masking files once it is mounted over the first.
    null: Option<Mask>,
    /// The same with an empty read-only directory.
    empty: Option<Mask>,
    /// A procfs that is mounted nowhere.
    proc: Option<OwnedFd>,
    /// The container's side of its terminal.
    terminal: Option<OwnedFd>,
    /// Where the last node or link was made: the next goes there as a rule. Any other step may change what is there.
    made_in: Option<(&'a CStr, OwnedFd)>,
    gate: Option<&'a Gate>,
    /// The gate's ends for starting and for reporting, once they are the only ones that are open.
    gate_ends: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
}

/// A mount that hides others. The kernel copies only mounts that are mounted somewhere: the first use mounts it.
struct Mask {
    mount: OwnedFd,
    is_used: bool,
}

/// Performs `steps`. `channel` leads to the parent; `parents_end` is the other end of it, which is not ours to keep
/// open: its last copy closed is how a child learns that its parent has gone.
pub(crate) fn run(steps: &[Planned], channel: BorrowedFd<'_>, parents_end: BorrowedFd<'_>) {
    lap(Lap::BORN);
    close_inherited(parents_end);
    umask(Mode::empty());
    if Guard::QuietChild.is_out() {
        drop(std::hint::black_box(Box::new(0)));
    }
    let mut init = Init {
        channel,
        root: None,
        null: None,
        empty: None,
        proc: None,
        terminal: None,
        made_in: None,
        gate: steps.iter().find_map(|planned| planned.step.gate()),
        gate_ends: None,
    };
    for (index, planned) in steps.iter().enumerate() {
        if let Err(errno) = init.perform(&planned.step) {
            let step = u32::try_from(index).unwrap_or(u32::MAX);
            let _ = send(init.channel, Report::Failed { step, errno });
            exit_now(FAILED);
        }
        lap(Lap::step(u32::try_from(index).unwrap_or(u32::MAX)));
    }
}

impl<'a> Init<'a> {
    fn perform(&mut self, step: &'a InitStep) -> nix::Result<()> {
        if !matches!(step, InitStep::MakeDevice(_) | InitStep::MakeSymlink { .. }) {
            self.made_in = None;
        }
        match step {
            InitStep::AwaitMappings => process::await_mappings(self.channel),
            InitStep::BecomeNamespaceRoot { groups } => process::become_namespace_root(*groups),
            InitStep::BecomeUndumpable => nix::sys::prctl::set_dumpable(false),
            InitStep::ResetSignals => self.reset_signals(),
            InitStep::NewSession => nix::unistd::setsid().map(drop),
            InitStep::NewSessionKeyring { label } => process::new_session_keyring(label.as_deref()),
            InitStep::UseStreams(streams) => process::use_streams(streams),
            InitStep::JoinNamespace(namespace) => process::join(namespace),
            InitStep::JoinContainer { process, namespaces } => {
                crate::sys::namespace::setns(process.as_fd(), *namespaces)
            }
            InitStep::JoinContainerByFiles { files, .. } => files.iter().try_for_each(process::join),
            InitStep::NewTimeNamespace { offsets } => process::new_time_namespace(offsets),
            InitStep::OpenProc => self.open_proc(),
            InitStep::NewCgroupNamespace => crate::sys::namespace::unshare(libc::CLONE_NEWCGROUP),
            InitStep::BringLoopbackUp => crate::sys::namespace::bring_loopback_up(),
            InitStep::SetHostname(name) => crate::sys::namespace::sethostname(name),
            InitStep::SetDomainname(name) => crate::sys::namespace::setdomainname(name),
            InitStep::MakeMountsPrivate => filesystem::make_mounts_private(),
            InitStep::OpenHostNull => self.open_host_null(),
            InitStep::TakeTree(tree) => tree.take(),
            InitStep::TakeSource(bind) => bind.tree.take(),
            InitStep::MakeMount(mount) => filesystem::make_mount(mount),
            InitStep::MountRoot(root) => filesystem::mount_root(root),
            InitStep::OpenNewRoot => self.open_new_root(),
            InitStep::WaitForHooks => process::wait_for_hooks(self.channel),
            InitStep::PivotRoot => self.pivot_root(),
            InitStep::MoveRoot { whole } => self.move_root(whole),
            InitStep::ChangeRoot => self.change_root(),
            InitStep::OpenRoot => self.open_root(),
            InitStep::EnterRoot(root) => self.enter_root(root),
            InitStep::Mount(mount) => self.mount(mount),
            InitStep::Bind(bind) => self.bind(bind),
            InitStep::MakeDevice(device) => self.make_device(device),
            InitStep::MakeSymlink { link, target } => self.make_symlink(link, target),
            InitStep::MakeDirectory(path) => inside::make_directory(self.root()?, path.prefixes()).map(drop),
            InitStep::OpenTerminal {
                size,
                owner,
                plain_lines,
            } => self.open_terminal(*size, *owner, *plain_lines),
            InitStep::BindConsole => self.bind_console(),
            InitStep::WriteSysctl { file, value, .. } => self.write_sysctl(file, value),
            InitStep::MaskPath { path, label } => self.mask(path, label.as_deref()),
            InitStep::MakeReadonly(path) => self.make_readonly(path),
            InitStep::SetMountAttributes {
                path,
                attributes,
                recursive,
            } => self.set_mount_attributes(path, *attributes, *recursive),
            InitStep::Reconfigure { path, options } => self.reconfigure(path, options),
            InitStep::SetRlimit {
                resource, soft, hard, ..
            } => crate::sys::rlimit::setrlimit(*resource, *soft, *hard),
            InitStep::SetPersonality(domain) => schedule::set_personality(*domain),
            InitStep::SetMemoryPolicy { mode, nodes } => schedule::set_memory_policy(*mode, nodes),
            InitStep::SetScheduler(attributes) => schedule::set_scheduler(attributes),
            InitStep::SetIoPriority(priority) => schedule::set_io_priority(*priority),
            InitStep::SetAffinity(cpus) => schedule::set_affinity(cpus),
            InitStep::ResetAffinity => {
                // The kernel takes what there is of them. Where it refuses, they stay as they are.
                let _ = schedule::set_affinity(&EVERY_CPU);
                Ok(())
            }
            InitStep::WriteLabel { file, value } => self.write_label(file, value),
            InitStep::OwnStreams { owner } => process::own_streams(*owner),
            InitStep::InstallSeccomp(filter) => process::install_filter(filter, self.channel),
            InitStep::SetNoNewPrivileges => nix::sys::prctl::set_no_new_privs(),
            InitStep::LimitBoundingSet(keep) => crate::sys::capability::limit_bounding_set(*keep),
            InitStep::SetUser(identity) => process::set_user(identity),
            InitStep::SetCapabilities(sets) => process::set_capabilities(*sets),
            InitStep::SetUmask(mask) => process::set_umask(*mask),
            InitStep::ChangeDirectory(path) => self.change_directory(path),
            InitStep::StartIn(directory) => nix::unistd::fchdir(directory),
            InitStep::DieWithParent => nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL),
            InitStep::FindProgram { candidates, .. } => process::find_program(candidates),
            InitStep::CloseDescriptors { preserved } => self.close_descriptors(*preserved),
            InitStep::WaitForStart { .. } => self.wait_for_start(),
            InitStep::Execute(program) => Err(process::execute(program)),
        }
    }

    /// One that may be left waiting at a gate ends when it is asked to: the first process of a pid namespace does not
    /// without a handler. Exec takes that away.
    fn reset_signals(&self) -> nix::Result<()> {
        signal::reset_signals()?;
        self.gate.map_or(Ok(()), |_| signal::end_when_asked())
    }

    fn root(&self) -> nix::Result<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd).ok_or(Errno::EBADF)
    }

    /// Puts the channel, and the gate's ends after it, right above what the program inherits, and closes everything
    /// beyond, the plan's own descriptors too. By way of higher numbers: one may be where another is to be.
    fn close_descriptors(&mut self, preserved: u32) -> nix::Result<()> {
        let first = CHANNEL + RawFd::try_from(preserved).map_err(|_| Errno::EBADF)?;
        let ends = [
            Some(self.channel),
            self.gate.map(|gate| gate.start.as_fd()),
            self.gate.map(|gate| gate.report.as_fd()),
        ];
        let mut copies = [None, None, None];
        for (copy, end) in copies.iter_mut().zip(ends) {
            *copy = end.map(|end| duplicate_from(end, first + 3)).transpose()?;
        }
        let mut number = first;
        for copy in copies.iter().flatten() {
            dup3_cloexec(copy.as_fd(), number)?;
            number += 1;
        }
        self.channel = fixed(first);
        self.gate_ends = self.gate.map(|_| (fixed(first + 1), fixed(first + 2)));
        if !Guard::ClosedDescriptors.is_out() {
            close_from(number)?;
        }
        // They are closed already, and what has their numbers next is not theirs to close.
        for copy in copies.into_iter().flatten() {
            let _ = copy.into_raw_fd();
        }
        Ok(())
    }

    fn wait_for_start(&mut self) -> nix::Result<()> {
        match process::wait_for_word(self.channel, Report::Ready)? {
            START => Ok(()),
            LEAVE => {
                let (start, report) = self.gate_ends.ok_or(Errno::EBADF)?;
                process::wait_at_gate(start)?;
                self.channel = report;
                Ok(())
            }
            _ => exit_now(FAILED),
        }
    }
}
