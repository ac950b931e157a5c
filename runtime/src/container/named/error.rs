//! Why a verb was not carried out.

use std::io;
use std::path::{Path, PathBuf};

use super::Status;
use crate::cgroup::CgroupError;
use crate::cgroup::systemd::SystemdError;
use crate::container::{CreateError, ExecError, FieldError, HookError, StartError, ThreadsError};
use crate::criu::service::CriuError;
use crate::resctrl::ResctrlError;

/// Why a verb was not carried out. The words are runc's where its callers look for them.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    /// No container has this id.
    #[error("container {id:?}: container does not exist")]
    Unknown {
        /// The id.
        id: String,
    },
    /// A container has this id already.
    #[error("container {id:?}: container with given ID already exists")]
    Exists {
        /// The id.
        id: String,
    },
    /// The id is none.
    #[error("{id:?} is not a container id: up to 128 letters, digits, '_', '+', '-' and '.'")]
    Id {
        /// What was given.
        id: String,
    },
    /// It has ended.
    #[error("container not running")]
    NotRunning,
    /// The verb does not fit what the container is doing.
    #[error("cannot {verb} a container in the {status} state")]
    Status {
        /// The verb.
        verb: &'static str,
        /// What the container is doing.
        status: Status,
    },
    /// Nothing can be added to it; in runc's words.
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    Paused,
    /// It runs, and deletion was not forced.
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped {
        /// The id.
        id: String,
        /// What the container is doing.
        status: Status,
    },
    /// It did not end in time after it was killed.
    #[error("container {id:?}: its processes do not end")]
    Stuck {
        /// The id.
        id: String,
    },
    /// A file could not be used.
    #[error("{action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused something else.
    #[error("{0}")]
    Kernel(&'static str, #[source] io::Error),
    /// The verb takes a cgroup, and the container has none.
    #[error("container {id:?} has no cgroup, which is what {verb} works on")]
    NoCgroup {
        /// The id.
        id: String,
        /// The verb.
        verb: &'static str,
    },
    /// Others are in the cgroup that it is to have: they would be limited, stopped and killed with it. In runc's words.
    #[error("container's cgroup is not empty: {processes} process(es) found in {}", cgroup.display())]
    CgroupOccupied {
        /// Its directory.
        cgroup: PathBuf,
        /// How many.
        processes: usize,
    },
    /// This host can't enforce a new limit; the sentence says which.
    #[error("{0}")]
    Unenforced(String),
    /// A field is not honoured.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The container could not be created.
    #[error("create the container")]
    Create(#[from] CreateError),
    /// Its program could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A process could not be added.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// Its cgroup could not be used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its class of caches and bandwidth could not be had.
    #[error(transparent)]
    Resctrl(#[from] ResctrlError),
    /// systemd did not make, limit or stop its scope.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// CRIU did not make or restore a checkpoint.
    #[error(transparent)]
    Criu(#[from] CriuError),
    /// This process has threads.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
}

impl VerbError {
    /// What runtimes and shells return for it: 127 for a program that is not there, 126 for one that can't be executed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Create(error) => error.exit_code(),
            Self::Start(error) => error.exit_code(),
            Self::Exec(error) => error.exit_code(),
            Self::Unknown { .. }
            | Self::Exists { .. }
            | Self::Id { .. }
            | Self::NotRunning
            | Self::Status { .. }
            | Self::Paused
            | Self::NotStopped { .. }
            | Self::Stuck { .. }
            | Self::File { .. }
            | Self::Kernel(..)
            | Self::NoCgroup { .. }
            | Self::CgroupOccupied { .. }
            | Self::Unenforced(_)
            | Self::Field(_)
            | Self::Cgroup(_)
            | Self::Resctrl(_)
            | Self::Systemd(_)
            | Self::Hook(_)
            | Self::Criu(_)
            | Self::Threads(_) => 1,
        }
    }
}

/// An error of a file.
pub(super) fn file(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> VerbError {
    move |source| VerbError::File {
        action,
        path: path.as_ref().to_owned(),
        source,
    }
}
