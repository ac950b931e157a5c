//! One stream of a container's output on its way into the log.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::cri::{Splitter, Stream};
use super::logs::Log;
use super::poller::Token;
use crate::proto::UnixNanos;

/// What is read at once. Half a pipe, so that one loud container does not keep the others waiting.
const CHUNK: usize = 32 << 10;

/// What is read from one stream after its container's end: more than the largest pipe (`pipe-max-size`, 1 MiB) holds.
/// Without this limit a process that survives the container and writes on could hold up the exit record.
const DRAIN_LIMIT: usize = 2 << 20;

/// Buffers that all streams share.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) chunk: Vec<u8>,
    entries: Vec<u8>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            chunk: vec![0; CHUNK],
            entries: Vec::new(),
        }
    }
}

/// How a stream stands after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// So many bytes were read; there may be more.
    Read(usize),
    /// There is nothing to read now.
    Empty,
    /// Nobody can write to it any more, and its last line is in the log.
    Ended,
}

/// The read end of a pipe, or a terminal's master side.
#[derive(Debug)]
pub(super) struct Output {
    descriptor: File,
    stream: Stream,
    splitter: Splitter,
    pub(super) token: Token,
}

impl Output {
    /// Takes a descriptor; it becomes non-blocking. `token` is to be set by who registers it.
    pub(super) fn new(descriptor: OwnedFd, stream: Stream) -> io::Result<Self> {
        fcntl(&descriptor, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            descriptor: descriptor.into(),
            stream,
            splitter: Splitter::default(),
            token: 0,
        })
    }

    /// Moves one chunk into the log.
    pub(super) fn pump(&mut self, now: UnixNanos, log: &mut Log, scratch: &mut Scratch) -> Progress {
        match self.descriptor.read(&mut scratch.chunk) {
            Ok(0) => self.end(now, log, scratch),
            Ok(length) => {
                let said = &scratch.chunk[..length];
                log.write(now, self.stream, &mut self.splitter, said, &mut scratch.entries);
                Progress::Read(length)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Progress::Empty,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Progress::Read(0),
            // A terminal whose last user is gone answers EIO.
            Err(_) => self.end(now, log, scratch),
        }
    }

    /// Moves everything that is there by now into the log, up to [`DRAIN_LIMIT`].
    pub(super) fn drain(&mut self, now: UnixNanos, log: &mut Log, scratch: &mut Scratch) -> Progress {
        let mut total = 0;
        loop {
            match self.pump(now, log, scratch) {
                Progress::Read(length) if total < DRAIN_LIMIT => total += length,
                Progress::Read(_) => return Progress::Read(0),
                ended_or_empty @ (Progress::Empty | Progress::Ended) => return ended_or_empty,
            }
        }
    }

    /// Writes the unfinished line; nothing more will be read.
    pub(super) fn end(&mut self, now: UnixNanos, log: &mut Log, scratch: &mut Scratch) -> Progress {
        log.finish(now, self.stream, &mut self.splitter, &mut scratch.entries);
        Progress::Ended
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
