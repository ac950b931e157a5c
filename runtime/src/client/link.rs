//! Frames over a unix stream socket, with the descriptors that come along and with deadlines. It knows no messages'
//! meaning.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;

use super::ClientError;
use crate::proto::ServerFrame;
use crate::proto::frame::{self, Decoder};
use crate::sys;

#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    timeout: Duration,
}

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Self {
        Self {
            at: Instant::now() + timeout,
            timeout,
        }
    }

    fn remaining(self) -> Result<Duration, ClientError> {
        let remaining = self.at.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            Err(ClientError::Timeout(self.timeout))
        } else {
            Ok(remaining)
        }
    }

    fn error(self, source: io::Error) -> ClientError {
        let is_late = matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        if is_late {
            ClientError::Timeout(self.timeout)
        } else {
            ClientError::Io(source)
        }
    }
}

/// Frames over a stream; remembers the descriptors that came with them.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: UnixStream,
    decoder: Decoder,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Link {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
            descriptors: Vec::new(),
        }
    }

    pub(super) fn send(&mut self, mut bytes: &[u8], deadline: Deadline) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            self.stream
                .set_write_timeout(Some(deadline.remaining()?))
                .map_err(ClientError::Io)?;
            match sys::socket::send(self.stream.as_fd(), bytes, &[]) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(deadline.error(error)),
            }
        }
        Ok(())
    }

    pub(super) fn receive(&mut self, deadline: Deadline) -> Result<ServerFrame, ClientError> {
        loop {
            if let Some(json) = self.decoder.next_frame()? {
                return Ok(frame::decode(&json)?);
            }
            self.stream
                .set_read_timeout(Some(deadline.remaining()?))
                .map_err(ClientError::Io)?;
            self.fill(true).map_err(|error| deadline.error(error))?;
        }
    }

    pub(super) fn poll(&mut self) -> Result<Option<ServerFrame>, ClientError> {
        loop {
            if let Some(json) = self.decoder.next_frame()? {
                return Ok(Some(frame::decode(&json)?));
            }
            match self.fill(false) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(ClientError::Io(error)),
            }
        }
    }

    fn fill(&mut self, wait: bool) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        match sys::socket::receive(self.stream.as_fd(), &mut buffer, &mut self.descriptors, wait) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.decoder.push(&buffer[..length]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Connects; the send timeout bounds the wait for room in the listener's queue (`unix_stream_connect` in the kernel).
pub(super) fn open(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let micros = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX).max(1);
    setsockopt(
        &socket,
        sockopt::SendTimeout,
        &TimeVal::new(micros / 1_000_000, micros % 1_000_000),
    )?;
    let address = UnixAddr::new(path)?;
    let raw = std::os::fd::AsRawFd::as_raw_fd(&socket);
    loop {
        match connect(raw, &address) {
            Ok(()) => return Ok(socket.into()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
