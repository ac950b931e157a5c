//! The agent's side of a podshim's socket: connect, ask, wait for events. Blocking; every wait has a limit.
//!
//! Requests and events use separate connections, so that a reader of events never stands in the way of a request:
//! [`Connection`] asks one thing at a time, and [`Connection::subscribe`] turns a connection into [`Events`], whose
//! descriptor may be polled by any loop. Subscribe first and list afterwards, and no exit goes unseen.

mod link;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use link::{Deadline, Link};

use crate::proto::frame::{self, FrameError};
use crate::proto::{
    ClientFrame, ContainerKey, ContainerState, Create, Event, Exec, ExecId, Failure, NEWEST_VERSION, OLDEST_VERSION,
    Reply, Request, ServerFrame, Stream, Welcome,
};

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the shim is gone (`ConnectionRefused`, `NotFound`), or too busy to accept in time.
    #[error("connect to the shim at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The connection broke; a new one is needed.
    #[error("talk to the shim")]
    Io(#[source] io::Error),
    /// No answer in time; a new connection is needed.
    #[error("the shim did not answer within {0:?}")]
    Timeout(Duration),
    /// The shim said something that is no message, or not the answer to what was asked; a new connection is needed.
    #[error("the shim broke the protocol")]
    Frame(#[from] FrameError),
    /// The shim answered with something else than the request calls for; a new connection is needed.
    #[error("the shim answered {answer} to {asked}")]
    Unexpected {
        /// What it said.
        answer: String,
        /// What was asked.
        asked: &'static str,
    },
    /// The shim refused or failed; the connection remains good.
    #[error("the shim refused")]
    Refused(#[source] Failure),
    /// An earlier error has broken this connection.
    #[error("the connection to the shim is broken")]
    Broken,
}

impl ClientError {
    /// Whether nobody listens on the socket: the shim is gone for good.
    pub fn is_shim_gone(&self) -> bool {
        let Self::Connect { source, .. } = self else {
            return false;
        };
        matches!(
            source.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
        )
    }
}

/// The answer to [`Connection::create`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The container's first process.
    pub pid: u32,
    /// What the host could not enforce, one sentence each.
    pub unenforced: Vec<String>,
}

/// The answer to [`Connection::exec`]. Its exit comes as [`Event::ExecExited`] and stays in the list for a while.
#[derive(Debug)]
pub struct Executed {
    /// The process.
    pub pid: u32,
    /// Our ends of its streams. They are blocking; the process sees end of file or hang-up when they are dropped.
    pub streams: ExecStreams,
}

/// Our ends of an exec's streams.
#[derive(Debug)]
pub enum ExecStreams {
    /// Three pipes, or two without stdin.
    Pipes {
        /// Write end, when asked for.
        stdin: Option<OwnedFd>,
        /// Read end.
        stdout: OwnedFd,
        /// Read end.
        stderr: OwnedFd,
    },
    /// The master side of a terminal.
    Terminal(OwnedFd),
}

/// A connection that asks one thing at a time.
#[derive(Debug)]
pub struct Connection {
    link: Link,
    welcome: Welcome,
    next_id: u64,
    is_broken: bool,
}

impl Connection {
    /// Connects to a shim's socket and agrees on a version, all within `timeout`.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let deadline = Instant::now() + timeout;
        let stream = link::open(path, timeout).map_err(|source| ClientError::Connect {
            path: path.into(),
            source,
        })?;
        let nobody = Welcome {
            version: 0,
            pid: 0,
            start_time: 0,
            build: String::new(),
        };
        let mut connection = Self {
            link: Link::new(stream),
            welcome: nobody,
            next_id: 1,
            is_broken: false,
        };
        let hello = Request::Hello {
            oldest: OLDEST_VERSION,
            newest: NEWEST_VERSION,
        };
        let (reply, _) = connection.call(hello, deadline.saturating_duration_since(Instant::now()))?;
        let Reply::Hello(welcome) = reply else {
            return Err(connection.unexpected(&reply, "hello"));
        };
        connection.welcome = welcome;
        Ok(connection)
    }

    /// Who answered.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// The state of all containers, ordered by name and attempt.
    pub fn list(&mut self, timeout: Duration) -> Result<Vec<ContainerState>, ClientError> {
        let (reply, _) = self.call(Request::List, timeout)?;
        let Reply::Containers(containers) = reply else {
            return Err(self.unexpected(&reply, "list"));
        };
        Ok(containers)
    }

    /// Creates a container up to the point where its program could start.
    pub fn create(&mut self, create: Create, timeout: Duration) -> Result<Created, ClientError> {
        let (reply, _) = self.call(Request::Create(Box::new(create)), timeout)?;
        let Reply::Created { pid, unenforced } = reply else {
            return Err(self.unexpected(&reply, "create"));
        };
        Ok(Created { pid, unenforced })
    }

    /// Lets a created container's program run. When it can't be run, the exit is on record with reason `StartError`.
    pub fn start(&mut self, key: &ContainerKey, timeout: Duration) -> Result<(), ClientError> {
        self.perform(Request::Start(key.clone()), "start", timeout)
    }

    /// Sends a signal to a container's first process, or with `all` to each process of its cgroup.
    pub fn signal(&mut self, key: &ContainerKey, signal: i32, all: bool, timeout: Duration) -> Result<(), ClientError> {
        self.perform(
            Request::Signal {
                key: key.clone(),
                signal,
                all,
            },
            "signal",
            timeout,
        )
    }

    /// Forgets an exited container and removes its directory and cgroup.
    pub fn delete(&mut self, key: &ContainerKey, timeout: Duration) -> Result<(), ClientError> {
        self.perform(Request::Delete(key.clone()), "delete", timeout)
    }

    /// Runs a further process in a running container.
    pub fn exec(&mut self, exec: Exec, timeout: Duration) -> Result<Executed, ClientError> {
        let (reply, descriptors) = self.call(Request::Exec(Box::new(exec)), timeout)?;
        let Reply::Exec { pid, ref streams } = reply else {
            return Err(self.unexpected(&reply, "exec"));
        };
        let Some(streams) = sort(streams, descriptors) else {
            return Err(self.unexpected(&reply, "exec"));
        };
        Ok(Executed { pid, streams })
    }

    /// Sets the size of an exec's terminal, or of the container's own.
    pub fn resize(
        &mut self,
        key: &ContainerKey,
        exec_id: Option<&ExecId>,
        (rows, columns): (u16, u16),
        timeout: Duration,
    ) -> Result<(), ClientError> {
        let request = Request::Resize {
            key: key.clone(),
            exec_id: exec_id.cloned(),
            rows,
            columns,
        };
        self.perform(request, "resize", timeout)
    }

    /// Sends a signal to an exec.
    pub fn signal_exec(
        &mut self,
        key: &ContainerKey,
        exec_id: &ExecId,
        signal: i32,
        timeout: Duration,
    ) -> Result<(), ClientError> {
        let request = Request::SignalExec {
            key: key.clone(),
            exec_id: exec_id.clone(),
            signal,
        };
        self.perform(request, "signal an exec", timeout)
    }

    /// Opens a container's log file anew, after the caller has renamed the old one.
    pub fn reopen_log(&mut self, key: &ContainerKey, timeout: Duration) -> Result<(), ClientError> {
        self.perform(Request::ReopenLog(key.clone()), "reopen a log", timeout)
    }

    /// Ends the shim; refused while a container is alive.
    pub fn shutdown(mut self, timeout: Duration) -> Result<(), ClientError> {
        self.perform(Request::Shutdown, "shutdown", timeout)
    }

    /// Turns this connection into a source of events.
    pub fn subscribe(mut self, timeout: Duration) -> Result<Events, ClientError> {
        self.perform(Request::Subscribe, "subscribe", timeout)?;
        self.link.stream.set_read_timeout(None).map_err(ClientError::Io)?;
        Ok(Events { link: self.link })
    }

    fn perform(&mut self, request: Request, asked: &'static str, timeout: Duration) -> Result<(), ClientError> {
        let (reply, _) = self.call(request, timeout)?;
        if reply == Reply::Done {
            Ok(())
        } else {
            Err(self.unexpected(&reply, asked))
        }
    }

    fn unexpected(&mut self, answer: &Reply, asked: &'static str) -> ClientError {
        self.is_broken = true;
        ClientError::Unexpected {
            answer: format!("{answer:.80?}"),
            asked,
        }
    }

    fn call(&mut self, request: Request, timeout: Duration) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        if self.is_broken {
            return Err(ClientError::Broken);
        }
        let answer = self.exchange(request, timeout);
        self.is_broken = !matches!(answer, Ok(_) | Err(ClientError::Refused(_)));
        answer
    }

    fn exchange(&mut self, request: Request, timeout: Duration) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let deadline = Deadline::after(timeout);
        self.link
            .send(&frame::encode(&ClientFrame { id, request })?, deadline)?;
        match self.link.receive(deadline)? {
            ServerFrame::Reply { id: answered, outcome } if answered == id => {
                let descriptors = std::mem::take(&mut self.link.descriptors);
                outcome.map(|reply| (reply, descriptors)).map_err(ClientError::Refused)
            }
            other @ (ServerFrame::Reply { .. } | ServerFrame::Event(_)) => Err(ClientError::Unexpected {
                answer: format!("{other:.80?}"),
                asked: "another request",
            }),
        }
    }
}

