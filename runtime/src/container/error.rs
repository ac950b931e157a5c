//! What can go wrong with each verb.

use std::io;
use std::path::PathBuf;

use super::hook::HookError;
use crate::cgroup::CgroupError;
use crate::cgroup::systemd::SystemdError;
use crate::plan::FieldError;

/// A step that the container's process could not do.
#[derive(Debug, thiserror::Error)]
#[error("{action}, for {field}")]
pub struct StepError {
    /// What it tried, for example `mount proc on /proc`.
    pub action: String,
    /// The field of the spec that asked for it, for example `mounts[0]`.
    pub field: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// Why a container was not created. Nothing of it is left, except a cgroup directory that was there before.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The spec asks for something that is not honoured, or is malformed.
    #[error("refuse the container's configuration")]
    Field(#[from] FieldError),
    /// The cgroup could not be made or limited.
    #[error("prepare the container's cgroup")]
    Cgroup(#[from] CgroupError),
    /// The cgroup that it is to have stands still, perhaps with one above it, and so would it. In runc's words.
    #[error("container's cgroup unexpectedly frozen: {}", cgroup.display())]
    CgroupFrozen {
        /// Its directory.
        cgroup: PathBuf,
    },
    /// systemd did not bring it to its cgroup.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// A step on the host's side failed.
    #[error("{action}")]
    Host {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A step inside the container's process failed.
    #[error("set the container up")]
    Step(#[from] StepError),
    /// A hook failed.
    #[error("run the container's hooks")]
    Hook(#[from] HookError),
    /// The process ended during set-up without a word; it was killed.
    #[error("the container's process was killed during set-up")]
    Died,
}

/// Why a created container did not start. Its process has ended and been waited for.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The user's program could not be executed.
    #[error("start the container's program")]
    Exec(#[source] StepError),
    /// The waiting process was not there any more.
    #[error("the created container's process has ended before it was started")]
    Died,
    /// Talking to the waiting process failed.
    #[error("wake the created container's process")]
    Wake(#[source] io::Error),
}

impl CreateError {
    /// The exit code for it: as of [`StartError::exit_code`] when the program was looked for in vain; else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Step(step) if step.field == "process.args" => exec_exit_code(&step.source),
            Self::Step(_)
            | Self::Field(_)
            | Self::Cgroup(_)
            | Self::CgroupFrozen { .. }
            | Self::Systemd(_)
            | Self::Host { .. }
            | Self::Hook(_)
            | Self::Died => 1,
        }
    }
}

impl StartError {
    /// The exit code that runtimes and shells report for it: 127 not found, 126 not executable, 128 anything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exec(step) => exec_exit_code(&step.source),
            Self::Died | Self::Wake(_) => 128,
        }
    }
}

/// Why a process was not added to a container. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It could not be created.
    #[error("create a process in the container")]
    Create(#[from] CreateError),
    /// It could not be started.
    #[error("start a process in the container")]
    Start(#[from] StartError),
}

impl ExecError {
    /// As [`StartError::exit_code`]; 128 when the process could not even be created.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Create(CreateError::Step(step)) if step.field == "process.args" => exec_exit_code(&step.source),
            Self::Create(_) => 128,
            Self::Start(error) => error.exit_code(),
        }
    }
}

fn exec_exit_code(error: &io::Error) -> u8 {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => 127,
        Some(libc::EACCES | libc::EPERM | libc::ENOEXEC) => 126,
        _ => 128,
    }
}

/// An error of the host's side.
pub(super) fn host(action: &str, source: impl Into<io::Error>) -> CreateError {
    CreateError::Host {
        action: action.into(),
        source: source.into(),
    }
}
