//! The steps that turn a fresh process into a container's: a plain list, in the order they are performed.
//!
//! A step holds everything it needs: C strings, numbers, and descriptors that [`crate::prepare`] opens in the parent.
//! [`crate::init`] performs it in the child. [`InitStep::describe`] says afterwards, in the parent, what failed.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use crate::container_path::ContainerPath;
use crate::sys::capability::Mask;
use crate::sys::exec::StringArray;
use crate::sys::mount::Attributes;
use crate::sys::pty::WindowSize;
use crate::sys::schedule::SchedulerAttributes;
use crate::sys::seccomp::Instruction;
use crate::tree::Tree;

/// One thing to do, and the field of the spec that asked for it.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) field: String,
    pub(crate) step: InitStep,
}

/// One thing that the child does between clone and exec.
#[derive(Debug)]
pub(crate) enum InitStep {
    /// Wait until the parent has mapped the ids of the user namespace that this process was born in.
    AwaitMappings,
    /// Become user 0 of the user namespace.
    BecomeNamespaceRoot {
        groups: Groups,
    },
    /// Keep others out of this process's /proc entry while our own program is in it (CVE-2019-5736).
    BecomeUndumpable,
    /// Default signal handling, nothing blocked.
    ResetSignals,
    /// Leave the parent's session and terminal.
    NewSession,
    /// A session keyring of its own, where the kernel has keys at all: with the label that its program will have, without
    /// which SELinux keeps it from that.
    NewSessionKeyring {
        label: Option<CString>,
    },
    /// Descriptors 0, 1 and 2.
    UseStreams([OwnedFd; 3]),
    /// Enter one existing namespace.
    JoinNamespace(NamespaceFile),
    /// Enter the namespaces (`CLONE_NEW*`) of a running container's process.
    JoinContainer {
        process: OwnedFd,
        namespaces: libc::c_int,
    },
    /// The same one by one, by files below its /proc entry that the parent opens: from within its user namespace nobody
    /// may look at a process that keeps others out.
    JoinContainerByFiles {
        process: OwnedFd,
        files: Vec<NamespaceFile>,
    },
    /// A time namespace with its clocks set off from the host's by lines of `/proc/PID/timens_offsets`.
    NewTimeNamespace {
        offsets: CString,
    },
    /// Have a procfs at hand that the container has no part in.
    OpenProc,
    /// A cgroup namespace whose root is the cgroup that this process was born in; clone3 would take the parent's.
    NewCgroupNamespace,
    /// A new network namespace starts with its loopback device down.
    BringLoopbackUp,
    SetHostname(CString),
    SetDomainname(CString),
    /// Nothing mounted or unmounted from here on is seen by the host.
    MakeMountsPrivate,
    /// Keep the host's /dev/null at hand for masking files.
    OpenHostNull,
    /// Take a part of the host's filesystem while it is in sight, for the root later.
    TakeTree(Rc<Tree>),
    /// The same for a bind mount.
    TakeSource(Rc<BindMount>),
    /// Make a filesystem, while the host's are in sight: some the kernel makes only where another of their kind is
    /// (mount_namespaces(7)), and others are made of what the host has.
    MakeMount(Rc<NewMount>),
    /// Mount the root filesystem in this mount namespace.
    MountRoot(RootMount),
    /// Go on below the mounted root, which becomes the root later.
    OpenNewRoot,
    /// Say that the hooks may run which come before the root is changed, and wait for them.
    WaitForHooks,
    /// Make it the root and let go of the host's.
    PivotRoot,
    /// The same for hosts whose own root can't be pivoted away from: mount it over the host's root (`--no-pivot`).
    MoveRoot {
        /// Where the host has a whole procfs or sysfs; the parent looks.
        whole: Vec<CString>,
    },
    /// The same in a mount namespace with others in it, who keep theirs: for this process alone (chroot(2)).
    ChangeRoot,
    /// Take the root as it is, after joining a container.
    OpenRoot,
    /// Take the root that a container's process has, whose mount namespace has another.
    EnterRoot(OwnedFd),
    Mount(Rc<NewMount>),
    Bind(Rc<BindMount>),
    MakeDevice(Device),
    MakeSymlink {
        link: ContainerPath,
        target: CString,
    },
    MakeDirectory(ContainerPath),
    /// A pseudoterminal of the container's devpts becomes stdin, stdout, stderr and the controlling terminal; the
    /// master goes to the parent.
    OpenTerminal {
        size: Option<WindowSize>,
        owner: u32,
        /// It does not turn LF into CR LF.
        plain_lines: bool,
    },
    /// The terminal is /dev/console too.
    BindConsole,
    /// Write a file below /proc/sys through a procfs that only this process sees.
    WriteSysctl {
        name: String,
        file: CString,
        value: CString,
    },
    /// Hide a file behind /dev/null or a directory behind an empty one, if it is there.
    MaskPath {
        path: ContainerPath,
        /// What a directory in its place is labelled.
        label: Option<CString>,
    },
    /// Make a file or directory read-only, if it is there.
    MakeReadonly(ContainerPath),
    /// Change the mount that is at a path.
    SetMountAttributes {
        path: ContainerPath,
        attributes: Attributes,
        /// The mounts below it too.
        recursive: bool,
    },
    /// Give other options to the filesystem that is mounted at a path.
    Reconfigure {
        path: ContainerPath,
        options: Vec<(CString, Option<CString>)>,
    },
    SetRlimit {
        name: &'static str,
        resource: i32,
        soft: u64,
        hard: u64,
    },
    /// The execution domain (personality(2)).
    SetPersonality(u32),
    /// `MPOL_*` mode with flags, and the nodes as bits.
    SetMemoryPolicy {
        mode: u32,
        nodes: Vec<u64>,
    },
    SetScheduler(SchedulerAttributes),
    SetIoPriority(i32),
    /// The CPUs to run on, as bits.
    SetAffinity(Vec<u64>),
    /// Every CPU that its cgroup has, whatever those of its maker are: since Linux 6.2 a cgroup does not see to that.
    ResetAffinity,
    /// Write a security label for the next exec to a file of the procfs at hand.
    WriteLabel {
        file: CString,
        value: CString,
    },
    /// The user may reopen the pipes that its streams are, through /dev/stdout and the like.
    OwnStreams {
        owner: u32,
    },
    SetNoNewPrivileges,
    /// Filter system calls.
    InstallSeccomp(SeccompFilter),
    LimitBoundingSet(Mask),
    SetUser(Identity),
    SetCapabilities(CapabilitySets),
    SetUmask(u32),
    /// Inside the root, whatever links lead to; magic links of /proc lead nowhere (CVE-2024-21626).
    ChangeDirectory(ContainerPath),
    /// Have a directory that its maker chose for the working directory.
    StartIn(OwnedFd),
    /// Get SIGKILL when the parent ends.
    DieWithParent,
    /// Look for the program now, while whoever creates the container listens.
    FindProgram {
        name: String,
        candidates: Vec<CString>,
    },
    /// Close everything but 0, 1, 2, so many descriptors after them, and those that lead to the parent.
    CloseDescriptors {
        preserved: u32,
    },
    /// Say that all is ready and wait for the word to go on: the parent's, or, when the parent goes and leaves it
    /// behind, that of whoever comes through the gate.
    WaitForStart {
        gate: Option<Gate>,
    },
    /// Become the user's program.
    Execute(Program),
}