fn sort(streams: &[Stream], descriptors: Vec<OwnedFd>) -> Option<ExecStreams> {
    use Stream::{Stderr, Stdin, Stdout, Terminal};
    let mut descriptors = VecDeque::from(descriptors);
    let mut take = || descriptors.pop_front();
    let sorted = match streams {
        [Terminal] => ExecStreams::Terminal(take()?),
        [Stdin, Stdout, Stderr] => ExecStreams::Pipes {
            stdin: Some(take()?),
            stdout: take()?,
            stderr: take()?,
        },
        [Stdout, Stderr] => ExecStreams::Pipes {
            stdin: None,
            stdout: take()?,
            stderr: take()?,
        },
        _ => return None,
    };
    descriptors.is_empty().then_some(sorted)
}

/// A connection that only listens. A subscriber that reads too slowly is cut off by the shim: an error here means to
/// connect, subscribe and list again.
#[derive(Debug)]
pub struct Events {
    link: Link,
}

impl Events {
    /// Waits for the next event; `None` when there was none within `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Event>, ClientError> {
        match self.link.receive(Deadline::after(timeout)) {
            Ok(frame) => event(frame).map(Some),
            Err(ClientError::Timeout(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The next event if it is there already; for a loop that polls the descriptor of [`AsFd`]. Call it until it says
    /// `None`.
    pub fn poll(&mut self) -> Result<Option<Event>, ClientError> {
        self.link.poll()?.map(event).transpose()
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.stream.as_fd()
    }
}

fn event(frame: ServerFrame) -> Result<Event, ClientError> {
    match frame {
        ServerFrame::Event(event) => Ok(event),
        ServerFrame::Reply { .. } => Err(ClientError::Unexpected {
            answer: format!("{frame:.80?}"),
            asked: "nothing",
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    fn socket(name: &str) -> (PathBuf, UnixListener) {
        let path = std::env::temp_dir().join(format!("orlop-client-{name}-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        (path, listener)
    }

    #[test]
    fn a_socket_without_a_listener_says_that_the_shim_is_gone() {
        let (path, listener) = socket("gone");
        drop(listener);
        assert!(Connection::connect(&path, LONG).unwrap_err().is_shim_gone());
        std::fs::remove_file(&path).unwrap();
        assert!(Connection::connect(&path, LONG).unwrap_err().is_shim_gone());
    }

    #[test]
    fn a_shim_that_never_answers_costs_the_timeout_and_no_more() {
        let (path, _listener) = socket("silent");
        let error = Connection::connect(&path, SHORT).unwrap_err();
        assert!(
            matches!(error, ClientError::Timeout(_)) && !error.is_shim_gone(),
            "{error:?}"
        );
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_answer_that_is_no_frame_is_an_error() {
        let (path, listener) = socket("garbage");
        let answerer = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let _ = stream.read(&mut [0; 1024]);
            stream.write_all(&[0xff; 64]).unwrap();
        });
        assert!(matches!(Connection::connect(&path, LONG), Err(ClientError::Frame(_))));
        answerer.join().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
