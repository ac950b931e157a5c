//! The child between clone and exec: performs the steps of a plan, one after the other, and nothing else.
//!
//! Nothing here allocates, logs, panics or returns. A debug build aborts when it does allocate
//! ([`crate::sys::allocator`]). Whatever fails is reported by number and errno; the parent has the words.

mod filesystem;
pub(crate) mod inside;
mod process;
mod terminal;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};

use crate::report::Report;
use crate::step::{InitStep, Planned};
use crate::sys::clone::exit_now;
use crate::sys::fd::{close_from, close_inherited, dup3_cloexec, fixed};

/// Number of the channel's descriptor once all others are closed.
const CHANNEL: RawFd = 3;

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
}

/// A mount that hides others. The kernel copies only mounts that are mounted somewhere: the first use mounts it.
struct Mask {
    mount: OwnedFd,
    is_used: bool,
}

/// Performs `steps`. `channel` leads to the parent; `parents_end` is the other end of it, which is not ours to keep
/// open: its last copy closed is how a child learns that its parent has gone.
pub(crate) fn run(steps: &[Planned], channel: BorrowedFd<'_>, parents_end: BorrowedFd<'_>) {
    close_inherited(parents_end);
    umask(Mode::empty());
    let mut init = Init {
        channel,
        root: None,
        null: None,
        empty: None,
        proc: None,
        terminal: None,
    };
    for (index, planned) in steps.iter().enumerate() {
        if let Err(errno) = init.perform(&planned.step) {
            let step = u32::try_from(index).unwrap_or(u32::MAX);
            let _ = process::send(init.channel, Report::Failed { step, errno });
            exit_now(FAILED);
        }
    }
}

impl Init<'_> {
    fn perform(&mut self, step: &InitStep) -> nix::Result<()> {
        match step {
            InitStep::BecomeUndumpable => nix::sys::prctl::set_dumpable(false),
            InitStep::ResetSignals => crate::sys::signal::reset_signals(),
            InitStep::NewSession => nix::unistd::setsid().map(drop),
            InitStep::NewSessionKeyring => process::new_session_keyring(),
            InitStep::UseStreams(streams) => process::use_streams(streams),
            InitStep::JoinNamespace(namespace) => process::join(namespace),
            InitStep::JoinContainer { process, namespaces } => {
                crate::sys::namespace::setns(process.as_fd(), *namespaces)
            }
            InitStep::NewCgroupNamespace => crate::sys::namespace::unshare(libc::CLONE_NEWCGROUP),
            InitStep::BringLoopbackUp => crate::sys::namespace::bring_loopback_up(),
            InitStep::SetHostname(name) => crate::sys::namespace::sethostname(name),
            InitStep::SetDomainname(name) => crate::sys::namespace::setdomainname(name),
            InitStep::MakeMountsPrivate => filesystem::make_mounts_private(),
            InitStep::OpenHostNull => self.open_host_null(),
            InitStep::MountRoot(root) => filesystem::mount_root(root),
            InitStep::PivotRoot => self.pivot_root(),
            InitStep::OpenRoot => self.open_root(),
            InitStep::Mount(mount) => self.mount(mount),
            InitStep::Bind(bind) => self.bind(bind),
            InitStep::MakeDevice(device) => self.make_device(device),
            InitStep::MakeSymlink { link, target } => self.make_symlink(link, target),
            InitStep::MakeDirectory(path) => inside::make_directory(self.root()?, path.prefixes()).map(drop),
            InitStep::OpenTerminal { size, owner } => self.open_terminal(*size, *owner),
            InitStep::BindConsole => self.bind_console(),
            InitStep::WriteSysctl { file, value, .. } => self.write_sysctl(file, value),
            InitStep::MaskPath(path) => self.mask(path),
            InitStep::MakeReadonly(path) => self.make_readonly(path),
            InitStep::SetMountAttributes { path, attributes } => self.set_mount_attributes(path, *attributes),
            InitStep::SetRlimit {
                resource, soft, hard, ..
            } => crate::sys::rlimit::setrlimit(*resource, *soft, *hard),
            InitStep::OwnStreams { owner } => process::own_streams(*owner),
            InitStep::InstallSeccomp(filter) => crate::sys::seccomp::set_mode_filter(&filter.program, filter.flags),
            InitStep::SetNoNewPrivileges => nix::sys::prctl::set_no_new_privs(),
            InitStep::LimitBoundingSet(keep) => crate::sys::capability::limit_bounding_set(*keep),
            InitStep::SetUser(identity) => process::set_user(identity),
            InitStep::SetCapabilities(sets) => process::set_capabilities(*sets),
            InitStep::SetUmask(mask) => process::set_umask(*mask),
            InitStep::ChangeDirectory(path) => self.change_directory(path),
            InitStep::DieWithParent => nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL),
            InitStep::CloseDescriptors => self.close_descriptors(),
            InitStep::WaitForStart => process::wait_for_start(self.channel),
            InitStep::Execute(program) => Err(process::execute(program)),
        }
    }

    fn root(&self) -> nix::Result<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd).ok_or(Errno::EBADF)
    }

    /// Puts the channel at [`CHANNEL`] and closes everything above, the plan's own descriptors too.
    fn close_descriptors(&mut self) -> nix::Result<()> {
        if self.channel.as_raw_fd() != CHANNEL {
            dup3_cloexec(self.channel, CHANNEL)?;
        }
        self.channel = fixed(CHANNEL);
        close_from(CHANNEL + 1)
    }
}
