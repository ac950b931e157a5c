//! What is known of a container: the same words in [`crate::proto::Reply::Containers`] and in the files of a pod's
//! directory.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ContainerKey, ExecId};

/// A moment, in nanoseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixNanos(pub i64);

/// A container as the shim knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Which container, which life.
    pub key: ContainerKey,
    /// How far it came.
    pub status: Status,
    /// The first process, as the shim's PID namespace numbers it; none while it is being made. It stays here after the
    /// exit, for people.
    pub pid: Option<u32>,
    /// When that process was made, in clock ticks since boot (field 22 of `/proc/PID/stat`): tells it from a later
    /// process with the same number. 0 when it could not be read.
    pub pid_start_time: u64,
    /// When it was created.
    pub created_at: UnixNanos,
    /// When its program was let go.
    pub started_at: Option<UnixNanos>,
    /// Its cgroup.
    pub cgroup: Option<PathBuf>,
    /// Its log file.
    pub log_path: PathBuf,
    /// What the host could not enforce, one sentence each.
    #[serde(default)]
    pub unenforced: Vec<String>,
    /// How it ended; never in `state.json`, which is written before.
    #[serde(default)]
    pub exit: Option<ExitRecord>,
    /// What became of its output; only told by a live shim.
    #[serde(default)]
    pub log: LogCounters,
    /// Its execs: the living ones and the last few ended ones; only told by a live shim.
    #[serde(default)]
    pub execs: Vec<ExecState>,
}

/// How far a container came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Set up and waiting for its start.
    Created,
    /// Its program was let go and has not ended, as far as is known.
    Running,
    /// Its first process ended.
    Exited,
}

/// How a container ended: the content of `exit.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The exit code, 128 + signal number when a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// When its program was let go, if it ever was.
    pub started_at: Option<UnixNanos>,
    /// When the exit was seen.
    pub finished_at: UnixNanos,
    /// Whether the kernel killed a process of its cgroup for want of memory while it ended by SIGKILL (or by an exit
    /// code that says so).
    pub oom_killed: bool,
    /// The word for `state.terminated.reason`.
    pub reason: ExitReason,
    /// What more there is to say, for people.
    #[serde(default)]
    pub message: String,
}

/// Why a container ended, in the words that kubelet users know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Any other end of its own or by a signal.
    Error,
    /// Killed for want of memory.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// Its program could not be run.
    StartError,
    /// The shim died and took the container along; the true exit code is not known.
    ShimLost,
}

impl ExitReason {
    /// The word as it stands in a pod's status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::ShimLost => "ShimLost",
        }
    }
}

/// What became of a container's output. Counts begin anew with each shim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCounters {
    /// Bytes in the log files, prefixes included.
    pub written_bytes: u64,
    /// Bytes that could not be written because the file system refused, prefixes included.
    pub dropped_bytes: u64,
}

/// An exec as the shim knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecState {
    /// Its name.
    pub exec_id: ExecId,
    /// Its process.
    pub pid: u32,
    /// Its exit code once it ended, 128 + signal number when a signal ended it.
    pub exit_code: Option<i32>,
}
