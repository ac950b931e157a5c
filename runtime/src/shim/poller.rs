//! epoll with names: which of the shim's descriptors has something to say.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::proto::ContainerKey;

/// How many events are taken at once; the others come with the next turn.
const BATCH: usize = 64;

/// What a descriptor belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The listening socket.
    Listener,
    /// The signalfd.
    Signals,
    /// A client, by its token.
    Client,
    /// The output of a container.
    Output(ContainerKey),
}

/// Names one registration. Never used twice, so that an event which was already underway when its descriptor was
/// removed means nothing instead of something else.
pub(super) type Token = u64;

/// The registered descriptors.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: Epoll,
    sources: BTreeMap<Token, Source>,
    last: Token,
}

impl Poller {
    pub(super) fn new() -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self {
            epoll,
            sources: BTreeMap::new(),
            last: 0,
        })
    }

    /// Watches a descriptor for something to read.
    pub(super) fn add(&mut self, descriptor: impl AsFd, source: Source) -> nix::Result<Token> {
        let token = self.last + 1;
        self.epoll
            .add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        self.last = token;
        self.sources.insert(token, source);
        Ok(token)
    }

    /// Watches a descriptor for room to write, too, or no longer.
    pub(super) fn want_room(&self, descriptor: impl AsFd, token: Token, wants: bool) -> nix::Result<()> {
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, wants);
        self.epoll.modify(descriptor, &mut EpollEvent::new(flags, token))
    }

    /// Forgets a descriptor; must come before its close. epoll itself would only forget it when the last copy is
    /// closed, and a container that waits for its start holds copies of everything.
    pub(super) fn remove(&mut self, descriptor: impl AsFd, token: Token) {
        if self.sources.remove(&token).is_some() {
            // It fails only for a descriptor that was never added.
            let _ = self.epoll.delete(descriptor);
        }
    }

    /// Waits until something is ready, at most for `timeout`. An interruption counts as nothing ready.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> nix::Result<Vec<Token>> {
        let timeout = timeout.map_or(EpollTimeout::NONE, |timeout| {
            // One millisecond more, or a wait for half of one would spin.
            EpollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(EpollTimeout::MAX)
        });
        let mut events = [EpollEvent::empty(); BATCH];
        match self.epoll.wait(&mut events, timeout) {
            Ok(count) => Ok(events[..count].iter().map(EpollEvent::data).collect()),
            Err(Errno::EINTR) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        }
    }

    /// What a token stands for; `None` when it was removed since.
    pub(super) fn source(&self, token: Token) -> Option<Source> {
        self.sources.get(&token).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn tells_what_is_ready_and_forgets_what_was_removed() {
        let mut poller = Poller::new().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let token = poller.add(&reader, Source::Signals).unwrap();
        assert!(poller.wait(Some(Duration::ZERO)).unwrap().is_empty());
        writer.write_all(b"x").unwrap();
        assert_eq!(poller.wait(None).unwrap(), [token]);
        assert_eq!(poller.source(token), Some(Source::Signals));
        poller.remove(&reader, token);
        assert_eq!(poller.source(token), None);
        assert!(poller.wait(Some(Duration::ZERO)).unwrap().is_empty());
        assert_ne!(poller.add(&reader, Source::Listener).unwrap(), token);
    }
}