/// Where a process that nobody holds waits: two named pipes, both open for reading and writing, so that neither ever
/// ends while the process waits. Exec closes them.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The start byte comes through here.
    pub(crate) start: OwnedFd,
    /// The failure report goes through here.
    pub(crate) report: OwnedFd,
}

/// A namespace to enter, by its file.
#[derive(Debug)]
pub(crate) struct NamespaceFile {
    pub(crate) path: PathBuf,
    /// `CLONE_NEW*`
    pub(crate) kind: libc::c_int,
    pub(crate) file: Option<OwnedFd>,
}

/// The root filesystem.
#[derive(Debug)]
pub(crate) enum RootMount {
    /// A directory of the host.
    Directory {
        tree: Rc<Tree>,
        /// Mounted on itself instead of over the host's root: for hooks, which look for it there.
        in_place: bool,
    },
    /// An overlay of layers.
    Overlay(OverlayMount),
}

/// An overlay of layers, and where it is mounted before it becomes the root if the kernel has no other way.
#[derive(Debug)]
pub(crate) struct OverlayMount {
    pub(crate) lower: Vec<PathBuf>,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) target: CString,
    /// Mounted there in any case.
    pub(crate) in_place: bool,
    pub(crate) made: MadeOverlay,
}

/// How the overlay gets mounted; decided when the parent tries.
#[derive(Debug)]
pub(crate) enum MadeOverlay {
    /// Not made yet.
    Planned,
    /// A detached mount.
    Tree(OwnedFd),
    /// For kernels without `lowerdir+` (before 6.7): mount(2) with names relative to `directory`.
    Classic { directory: CString, options: CString },
}

/// Labels all files of a filesystem that is mounted, as if each had the label itself.
pub(crate) const LABEL_OPTION: &CStr = c"context";

