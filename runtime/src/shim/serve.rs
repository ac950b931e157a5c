//! The shim's one loop: wait, dispatch, reap, look at the clock. Bytes and events pass through here; what requests mean
//! is [`super::answer`]'s, what exits mean is [`super::reap`]'s.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::children::{Children, Container};
use super::clients::{Client, ClientGone};
use super::output::{Progress, Scratch};
use super::poller::{Poller, Source, Token};
use super::{record, report};
use crate::proto::{ContainerKey, Event, ServerFrame, Status, UnixNanos, Welcome};
use crate::sys::memory::give_back;

/// How many clients may be connected; a further one is closed at once.
const CLIENT_LIMIT: usize = 16;
/// How often a shim without living containers looks whether its pod's directory is still its own.
const IDLE_LOOK: Duration = Duration::from_secs(5);
/// How long nothing has to happen before a shim gives back the memory that waiting does not need.
const REST: Duration = Duration::from_secs(1);
/// How long to wait before an exit that could not be recorded is tried again.
const RECORD_RETRY: Duration = Duration::from_secs(1);

/// Everything that a shim holds.
#[derive(Debug)]
pub(super) struct Shim {
    pub(super) dir: PathBuf,
    pub(super) welcome: Welcome,
    pub(super) poller: Poller,
    pub(super) children: Children,
    pub(super) clients: BTreeMap<Token, Client>,
    pub(super) scratch: Scratch,
    /// Set by a shutdown: the loop ends after this turn.
    pub(super) is_over: bool,
    /// Nothing has happened for a while.
    is_resting: bool,
    /// Set by SIGTERM: the loop ends as soon as nothing is alive.
    is_leaving: bool,
    listener: UnixListener,
    signals: SignalFd,
}

