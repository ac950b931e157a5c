//! One connected client: bytes in, frames out, descriptors along with their frame. It knows nothing of containers.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::proto::ServerFrame;
use crate::proto::frame::{self, Decoder, FrameError};
use crate::sys;

/// What may wait for a client to read it, in bytes and in frames; a client with more is cut off. It loses nothing by
/// that: the list tells everything.
const QUEUE_BYTES: usize = 2 * frame::FRAME_LIMIT;
const QUEUE_FRAMES: usize = 1024;

/// What is read from a client in one turn.
const TURN: usize = 64 << 10;

/// Why a client has to go.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientGone {
    /// It closed the connection, or the connection broke.
    #[error("connection ended")]
    Ended,
    /// It does not read what it is told.
    #[error("client reads too slowly")]
    Slow,
    /// It does not speak in frames.
    #[error("client broke the protocol")]
    Frame(#[from] FrameError),
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
}

/// A connected client.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    decoder: Decoder,
    queue: VecDeque<Outgoing>,
    queued_bytes: usize,
    /// The version agreed on.
    pub(super) version: Option<u32>,
    /// Whether it asked for events.
    pub(super) is_subscribed: bool,
    /// Whether the poller watches it for room.
    pub(super) wants_room: bool,
}

impl Client {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            decoder: Decoder::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            version: None,
            is_subscribed: false,
            wants_room: false,
        })
    }

    /// Takes what the client has sent by now, up to one turn's worth.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<(), ClientGone> {
        let mut taken = 0;
        while taken < TURN {
            match self.stream.read(buffer) {
                Ok(0) => return Err(ClientGone::Ended),
                Ok(length) => {
                    self.decoder.push(&buffer[..length]);
                    taken += length;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(ClientGone::Ended),
            }
        }
        Ok(())
    }

    /// The next whole frame.
    pub(super) fn next_frame(&mut self) -> Result<Option<Vec<u8>>, ClientGone> {
        Ok(self.decoder.next_frame()?)
    }

    /// Queues a message and sends what finds room.
    pub(super) fn send(&mut self, message: &ServerFrame, descriptors: Vec<OwnedFd>) -> Result<(), ClientGone> {
        let bytes = frame::encode(message)?;
        self.queued_bytes += bytes.len();
        self.queue.push_back(Outgoing {
            bytes,
            sent: 0,
            descriptors,
        });
        self.flush()?;
        let is_slow = self.queued_bytes > QUEUE_BYTES || self.queue.len() > QUEUE_FRAMES;
        if is_slow { Err(ClientGone::Slow) } else { Ok(()) }
    }

    /// Sends what finds room.
    pub(super) fn flush(&mut self) -> Result<(), ClientGone> {
        while let Some(next) = self.queue.front_mut() {
            match sys::socket::send(self.stream.as_fd(), &next.bytes[next.sent..], &next.descriptors) {
                Ok(sent) => {
                    next.descriptors.clear();
                    next.sent += sent;
                    self.queued_bytes -= sent;
                    if next.sent == next.bytes.len() {
                        self.queue.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(ClientGone::Ended),
            }
        }
        Ok(())
    }

    /// Whether something waits for room.
    pub(super) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for Client {
    /// A container that waits for its start holds a copy of the socket; only a shutdown tells the client.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::proto::Reply;

    fn pair() -> (Client, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        (Client::new(here).unwrap(), there)
    }

    fn done() -> ServerFrame {
        ServerFrame::Reply {
            id: 1,
            outcome: Ok(Reply::Done),
        }
    }

    #[test]
    fn a_client_that_never_reads_is_cut_off() {
        let (mut client, _there) = pair();
        let gone = (0..1_000_000).find_map(|_| client.send(&done(), Vec::new()).err());
        assert!(matches!(gone, Some(ClientGone::Slow)));
        assert!(client.queued_bytes <= QUEUE_BYTES + 64);
    }

    #[test]
    fn a_frame_may_come_in_pieces_and_the_end_is_seen() {
        let (mut client, mut there) = pair();
        let bytes = frame::encode(&"hello").unwrap();
        let mut buffer = [0; 16];
        for half in bytes.chunks(5) {
            assert_eq!(client.next_frame().unwrap(), None);
            there.write_all(half).unwrap();
            client.read(&mut buffer).unwrap();
        }
        assert_eq!(client.next_frame().unwrap().as_deref(), Some(&b"\"hello\""[..]));
        drop(there);
        assert!(matches!(client.read(&mut buffer), Err(ClientGone::Ended)));
    }

    #[test]
    fn dropping_a_client_ends_the_connection_even_while_a_copy_is_open() {
        let (client, mut there) = pair();
        let _copy = client.as_fd().try_clone_to_owned().unwrap();
        drop(client);
        assert_eq!(there.read(&mut [0; 1]).unwrap(), 0);
    }
}