/// A new filesystem to mount.
#[derive(Debug)]
pub(crate) struct NewMount {
    pub(crate) kind: CString,
    /// The filesystem's own options in order, `source` first.
    pub(crate) options: Vec<(CString, Option<CString>)>,
    /// More options, for a filesystem that knows them.
    pub(crate) hints: Vec<CString>,
    pub(crate) attributes: Attributes,
    pub(crate) target: ContainerPath,
    /// Refuse a target with a symbolic link in it instead of following it inside the root.
    pub(crate) refuse_links: bool,
    /// Copy into it what it hides.
    pub(crate) copy_up: bool,
    /// Give it the mode of the directory that it hides, if there is one.
    pub(crate) keep_mode: bool,
    /// What its root is labelled; its other files have labels of their own.
    pub(crate) root_label: Option<CString>,
    /// What of the host to show, read-only, where the user namespace may not make the filesystem.
    pub(crate) instead: Option<&'static CStr>,
    /// The mount, once it is made.
    pub(crate) made: RefCell<Option<OwnedFd>>,
}

impl NewMount {
    /// The label that its files, or one of them, are to have.
    fn label(&self) -> Option<&CString> {
        let mut options = self.options.iter();
        let option = options.find(|(name, _)| name.as_c_str() == LABEL_OPTION);
        option.map_or(self.root_label.as_ref(), |(_, label)| label.as_ref())
    }
}

/// A part of the host's filesystem to show in the container.
#[derive(Debug)]
pub(crate) struct BindMount {
    pub(crate) tree: Tree,
    /// The source is not looked for on the host but in the container, among the mounts that are there by then.
    pub(crate) source_inside: Option<ContainerPath>,
    pub(crate) target: ContainerPath,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) path: ContainerPath,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub(crate) kind: libc::mode_t,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Who the process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional_gids: Vec<nix::unistd::Gid>,
    pub(crate) groups: Groups,
}

/// Whether the supplementary groups may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Groups {
    /// They become exactly those of the spec.
    Set,
    /// The user namespace forbids it: they stay as they are.
    Kept,
    /// An annotation asks for those of who makes the process, whatever the spec has.
    Makers,
}

/// Capability sets after the user is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CapabilitySets {
    pub(crate) effective: Mask,
    pub(crate) permitted: Mask,
    pub(crate) inheritable: Mask,
    pub(crate) ambient: Mask,
}

/// A seccomp program and the flags that it is installed with.
pub(crate) struct SeccompFilter {
    pub(crate) program: Vec<Instruction>,
    pub(crate) flags: libc::c_ulong,
    /// Somebody outside decides about some calls.
    pub(crate) listens: bool,
}

impl fmt::Debug for SeccompFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} instructions, flags {:#x}",
            self.program.len(),
            self.flags
        )
    }
}

/// The user's program.
#[derive(Debug)]
pub(crate) struct Program {
    /// Paths to try in order: one, or one for each directory of PATH.
    pub(crate) candidates: Vec<CString>,
    pub(crate) arguments: StringArray,
    pub(crate) environment: StringArray,
    /// Whose HOME is to be looked up and added.
    pub(crate) home_of: Option<u32>,
    /// The label that it has from SELinux, which may refuse it.
    pub(crate) label: Option<CString>,
}

