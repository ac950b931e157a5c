//! What the agent and a podshim say to each other: the messages, their versions and (in [`frame`]) their bytes.
//!
//! No IO happens here. A connection carries frames both ways: the client sends [`ClientFrame`]s, each with an id of its
//! choice; the shim answers each with one [`ServerFrame::Reply`] that carries the id back, in the order of the requests.
//! The first request of a connection is [`Request::Hello`]. After [`Request::Subscribe`] the shim also pushes
//! [`ServerFrame::Event`]s on that connection. An event is a hint to look again, never the only trace of what happened:
//! an exit is on disk before it is sent, and [`Request::List`] tells everything.
//!
//! A request with a field the shim doesn't know is refused. In replies and events unknown fields are passed over, so
//! that an old agent can read what a newer shim says.

pub mod frame;
pub mod name;
pub mod state;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::{Process, Spec};

pub use name::{ContainerName, ExecId, NameError};
pub use state::{ContainerState, ExecState, ExitReason, ExitRecord, LogCounters, Status, UnixNanos};

/// The oldest protocol version that this build speaks.
pub const OLDEST_VERSION: u32 = 1;
/// The newest protocol version that this build speaks.
pub const NEWEST_VERSION: u32 = 1;

/// One request as it travels from the client to the shim.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientFrame {
    /// Chosen by the client; the reply carries it back.
    pub id: u64,
    /// What is asked for.
    pub request: Request,
}

/// One message as it travels from the shim to the client.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerFrame {
    /// The answer to the request with this id. File descriptors that belong to it come with its first byte.
    Reply {
        /// The id of the request.
        id: u64,
        /// What came of it.
        outcome: Result<Reply, Failure>,
    },
    /// Something happened; only sent to subscribers.
    Event(Event),
}

/// Names one container of the pod in one of its lives: one directory, one cgroup, one log file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerKey {
    /// The container's name in the pod.
    pub container: ContainerName,
    /// How often it was restarted before, from 0.
    pub attempt: u32,
}

/// What a client may ask of a shim.
///
/// Every request may be repeated: a start of what runs and a delete of what is gone succeed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Agrees on a version; the first request of each connection. Answered by [`Reply::Hello`].
    Hello {
        /// The oldest version that the client speaks.
        oldest: u32,
        /// The newest version that the client speaks.
        newest: u32,
    },
    /// Asks for events on this connection from now on.
    Subscribe,
    /// Asks for the state of all containers. Answered by [`Reply::Containers`].
    List,
    /// Creates a container up to the point where its program could start. Answered by [`Reply::Created`].
    Create(Box<Create>),
    /// Lets the program of a created container run.
    Start(ContainerKey),
    /// Sends a signal to a container's first process, or with `all` to each process of its cgroup.
    Signal {
        /// The container.
        key: ContainerKey,
        /// A signal number of this machine.
        signal: i32,
        /// Whether every process of the container is meant.
        all: bool,
    },
    /// Forgets an exited container and removes its directory and cgroup.
    Delete(ContainerKey),
    /// Runs a further process in a running container. Answered by [`Reply::Exec`] with the ends of its streams.
    Exec(Box<Exec>),
    /// Sets the size of a terminal.
    Resize {
        /// The container.
        key: ContainerKey,
        /// The exec whose terminal is meant; the container's own terminal without one.
        exec_id: Option<ExecId>,
        /// Height in characters.
        rows: u16,
        /// Width in characters.
        columns: u16,
    },
    /// Sends a signal to a process that [`Request::Exec`] started.
    SignalExec {
        /// The container.
        key: ContainerKey,
        /// The exec.
        exec_id: ExecId,
        /// A signal number of this machine.
        signal: i32,
    },
    /// Opens the log file anew, after the caller has renamed the old one.
    ReopenLog(ContainerKey),
    /// Ends the shim; refused while a container is alive.
    Shutdown,
}

