//! Runs a further process in a container and relays its streams over the caller's connection.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent_core::pod::ContainerName;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use runtime::client::{ClientError, Connection, ExecStreams, Executed};
use runtime::proto::{ContainerKey, Event, Exec, ExecId, Failure, Status};
use runtime::shim::record;
use runtime::spec::{Process, Spec};
use rustix::termios::Winsize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::Api;
use super::answer::{Answer, Problem, empty, read_json};
use super::frame::{self, Channel, Outcome, Size};
use super::logs::{choose_container, find_pod};
use super::message::ExecRequest;
use crate::hands::shim::Listener;
use crate::paths::PodPaths;

/// How long the shim may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long output is waited for after the process has ended: what it left behind may hold the pipes.
const DRAIN: Duration = Duration::from_secs(2);
/// Bytes read at a time.
const CHUNK: usize = 16 * 1024;

pub(super) async fn exec(api: &Arc<Api>, request: Request<Incoming>) -> Result<Answer, Problem> {
    if request
        .headers()
        .get(UPGRADE)
        .is_none_or(|protocol| protocol != "orlop-exec")
    {
        return Err(Problem::invalid("exec needs `Upgrade: orlop-exec`"));
    }
    let (head, body) = request.into_parts();
    let wanted: ExecRequest = read_json(body).await?;
    let begun = begin(api, wanted).await?;
    let upgrade = hyper::upgrade::on(Request::from_parts(head, ()));
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        if let Err(error) = relay(begun, TokioIo::new(upgraded)).await {
            tracing::debug!(%error, "exec stream ended early");
        }
    });
    let mut answer = Answer::new(empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answer
        .headers_mut()
        .insert(UPGRADE, HeaderValue::from_static("orlop-exec"));
    Ok(answer)
}

/// What became of the request to run a process.
enum Begun {
    /// It runs.
    Running(Box<Running>),
    /// It can't be run, and this is the exit code that says so.
    Refused(Failure, i32),
}

struct Running {
    key: ContainerKey,
    id: ExecId,
    streams: ExecStreams,
    listener: Listener,
}

async fn begin(api: &Arc<Api>, wanted: ExecRequest) -> Result<Begun, Problem> {
    let view = find_pod(api, &wanted.namespace, &wanted.pod)?;
    let container = choose_container(&view, wanted.container.as_deref())?;
    let paths = PodPaths::new(&api.node.config.places, &api.node.cgroup_root, &view.desired);
    let begin = move || begin_blocking(&paths, &container, &wanted);
    tokio::task::spawn_blocking(begin).await.map_err(Problem::failed)?
}

fn begin_blocking(paths: &PodPaths, container: &ContainerName, wanted: &ExecRequest) -> Result<Begun, Problem> {
    let socket = paths.shim_socket();
    let not_running = || Problem::conflict(format!("container {container} is not running"));
    let mut shim = match Connection::connect(&socket, ANSWER) {
        Err(error) if error.is_shim_gone() => return Err(not_running()),
        other => other.map_err(Problem::failed)?,
    };
    let states = shim.list(ANSWER).map_err(Problem::failed)?;
    let is_it = |key: &ContainerKey, status| key.container.as_str() == container.as_str() && status == Status::Running;
    let running = states.into_iter().rev().find(|state| is_it(&state.key, state.status));
    let key = running.map(|state| state.key).ok_or_else(not_running)?;
    let config = record::container_dir(&paths.run, &key).join("config.json");
    let spec: Spec = serde_json::from_slice(&fs::read(config).map_err(Problem::failed)?).map_err(Problem::failed)?;
    // Listening begins before the process does, so that its end is not missed.
    let listener = Listener::connect(&socket).map_err(Problem::failed)?;
    let id = next_id().map_err(Problem::failed)?;
    let process = Box::new(process(&spec, wanted));
    let exec = Exec {
        key: key.clone(),
        exec_id: id.clone(),
        process,
        stdin: wanted.stdin,
    };
    match shim.exec(exec, ANSWER) {
        Ok(Executed { streams, .. }) => Ok(Begun::Running(Box::new(Running {
            key,
            id,
            streams,
            listener,
        }))),
        Err(ClientError::Refused(failure)) => match failure.exit_code {
            Some(code) => Ok(Begun::Refused(failure, code)),
            None => Err(Problem::failed(failure)),
        },
        Err(error) => Err(Problem::failed(error)),
    }
}

/// An id that no exec of an earlier agent has.
fn next_id() -> Result<ExecId, runtime::proto::NameError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (agent, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    ExecId::try_from(format!("{agent}-{number}-{}", crate::node::now().unix_nanos()))
}

/// The container's own process with another command: its user, environment, capabilities and limits stay.
fn process(spec: &Spec, wanted: &ExecRequest) -> Process {
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(wanted.command.clone()));
    process.set_terminal(Some(wanted.tty));
    if wanted.tty {
        let mut env = process.env().clone().unwrap_or_default();
        if !env.iter().any(|variable| variable.starts_with("TERM=")) {
            env.push("TERM=xterm".into());
        }
        process.set_env(Some(env));
    }
    process
}

