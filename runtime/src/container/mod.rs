//! The OCI verbs, one file each, and the nouns they share.
//!
//! The life of a container: [`create`] makes the process, which does all of its set-up and then waits;
//! [`Created::start`] lets it execute the user's program; [`exec()`] adds a process to it; [`kill`] and
//! [`Exit::wait`] end it. No state is kept here: who calls keeps the pidfd.

mod birth;
pub mod config;
mod create;
mod door;
mod error;
mod exec;
mod exit;
pub mod explain;
mod features;
pub(crate) mod hook;
mod kill;
mod launch;
mod listener;
pub mod named;
mod net_device;
mod own_cgroup;
pub mod spec;
mod start;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::spec::Spec;

pub use crate::plan::FieldError;
pub use crate::sys::pty::{WindowSize, set_window_size, window_size};
pub use crate::sys::thread::{SingleThreaded, ThreadsError};
pub use create::{Created, create};
pub use error::{CreateError, ExecError, StartError, StepError};
pub use exec::{Target, exec, initial_cpus};
pub use exit::Exit;
pub use features::features;
pub use hook::{HookEnd, HookError};
pub use kill::kill;
pub use listener::Who;
pub use start::Running;

/// What to create, and from what.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// The container, as config.json has it. Fields that are not honoured are refused by name.
    pub spec: &'a Spec,
    /// Directory that relative paths of the spec (`root.path`, sources of bind mounts) start from.
    pub bundle: &'a Path,
    /// Where the root filesystem comes from; `root.path` of the spec is not looked at.
    pub rootfs: Rootfs,
    /// Absolute directory in the cgroup2 tree. Created if missing; limits of `linux.resources` are applied as far as
    /// the controllers are there, and what could not be enforced is returned.
    pub cgroup: Option<PathBuf>,
    /// The container's standard streams. `Terminal` exactly if `process.terminal` is true.
    pub stdio: Stdio,
    /// What the caller wants of it besides.
    pub manner: Manner,
}

/// How a process is made, apart from what its spec says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Manner {
    /// Kill it when the thread that created it ends (`PR_SET_PDEATHSIG`).
    pub dies_with_parent: bool,
    /// A program that is not there is an error of the start, as a kubelet's pods have it; else of the creation, as
    /// callers of runc know it.
    pub finds_program_late: bool,
    /// How many of the caller's descriptors it inherits, from number 3 on; they must be open and not close-on-exec.
    pub preserved_fds: u32,
    /// It stays in its caller's session keyring.
    pub keeps_keyring: bool,
    /// Its start follows its creation at once, with nothing to do between: it may run before the creation returns. One
    /// with hooks, or whose system calls somebody decides about, waits all the same.
    pub starts_at_once: bool,
    /// Its root is moved over the host's instead of pivoted to: for hosts that run from their initial ramfs.
    pub no_pivot: bool,
}

/// Where a root filesystem comes from. It is mounted in the container's own mount namespace only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// An existing directory.
    Directory(PathBuf),
    /// An overlay of unpacked image layers.
    Overlay {
        /// Read-only layers, the topmost first; at least one.
        lower: Vec<PathBuf>,
        /// Where the container's own changes go.
        upper: PathBuf,
        /// Overlayfs's scratch directory, on the filesystem of `upper`.
        work: PathBuf,
        /// An existing empty directory to mount on.
        target: PathBuf,
    },
}

/// Standard streams of a container's process.
#[derive(Debug)]
pub enum Stdio {
    /// Three open files. The runtime's copies are closed once the process has its own.
    Streams {
        /// Becomes descriptor 0.
        stdin: OwnedFd,
        /// Becomes descriptor 1.
        stdout: OwnedFd,
        /// Becomes descriptor 2.
        stderr: OwnedFd,
    },
    /// A new pseudoterminal of the container's own devpts; the master comes back to the caller.
    Terminal {
        /// Size at the start; the spec's `process.consoleSize` comes first.
        size: Option<WindowSize>,
        /// Lines end as the program ends them: whoever passes the output on has a terminal that sees to that, or none.
        plain_lines: bool,
    },
}
