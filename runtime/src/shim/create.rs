//! Create and start: a container's directory, log and streams, and then its process.

use std::fs::File;
use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;

use nix::sys::stat::{Mode, fchmod};

use super::answer::{chain, failure, is_plain_absolute, refuse};
use super::children::{CONTAINER_LIMIT, Container, Live, Process, new_state};
use super::cri::Stream;
use super::logs::Log;
use super::output::Output;
use super::poller::Source;
use super::serve::{Shim, now};
use super::{oom, record, report};
use crate::container::{self, CreateError, CreateRequest, Created, Manner, SingleThreaded, Stdio};
use crate::proc::Stat;
use crate::proto::{
    ContainerKey, ContainerState, Create, ExitReason, ExitRecord, Failure, FailureKind, Reply, Rootfs, Status,
};
use crate::spec::{self, Spec};

impl Shim {
    /// Creates a container. On failure nothing of it is left but its log file.
    pub(super) fn create(&mut self, create: Create) -> Result<Reply, Failure> {
        let state = new_state(&create, now());
        self.check(&create, &state.key)?;
        let key = state.key.clone();
        match self.make(create, state) {
            Ok(reply) => Ok(reply),
            Err(failure) => {
                if let Err(error) = record::remove(&self.dir, &key) {
                    report("remove a container that was not created", &error);
                }
                Err(failure)
            }
        }
    }

    fn check(&self, create: &Create, key: &ContainerKey) -> Result<(), Failure> {
        if self.children.containers.contains_key(key) || record::container_dir(&self.dir, key).exists() {
            let message = format!(
                "container {} attempt {} exists; delete it first",
                key.container, key.attempt
            );
            return Err(refuse(FailureKind::Exists, message));
        }
        if self.children.containers.len() >= CONTAINER_LIMIT {
            let message = format!("{CONTAINER_LIMIT} containers are kept already; delete some");
            return Err(refuse(FailureKind::Limit, message));
        }
        for path in std::iter::once(&create.log_path).chain(&create.cgroup) {
            if !is_plain_absolute(path) {
                let message = format!("path {} must be absolute and without ..", path.display());
                return Err(refuse(FailureKind::Malformed, message));
            }
        }
        Ok(())
    }

    fn make(&mut self, create: Create, mut state: ContainerState) -> Result<Reply, Failure> {
        let spec = with_own_oom_score(*create.spec);
        let bundle = record::create_container_dir(&self.dir, &state.key).map_err(failed)?;
        record::write(&bundle.join("config.json"), &spec).map_err(failed)?;
        // Before the process is there: whoever finds this shim dead must know which cgroup to empty.
        record::write_state(&self.dir, &state).map_err(failed)?;
        let log = Log::open(&create.log_path).map_err(|error| {
            refuse(
                FailureKind::Failed,
                format!("open log {}: {error}", create.log_path.display()),
            )
        })?;
        let oom_kills = oom::kills(create.cgroup.as_deref());
        let token = SingleThreaded::prove().map_err(failed)?;
        let (stdio, mut outputs) = streams(&spec).map_err(failed)?;
        let request = CreateRequest {
            spec: &spec,
            bundle: &bundle,
            rootfs: rootfs(create.rootfs),
            cgroup: create.cgroup,
            stdio,
            manner: Manner {
                dies_with_parent: true,
                finds_program_late: true,
                ..Manner::default()
            },
        };
        let mut created = container::create(&token, request).map_err(|error| create_failure(&error))?;
        let terminal = created.terminal.take();
        if let Some(terminal) = &terminal {
            outputs.push(output(terminal.try_clone().map_err(failed)?, Stream::Stdout)?);
        }
        state.pid = Some(created.pid);
        state.pid_start_time = start_time(created.pid);
        state.unenforced = std::mem::take(&mut created.unenforced);
        record::write_state(&self.dir, &state).map_err(failed)?;
        for output in &mut outputs {
            let source = Source::Output(state.key.clone());
            output.token = self.poller.add(&*output, source).map_err(failed)?;
        }
        let reply = Reply::Created {
            pid: created.pid,
            unenforced: state.unenforced.clone(),
        };
        let process = Process::Waiting(created);
        let live = Live {
            process,
            terminal,
            outputs,
            log,
            oom_kills,
            execs: Vec::new(),
        };
        self.children.containers.insert(
            state.key.clone(),
            Container {
                state,
                live: Some(live),
                unrecorded: None,
            },
        );
        Ok(reply)
    }