impl Shim {
    /// Blocks the signals that the loop reads, and takes up what an earlier shim of this pod has left on record.
    pub(super) fn new(dir: PathBuf, listener: UnixListener, welcome: Welcome) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        listener.set_nonblocking(true)?;
        let mut poller = Poller::new()?;
        poller.add(&listener, Source::Listener)?;
        poller.add(&signals, Source::Signals)?;
        let children = Children {
            containers: recorded(&dir),
        };
        let (clients, scratch) = (BTreeMap::new(), Scratch::new());
        let (is_over, is_resting, is_leaving) = (false, false, false);
        Ok(Self {
            dir,
            welcome,
            poller,
            children,
            clients,
            scratch,
            is_over,
            is_resting,
            is_leaving,
            listener,
            signals,
        })
    }

    /// Serves until a shutdown, or until there is nothing left to serve.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut may_have_ended = true;
        while !self.is_over {
            let timeout = if may_have_ended {
                Some(Duration::ZERO)
            } else {
                self.timeout(Instant::now())
            };
            if self.is_resting {
                // Last of all: what is touched afterwards is there again.
                give_back();
            }
            let ready = self.poller.wait(timeout)?;
            let is_quiet = ready.is_empty();
            self.is_resting = is_quiet && timeout != Some(Duration::ZERO);
            for token in ready {
                may_have_ended |= self.dispatch(token);
            }
            may_have_ended = may_have_ended && self.reap();
            self.look_at_the_clock(Instant::now());
            self.is_over |= !self.children.any_alive() && (self.is_leaving || is_quiet && !self.owns_directory());
        }
        // The socket's file goes last: without it nobody can mistake this shim for one that answers.
        if self.owns_directory() {
            let _ = std::fs::remove_file(self.dir.join("shim.sock"));
        }
        Ok(())
    }

    /// Handles what is ready; tells whether a child may have ended.
    fn dispatch(&mut self, token: Token) -> bool {
        match self.poller.source(token) {
            Some(Source::Listener) => self.accept(),
            Some(Source::Signals) => return self.take_signals(),
            Some(Source::Client) => self.serve_client(token),
            Some(Source::Output(key)) => self.pump(&key, token),
            None => {}
        }
        false
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok((stream, _)) if self.clients.len() < CLIENT_LIMIT => {
                if let Err(error) = self.add_client(stream) {
                    report("take a client", &error);
                }
            }
            Ok((_refused, _)) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                report("accept a client", &error);
                // Out of descriptors or memory: the socket stays readable, and without a rest the loop would spin.
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn add_client(&mut self, stream: UnixStream) -> io::Result<()> {
        let client = Client::new(stream)?;
        let token = self.poller.add(&client, Source::Client)?;
        self.clients.insert(token, client);
        Ok(())
    }

    fn take_signals(&mut self) -> bool {
        while let Ok(Some(info)) = self.signals.read_signal() {
            self.is_leaving |= i32::try_from(info.ssi_signo) == Ok(Signal::SIGTERM as i32);
        }
        true
    }

    fn serve_client(&mut self, token: Token) {
        if let Err(gone) = self.converse(token) {
            self.drop_client(token, &gone);
        }
    }

    fn converse(&mut self, token: Token) -> Result<(), ClientGone> {
        let Some(client) = self.clients.get_mut(&token) else {
            return Ok(());
        };
        client.flush()?;
        // What came before the end of the connection is still answered: a client may ask and leave.
        let read = client.read(&mut self.scratch.chunk);
        while let Some(client) = self.clients.get_mut(&token) {
            let Some(json) = client.next_frame()? else { break };
            let (reply, descriptors) = self.answer(token, &json)?;
            let Some(client) = self.clients.get_mut(&token) else {
                break;
            };
            client.send(&reply, descriptors)?;
        }
        read?;
        self.watch_for_room(token);
        Ok(())
    }

    fn watch_for_room(&mut self, token: Token) {
        let Some(client) = self.clients.get_mut(&token) else {
            return;
        };
        if client.wants_room != client.is_waiting() {
            client.wants_room = client.is_waiting();
            if let Err(error) = self.poller.want_room(&*client, token, client.wants_room) {
                report("watch a client", &error);
            }
        }
    }

    fn drop_client(&mut self, token: Token, gone: &ClientGone) {
        match gone {
            ClientGone::Ended => {}
            ClientGone::Slow | ClientGone::Frame(_) => report("serve a client", gone),
        }
        if let Some(client) = self.clients.remove(&token) {
            self.poller.remove(&client, token);
        }
        self.children.disown(token);
    }

    /// Tells all subscribers; one that can't take it is cut off.
    pub(super) fn broadcast(&mut self, event: &Event) {
        let message = ServerFrame::Event(event.clone());
        let subscribers: Vec<Token> = self
            .clients
            .iter()
            .filter(|(_, client)| client.is_subscribed)
            .map(|(token, _)| *token)
            .collect();
        for token in subscribers {
            let Some(client) = self.clients.get_mut(&token) else {
                continue;
            };
            match client.send(&message, Vec::new()) {
                Ok(()) => self.watch_for_room(token),
                Err(gone) => self.drop_client(token, &gone),
            }
        }
    }

    fn pump(&mut self, key: &ContainerKey, token: Token) {
        let Some(container) = self.children.containers.get_mut(key) else {
            return;
        };
        let Some(live) = &mut container.live else { return };
        let Some(index) = live.outputs.iter().position(|output| output.token == token) else {
            return;
        };
        if live.outputs[index].pump(now(), &mut live.log, &mut self.scratch) == Progress::Ended {
            let output = live.outputs.swap_remove(index);
            self.poller.remove(&output, token);
            container.settle();
        }
    }

    /// When to look again though nothing has happened; never while all is well and something lives and the shim rests.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        let close = self
            .children
            .next_close()
            .map(|close_at| close_at.saturating_duration_since(now));
        let retry = self.children.any_unrecorded().then_some(RECORD_RETRY);
        let idle = (!self.children.any_alive()).then_some(IDLE_LOOK);
        let rest = (!self.is_resting).then_some(REST);
        [close, retry, idle, rest].into_iter().flatten().min()
    }

    fn look_at_the_clock(&mut self, now: Instant) {
        if self.children.next_close().is_some_and(|close_at| close_at <= now) {
            self.close_overdue(now);
        }
        if self.children.any_unrecorded() {
            self.record_again();
        }
    }

    /// Whether the pod's directory is still there and no other shim has been put in this one's place.
    fn owns_directory(&self) -> bool {
        record::read_shim(&self.dir).is_ok_and(|shim| shim.as_ref() == Some(&self.welcome))
    }
}

/// The ended containers of the pod directory. One that did not end on record is for the agent to judge.
fn recorded(dir: &std::path::Path) -> BTreeMap<ContainerKey, Container> {
    let pod = record::read_pod(dir).unwrap_or_else(|error| {
        report("take up earlier records", &error);
        record::PodRecord::default()
    });
    let ended = pod
        .containers
        .into_iter()
        .filter(|state| state.status == Status::Exited);
    ended
        .map(|state| (state.key.clone(), Container::ended(state)))
        .collect()
}

/// The time of day.
pub(crate) fn now() -> UnixNanos {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    UnixNanos(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
}