impl Program {
    /// What the user calls it.
    pub(crate) fn name(&self) -> String {
        let name = self.arguments.strings().first();
        name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

impl InitStep {
    /// Where the process can be left behind, if this is the step that waits there.
    pub(crate) fn gate(&self) -> Option<&Gate> {
        if let Self::WaitForStart { gate } = self {
            gate.as_ref()
        } else {
            None
        }
    }

    /// The user that the step makes of the process.
    pub(crate) fn user(&self) -> Option<u32> {
        if let Self::SetUser(identity) = self {
            Some(identity.uid)
        } else {
            None
        }
    }

    /// What the step does, for an error: an action and its object.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::AwaitMappings => "wait for the maps of the user namespace".into(),
            Self::BecomeNamespaceRoot { .. } => "become root of the user namespace".into(),
            Self::BecomeUndumpable => "keep /proc/self private".into(),
            Self::ResetSignals => "reset signals".into(),
            Self::NewSession => "start a session".into(),
            Self::NewSessionKeyring { label } => labelled("make a session keyring".into(), label.as_ref()),
            Self::UseStreams(_) => "set up stdin, stdout and stderr".into(),
            Self::JoinNamespace(namespace) => format!("join the namespace {}", namespace.path.display()),
            Self::JoinContainer { .. } | Self::JoinContainerByFiles { .. } => "join the container's namespaces".into(),
            Self::NewTimeNamespace { .. } => "make a time namespace".into(),
            Self::OpenProc => "open a procfs apart from the container's".into(),
            Self::NewCgroupNamespace => "make a cgroup namespace".into(),
            Self::BringLoopbackUp => "bring the loopback device up".into(),
            Self::SetHostname(name) => format!("set the hostname {}", name.to_string_lossy()),
            Self::SetDomainname(name) => format!("set the domain name {}", name.to_string_lossy()),
            Self::MakeMountsPrivate => "make the host's mounts private".into(),
            Self::OpenHostNull => "open the host's /dev/null".into(),
            Self::TakeTree(tree) => format!("take {} from the host", tree.source.display()),
            Self::TakeSource(bind) => format!("prepare to bind {} on {}", bind.tree.source.display(), bind.target),
            Self::MakeMount(mount) => {
                let what = format!("prepare to mount {} on {}", mount.kind.to_string_lossy(), mount.target);
                labelled(what, mount.label())
            }
            Self::MountRoot(RootMount::Directory { tree, .. }) => {
                format!("mount the root filesystem {}", tree.source.display())
            }
            Self::MountRoot(RootMount::Overlay(overlay)) => {
                format!("mount the root filesystem on {}", overlay.target.to_string_lossy())
            }
            Self::OpenNewRoot => "open the root filesystem".into(),
            Self::WaitForHooks => "wait for the hooks before the change of root".into(),
            Self::PivotRoot => "pivot to the root filesystem".into(),
            Self::MoveRoot { .. } => "move the root filesystem over the host's root".into(),
            Self::ChangeRoot => "change to the root filesystem".into(),
            Self::OpenRoot => "open the container's root".into(),
            Self::EnterRoot(_) => "change to the container's root".into(),
            Self::Mount(mount) => format!("mount {} on {}", mount.kind.to_string_lossy(), mount.target),
            Self::Bind(bind) => format!("bind {} on {}", bind.tree.source.display(), bind.target),
            Self::MakeDevice(device) => format!("make the device {}", device.path),
            Self::MakeSymlink { link, target } => format!("link {link} to {}", target.to_string_lossy()),
            Self::MakeDirectory(path) => format!("make the directory {path}"),
            Self::OpenTerminal { .. } => "open a terminal".into(),
            Self::BindConsole => "bind the terminal on /dev/console".into(),
            Self::WriteSysctl { name, value, .. } => format!("set sysctl {name} to {}", value.to_string_lossy()),
            Self::MaskPath { path, .. } => format!("mask {path}"),
            Self::MakeReadonly(path) => format!("make {path} read-only"),
            Self::SetMountAttributes { path, .. } => format!("change the mount at {path}"),
            Self::Reconfigure { path, .. } => format!("remount the filesystem at {path}"),
            Self::SetRlimit { name, soft, hard, .. } => format!("set {name} to {soft}:{hard}"),
            Self::SetPersonality(domain) => format!("set the personality {domain:#x}"),
            Self::SetMemoryPolicy { mode, .. } => format!("set the memory policy {mode:#x}"),
            Self::SetScheduler(attributes) => format!("set the scheduling policy {}", attributes.policy),
            Self::SetIoPriority(priority) => format!("set the I/O priority {priority:#x}"),
            Self::SetAffinity(_) => "set the CPU affinity".into(),
            Self::ResetAffinity => "have every CPU that there is for it".into(),
            Self::WriteLabel { value, .. } => format!("set the label {:?}", value.to_string_lossy()),
            Self::OwnStreams { owner } => format!("give the standard streams to user {owner}"),
            Self::InstallSeccomp(_) => "install the seccomp filter".into(),
            Self::SetNoNewPrivileges => "set no_new_privs".into(),
            Self::LimitBoundingSet(_) => "limit the capability bounding set".into(),
            Self::SetUser(user) => format!("become user {}:{}", user.uid, user.gid),
            Self::SetCapabilities(_) => "set capabilities".into(),
            Self::SetUmask(mask) => format!("set the umask {mask:04o}"),
            Self::ChangeDirectory(path) => format!("change to the directory {path}"),
            Self::StartIn(_) => "change to its directory".into(),
            Self::DieWithParent => "tie the process to its parent".into(),
            Self::FindProgram { name, .. } => format!("find the program {name:?}"),
            Self::CloseDescriptors { preserved: 0 } => "close inherited descriptors".into(),
            Self::CloseDescriptors { preserved } => format!("close inherited descriptors from {} on", 3 + preserved),
            Self::WaitForStart { .. } => "wait for the start".into(),
            Self::Execute(program) => labelled(format!("exec {:?}", program.name()), program.label.as_ref()),
        }
    }
}

/// SELinux refuses labels in the words that there are for everything else.
fn labelled(what: String, label: Option<&CString>) -> String {
    match label {
        None => what,
        Some(label) => format!("{what} with the label {:?}", label.to_string_lossy()),
    }
}
