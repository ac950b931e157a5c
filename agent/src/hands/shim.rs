//! Starts a pod's shim and keeps a connection to it. What the shim is told is said elsewhere.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use runtime::client::{ClientError, Connection, Events};
use runtime::proto::Event;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::paths::PodPaths;

/// How long a shim may take to say that it is ready. It execs, forks once and writes a file.
const READY: Duration = Duration::from_secs(30);
/// How long connecting may take; a shim answers from memory.
const CONNECT: Duration = Duration::from_secs(10);
/// How much of the shim's log goes into an error.
const LOG_TAIL: usize = 400;

/// Why a shim did not come up.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// A file or socket of it.
    #[error("{what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("podshim ended before it was ready ({status}): {log}")]
    Ended {
        /// Its exit status.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// It was not ready in time.
    #[error("podshim was not ready within {READY:?}")]
    Late,
}

/// Binds the pod's socket and starts its shim, which detaches at once: the agent is never its parent.
pub async fn start(podshim: &Path, paths: &PodPaths, cgroup: &Path) -> Result<(), ShimError> {
    fs::create_dir_all(cgroup).map_err(failed("create", cgroup))?;
    let listener = bind(paths)?;
    let log_path = paths.shim_log();
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(failed("open", &log_path))?;
    let child = Command::new(podshim)
        .arg("--pod-dir")
        .arg(&paths.run)
        .arg("--cgroup")
        .arg(cgroup)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log))
        .spawn()
        .map_err(failed("run", podshim))?;
    let (said, status) = tokio::time::timeout(READY, answer(child))
        .await
        .map_err(|_| ShimError::Late)?
        .map_err(failed("wait for", podshim))?;
    if said == b"ready\n" {
        Ok(())
    } else {
        let log = tail(&log_path);
        Err(ShimError::Ended { status, log })
    }
}

/// The socket is bound before the shim is there: who connects early waits in its queue.
fn bind(paths: &PodPaths) -> Result<UnixListener, ShimError> {
    let socket = paths.shim_socket();
    fs::create_dir_all(&paths.run).map_err(failed("create", &paths.run))?;
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &socket)(error)),
        Ok(()) | Err(_) => UnixListener::bind(&socket).map_err(failed("bind", &socket)),
    }
}

/// What the shim says on its readiness pipe, and how the process that detaches from us ends.
async fn answer(mut child: Child) -> io::Result<(Vec<u8>, ExitStatus)> {
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(64).read_to_end(&mut said).await?;
    }
    Ok((said, child.wait().await?))
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let start = text.len().saturating_sub(LOG_TAIL);
    String::from_utf8_lossy(&text[start..]).trim().replace('\n', "; ")
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ShimError {
    let path = path.to_path_buf();
    move |source| ShimError::File { what, path, source }
}

/// The connections of a pod's task to its shim: one that asks, one that listens. Either breaks with the shim; then both
/// are made anew.
#[derive(Debug, Default)]
pub struct ShimLink {
    open: Option<(Connection, Listener)>,
}

impl ShimLink {
    /// Asks; an error other than a refusal ends the link. Listening begins before the first question, so that no exit
    /// goes unseen. Blocks.
    pub fn ask<T>(
        &mut self,
        socket: &Path,
        question: impl FnOnce(&mut Connection) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let answer = self.connection(socket).and_then(question);
        if !matches!(answer, Ok(_) | Err(ClientError::Refused(_))) {
            self.open = None;
        }
        answer
    }

    fn connection(&mut self, socket: &Path) -> Result<&mut Connection, ClientError> {
        if self.open.is_none() {
            let listener = Listener::connect(socket)?;
            self.open = Some((Connection::connect(socket, CONNECT)?, listener));
        }
        self.open
            .as_mut()
            .map(|(connection, _)| connection)
            .ok_or(ClientError::Broken)
    }

    /// Ends the link; the next question makes it anew.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// Returns when the shim has told something, or is gone. Without a link it never returns.
    pub async fn told(&mut self) {
        let Some((_, listener)) = &mut self.open else {
            return std::future::pending().await;
        };
        match listener.next().await {
            Ok(event) => tracing::debug!(?event, "shim event"),
            Err(_) => self.open = None,
        }
    }
}

/// A connection that hears the shim's events.
#[derive(Debug)]
pub struct Listener {
    events: Events,
    readable: UnixStream,
}

impl Listener {
    /// Connects and subscribes. Blocks; needs tokio's context.
    pub fn connect(socket: &Path) -> Result<Listener, ClientError> {
        let events = Connection::connect(socket, CONNECT)?.subscribe(CONNECT)?;
        let readable = readable(&events).map_err(ClientError::Io)?;
        Ok(Listener { events, readable })
    }

    /// Waits for the next event; after an error the connection is of no more use.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            if let Some(event) = self.events.poll()? {
                return Ok(event);
            }
            self.readable.readable().await.map_err(ClientError::Io)?;
            // Readiness is taken back before the socket is polled again, so that none is lost.
            let _ = self
                .readable
                .try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
    }
}

/// The same socket, to be waited for only.
fn readable(events: &Events) -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(events.as_fd().try_clone_to_owned()?);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