    /// Lets a created container run; one that runs already is left alone. A program that can't be run is an exit, too.
    pub(super) fn start(&mut self, key: &ContainerKey) -> Result<(), Failure> {
        let live = self.live(key)?;
        let ended = Process::Ended(std::time::Instant::now());
        match std::mem::replace(&mut live.process, ended) {
            Process::Waiting(created) => self.let_go(key, created),
            process @ Process::Running(_) => {
                live.process = process;
                Ok(())
            }
            process @ Process::Ended(_) => {
                live.process = process;
                Err(refuse(FailureKind::State, "the container has ended"))
            }
        }
    }

    fn let_go(&mut self, key: &ContainerKey, created: Created) -> Result<(), Failure> {
        let started_at = now();
        match created.start() {
            Ok(running) => {
                self.live(key)?.process = Process::Running(running.pidfd);
                let container = self.container(key)?;
                container.state.status = Status::Running;
                container.state.started_at = Some(started_at);
                let state = container.state.clone();
                if let Err(error) = record::write_state(&self.dir, &state) {
                    // The program runs; that its record still says "created" misleads nobody while this shim lives.
                    report("record a start", &error);
                }
                Ok(())
            }
            Err(error) => {
                let exit_code = error.exit_code().into();
                self.drain(key);
                self.conclude(key, not_started(exit_code, chain(&error)));
                Err(Failure {
                    exit_code: Some(exit_code),
                    ..failure(FailureKind::Failed, &error)
                })
            }
        }
    }
}

fn not_started(exit_code: i32, message: String) -> ExitRecord {
    ExitRecord {
        exit_code,
        signal: None,
        started_at: None,
        finished_at: now(),
        oom_killed: false,
        reason: ExitReason::StartError,
        message,
    }
}

/// The shim protects itself from the OOM killer; a container must not inherit that.
fn with_own_oom_score(mut spec: Spec) -> Spec {
    if let Some(process) = spec.process_mut()
        && process.oom_score_adj().is_none()
    {
        process.set_oom_score_adj(Some(0));
    }
    spec
}

fn streams(spec: &Spec) -> Result<(Stdio, Vec<Output>), StreamError> {
    let process = spec.process().as_ref();
    if process.and_then(spec::Process::terminal).unwrap_or(false) {
        return Ok((
            Stdio::Terminal {
                size: None,
                plain_lines: false,
            },
            Vec::new(),
        ));
    }
    let stdin = File::open("/dev/null").map_err(StreamError)?.into();
    let (read_stdout, stdout) = pipe().map_err(StreamError)?;
    let (read_stderr, stderr) = pipe().map_err(StreamError)?;
    let outputs = [(read_stdout, Stream::Stdout), (read_stderr, Stream::Stderr)];
    let outputs: io::Result<Vec<Output>> = outputs
        .into_iter()
        .map(|(reader, stream)| Output::new(reader.into(), stream))
        .collect();
    Ok((Stdio::Streams { stdin, stdout, stderr }, outputs.map_err(StreamError)?))
}

fn output(descriptor: OwnedFd, stream: Stream) -> Result<Output, Failure> {
    Output::new(descriptor, stream).map_err(|error| failed(StreamError(error)))
}

/// A pipe whose write end any user may open anew through `/dev/stdout`.
pub(super) fn pipe() -> io::Result<(PipeReader, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    fchmod(&writer, Mode::from_bits_truncate(0o666))?;
    Ok((reader, writer.into()))
}

/// The streams of a process could not be made.
#[derive(Debug, thiserror::Error)]
#[error("make the standard streams")]
pub(super) struct StreamError(#[source] pub(super) io::Error);

fn rootfs(rootfs: Rootfs) -> container::Rootfs {
    match rootfs {
        Rootfs::Directory(path) => container::Rootfs::Directory(path),
        Rootfs::Overlay {
            lower,
            upper,
            work,
            target,
        } => container::Rootfs::Overlay {
            lower,
            upper,
            work,
            target,
        },
    }
}

pub(super) fn failed(error: impl std::error::Error) -> Failure {
    failure(FailureKind::Failed, &error)
}

pub(super) fn create_failure(error: &CreateError) -> Failure {
    let kind = match error {
        CreateError::Field(_) => FailureKind::Malformed,
        CreateError::Cgroup(_)
        | CreateError::CgroupFrozen { .. }
        | CreateError::Systemd(_)
        | CreateError::Host { .. }
        | CreateError::Step(_)
        | CreateError::Hook(_)
        | CreateError::Died => FailureKind::Failed,
    };
    failure(kind, error)
}

/// When it started; 0 when that can't be read.
pub(super) fn start_time(pid: u32) -> u64 {
    Stat::read(pid).map_or(0, |stat| stat.start_time)
}