async fn relay(begun: Begun, stream: TokioIo<Upgraded>) -> io::Result<()> {
    let (from_caller, mut to_caller) = tokio::io::split(stream);
    match begun {
        Begun::Running(running) => running.relay(from_caller, to_caller).await,
        Begun::Refused(failure, code) => {
            let message = format!("{}\n", failure.message);
            frame::write(&mut to_caller, Channel::Stderr, message.as_bytes()).await?;
            send_outcome(&mut to_caller, &Outcome::Exited(code)).await
        }
    }
}

type Caller = TokioIo<Upgraded>;

impl Running {
    /// Relays until the process has ended, or the caller is gone: then the streams close, and what reads or writes them
    /// learns of it.
    async fn relay(mut self, from_caller: ReadHalf<Caller>, mut to_caller: WriteHalf<Caller>) -> io::Result<()> {
        let (send, mut output) = mpsc::channel(8);
        // To be waited for, a terminal is a pipe like any other.
        let (reader, writer) = (
            pipe::Receiver::from_owned_fd_unchecked,
            pipe::Sender::from_owned_fd_unchecked,
        );
        let input = match self.streams {
            ExecStreams::Pipes { stdin, stdout, stderr } => {
                tokio::spawn(read_all(reader(nonblocking(stdout)?)?, Channel::Stdout, send.clone()));
                tokio::spawn(read_all(reader(nonblocking(stderr)?)?, Channel::Stderr, send));
                stdin.map(|stdin| writer(nonblocking(stdin)?)).transpose()?
            }
            ExecStreams::Terminal(master) => {
                let master = nonblocking(master)?;
                tokio::spawn(read_all(reader(master.try_clone()?)?, Channel::Stdout, send));
                Some(writer(master)?)
            }
        };
        let mut input = tokio::spawn(feed(from_caller, input));
        let mut outcome = None;
        let mut is_input_over = false;
        loop {
            let patience = async {
                match outcome {
                    Some(_) => tokio::time::sleep(DRAIN).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = wait_for_end(&mut self.listener, &self.key, &self.id), if outcome.is_none() => outcome = Some(ended),
                chunk = output.recv() => match chunk {
                    Some((channel, bytes)) => frame::write(&mut to_caller, channel, &bytes).await?,
                    None => break,
                },
                gone = &mut input, if !is_input_over => {
                    is_input_over = true;
                    if matches!(gone, Ok(CallerIs::Gone)) {
                        return Ok(());
                    }
                }
                () = patience => break,
            }
        }
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => wait_for_end(&mut self.listener, &self.key, &self.id).await,
        };
        input.abort();
        send_outcome(&mut to_caller, &outcome).await
    }
}

async fn send_outcome(out: &mut (impl AsyncWrite + Unpin), outcome: &Outcome) -> io::Result<()> {
    frame::write(out, Channel::Outcome, &serde_json::to_vec(outcome)?).await
}

async fn wait_for_end(listener: &mut Listener, key: &ContainerKey, id: &ExecId) -> Outcome {
    loop {
        match listener.next().await {
            Ok(Event::ExecExited {
                key: ended,
                exec_id,
                exit_code,
            }) if ended == *key && exec_id == *id => {
                return Outcome::Exited(exit_code);
            }
            Ok(Event::ExecExited { .. } | Event::Exited { .. }) => {}
            Err(error) => return Outcome::Failed(format!("{:#}", anyhow::Error::from(error))),
        }
    }
}

/// The pipe or terminal, so that nobody blocks on it. The process has the other end and doesn't notice.
fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok(fd)
}

async fn read_all(mut from: pipe::Receiver, channel: Channel, send: mpsc::Sender<(Channel, Vec<u8>)>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if send.send((channel, buffer[..count].to_vec())).await.is_err() {
            return;
        }
    }
}

/// Why nothing more comes from the caller.
enum CallerIs {
    Gone,
    Deaf,
}

/// Hands on what the caller sends: input, its end, and sizes of the terminal.
async fn feed(mut from: impl AsyncRead + Unpin, mut input: Option<pipe::Sender>) -> CallerIs {
    while let Ok(Some((channel, payload))) = frame::read(&mut from).await {
        match channel {
            Channel::Stdin if payload.is_empty() => input = None,
            Channel::Stdin => {
                if let Some(pipe) = &mut input
                    && pipe.write_all(&payload).await.is_err()
                {
                    input = None;
                }
            }
            Channel::Resize => {
                if let Some(terminal) = &input {
                    resize(terminal, &payload);
                }
            }
            Channel::Stdout | Channel::Stderr | Channel::Outcome => return CallerIs::Deaf,
        }
    }
    CallerIs::Gone
}

/// A terminal whose size can't be set keeps the one it has.
fn resize(terminal: &pipe::Sender, payload: &[u8]) {
    let Ok(size) = serde_json::from_slice::<Size>(payload) else {
        return;
    };
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    if let Err(error) = rustix::termios::tcsetwinsize(terminal, size) {
        tracing::debug!(%error, "terminal not resized");
    }
}