/// A container to create.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// The container's name in the pod.
    pub container: ContainerName,
    /// How often it was restarted before, from 0.
    pub attempt: u32,
    /// The OCI configuration; `process.terminal` decides between pipes and a terminal.
    pub spec: Box<Spec>,
    /// Where the root file system comes from.
    pub rootfs: Rootfs,
    /// The log file, absolute; missing directories above it are made.
    pub log_path: PathBuf,
    /// The container's cgroup, an absolute directory in cgroup v2; made when missing.
    pub cgroup: Option<PathBuf>,
}

/// Where a root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rootfs {
    /// A directory, used as it is.
    Directory(PathBuf),
    /// Layers, mounted as an overlay in the container's own mount namespace.
    Overlay {
        /// Read-only layers, topmost first.
        lower: Vec<PathBuf>,
        /// The writable layer.
        upper: PathBuf,
        /// overlayfs' work directory, on the file system of `upper`.
        work: PathBuf,
        /// An existing empty directory to mount on.
        target: PathBuf,
    },
}

/// A process to run in a container that runs already.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The container.
    pub key: ContainerKey,
    /// Chosen by the client, unique among the container's execs that live or are still listed.
    pub exec_id: ExecId,
    /// The OCI process; `terminal` decides between pipes and a terminal.
    pub process: Box<Process>,
    /// Whether the client wants to write to the process; otherwise its stdin is `/dev/null`.
    pub stdin: bool,
}

/// What a shim answers when it did what was asked.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Nothing to tell beyond success.
    Done,
    /// The answer to [`Request::Hello`].
    Hello(Welcome),
    /// The answer to [`Request::List`], ordered by name and attempt.
    Containers(Vec<ContainerState>),
    /// The answer to [`Request::Create`].
    Created {
        /// The container's first process, as the shim's PID namespace numbers it.
        pid: u32,
        /// What the host could not enforce, one sentence each.
        unenforced: Vec<String>,
    },
    /// The answer to [`Request::Exec`]; one file descriptor per stream comes with it, in this order.
    Exec {
        /// The process, as the shim's PID namespace numbers it.
        pid: u32,
        /// What the file descriptors are.
        streams: Vec<Stream>,
    },
}

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version to speak on this connection.
    pub version: u32,
    /// The shim's process id.
    pub pid: u32,
    /// When the shim started, in clock ticks since boot (field 22 of `/proc/PID/stat`); with the pid it names the
    /// process for good.
    pub start_time: u64,
    /// The release of the shim, for people.
    pub build: String,
}

/// What a passed file descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Write end of the process' standard input.
    Stdin,
    /// Read end of its standard output.
    Stdout,
    /// Read end of its standard error.
    Stderr,
    /// Master side of its terminal.
    Terminal,
}

/// Why a request was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// For people: the whole chain of causes.
    pub message: String,
    /// The exit code that stands for this failure where a program could not be run: 127 not found, 126 not executable,
    /// 128 anything else.
    #[serde(default)]
    pub exit_code: Option<i32>,
}

/// The kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No version in common, or no Hello yet.
    Version,
    /// The request can't be read or has a value that is out of range.
    Malformed,
    /// No such container or exec.
    NotFound,
    /// The name is taken.
    Exists,
    /// The container is not in a state for this.
    State,
    /// A limit of the shim is reached.
    Limit,
    /// The kernel refused; the container, if it was being created, is gone again.
    Failed,
    /// A kind that this build doesn't know.
    #[serde(other)]
    Other,
}

/// What a shim tells subscribers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A container's first process ended; its record is on disk already.
    Exited {
        /// The container.
        key: ContainerKey,
        /// How it ended.
        exit: ExitRecord,
    },
    /// A process that [`Request::Exec`] started ended.
    ExecExited {
        /// The container.
        key: ContainerKey,
        /// The exec.
        exec_id: ExecId,
        /// Its exit code, 128 + signal number when a signal ended it.
        exit_code: i32,
    },
}
