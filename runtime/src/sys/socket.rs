//! Bytes and file descriptors over a connected unix stream socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

/// How many file descriptors may come or go with one call: what an exec needs at most.
pub(crate) const DESCRIPTOR_LIMIT: usize = 3;

/// Sends bytes and lets `descriptors` travel with the first of them; never raises SIGPIPE. Returns how many bytes went.
///
/// <https://man7.org/linux/man-pages/man7/unix.7.html> (SCM_RIGHTS)
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        flags,
        None,
    )?)
}

/// Sends bytes and one borrowed descriptor with them.
pub fn pass(socket: &UnixStream, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
    Ok(super::channel::send_with_fd(socket.as_fd(), bytes, descriptor)?)
}

/// Receives bytes into `buffer` and appends the file descriptors that came with them, close-on-exec, to `descriptors`.
/// Returns 0 at the end of the stream. With `wait` false an empty socket is `WouldBlock`.
///
/// More than [`DESCRIPTOR_LIMIT`] descriptors at once are an error; the kernel closes those that found no room.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
    wait: bool,
) -> io::Result<usize> {
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTOR_LIMIT]);
    let mut slices = [IoSliceMut::new(buffer)];
    let mut flags = MsgFlags::MSG_CMSG_CLOEXEC;
    flags.set(MsgFlags::MSG_DONTWAIT, !wait);
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    for part in message.cmsgs()? {
        let ControlMessageOwned::ScmRights(received) = part else {
            continue;
        };
        for raw in received {
            // SAFETY: the kernel has just installed `raw` in this process for this message, and nobody else knows it.
            descriptors.push(unsafe { OwnedFd::from_raw_fd(raw) });
        }
    }
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "more file descriptors than a message may carry",
        ));
    }
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_the_bytes() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        assert_eq!(send(here.as_fd(), b"hello", &[writer.into()]).unwrap(), 5);
        let (mut buffer, mut descriptors) = ([0; 16], Vec::new());
        assert_eq!(receive(there.as_fd(), &mut buffer, &mut descriptors, true).unwrap(), 5);
        File::from(descriptors.pop().unwrap()).write_all(b"x").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn too_many_descriptors_are_an_error_and_leak_nothing() {
        let (here, there) = UnixStream::pair().unwrap();
        let many: Vec<OwnedFd> = (0..8).map(|_| File::open("/dev/null").unwrap().into()).collect();
        send(here.as_fd(), b"x", &many).unwrap();
        let mut descriptors = Vec::new();
        assert!(receive(there.as_fd(), &mut [0; 1], &mut descriptors, true).is_err());
        assert!(descriptors.len() <= DESCRIPTOR_LIMIT + 1);
    }

    #[test]
    fn an_empty_socket_does_not_block_a_caller_that_will_not_wait() {
        let (_here, there) = UnixStream::pair().unwrap();
        let error = receive(there.as_fd(), &mut [0; 1], &mut Vec::new(), false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
