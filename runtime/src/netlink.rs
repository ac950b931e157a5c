//! The little of rtnetlink(7) that moving a device takes: requests as bytes, and the messages that answer them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

/// Sizes of `struct nlmsghdr`, `ifinfomsg`, `ifaddrmsg` and `rtattr`.
const HEADER: usize = 16;
pub(crate) const LINK_HEADER: usize = 16;
pub(crate) const ADDRESS_HEADER: usize = 8;
const ATTRIBUTE: usize = 4;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// `NLM_F_ROOT | NLM_F_MATCH`
const DUMP: u16 = 0x300;
/// `NLM_F_CREATE | NLM_F_EXCL`
pub(crate) const NEW: u16 = 0x600;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// The longest answer to take, and the room for one part of it.
const LIMIT: usize = 1 << 20;
const PART: usize = 32 << 10;

/// A request that is being written.
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// One with more flags than the usual, and the fixed part that belongs to its kind (`RTM_*`).
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | ACK | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(fixed);
        Self { bytes }
    }

    /// One that asks for everything of its kind.
    pub(crate) fn dump(kind: u16, fixed: &[u8]) -> Self {
        Self::new(kind, DUMP, fixed)
    }

    /// Adds an attribute.
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(aligned(self.bytes.len()), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

/// The header of `struct ifinfomsg` for a device, with flags (`IFF_*`) to set.
pub(crate) fn link(index: i32, set: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&set.to_ne_bytes());
    header[12..].copy_from_slice(&set.to_ne_bytes());
    header
}

/// A socket in the network namespace of this process.
pub(crate) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        Ok(Self { socket })
    }

    /// Sends a request and returns what answers it: the kind and the body of each message.
    pub(crate) fn ask(&self, request: Request) -> io::Result<Vec<(u16, Vec<u8>)>> {
        let request = request.finish();
        sendto(
            self.socket.as_raw_fd(),
            &request,
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )?;
        let mut messages = Vec::new();
        let (mut part, mut total) = (vec![0; PART], 0);
        while total < LIMIT {
            let length = recv(self.socket.as_raw_fd(), &mut part, MsgFlags::MSG_TRUNC)?;
            let received = part.get(..length).ok_or(Errno::EMSGSIZE)?;
            total += length;
            if read(received, &mut messages)? {
                return Ok(messages);
            }
        }
        Err(Errno::EMSGSIZE.into())
    }
}

/// Takes the messages of one part of an answer; whether it was the last.
fn read(mut part: &[u8], messages: &mut Vec<(u16, Vec<u8>)>) -> io::Result<bool> {
    while let Some((length, kind)) = head(part) {
        let (message, rest) = part.split_at_checked(length).ok_or(io::ErrorKind::InvalidData)?;
        let body = message.get(HEADER..).ok_or(io::ErrorKind::InvalidData)?;
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = body.first_chunk().ok_or(io::ErrorKind::InvalidData)?;
                return match i32::from_ne_bytes(*code) {
                    0 => Ok(true),
                    code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                };
            }
            _ => messages.push((kind, body.to_vec())),
        }
        part = rest.get(aligned(length) - length..).unwrap_or_default();
    }
    Ok(false)
}

/// Length and kind of the message that begins here.
fn head(part: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(*part.first_chunk()?);
    let kind = u16::from_ne_bytes(*part.get(4..)?.first_chunk()?);
    Some((usize::try_from(length).ok()?.max(HEADER), kind))
}

/// The attributes behind a fixed part of `fixed` bytes, each with its kind.
pub(crate) fn attributes(body: &[u8], fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(fixed..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(ATTRIBUTE..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Messages and attributes begin at multiples of four.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let bytes = Request::new(16, 0, &link(7, 1)).with(3, b"eth0\0").finish();
        assert_eq!(bytes.len(), HEADER + LINK_HEADER + 12);
        assert_eq!(head(&bytes), Some((bytes.len(), 16)));
        let mut messages = Vec::new();
        assert!(!read(&bytes, &mut messages).unwrap());
        let [(16, body)] = messages.as_slice() else {
            panic!("{messages:?}")
        };
        assert_eq!(body[4..8], 7_i32.to_ne_bytes());
        assert_eq!(attributes(body, LINK_HEADER).collect::<Vec<_>>(), [(3, &b"eth0\0"[..])]);
    }

    #[test]
    fn random_answers_are_read_or_not() {
        crate::random::inputs("netlink", |bytes| {
            let mut messages = Vec::new();
            let _ = read(bytes, &mut messages);
            for (_, body) in messages {
                assert!(attributes(&body, ADDRESS_HEADER).count() <= body.len());
            }
        });
    }
}
