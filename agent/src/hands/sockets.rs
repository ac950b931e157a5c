//! Ends sockets from outside, by sock_diag(7). A datagram socket that is connected to a backend goes on sending there when
//! the backend is gone, and nobody tells it; ended, its owner hears of it and connects anew.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use cni::netns::Netns;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const UDP: u8 = 17;
/// `1 << TCP_ESTABLISHED`, which is the state of a connected datagram socket.
const CONNECTED: u32 = 1 << 1;
/// Bytes of `struct nlmsghdr` and of `struct inet_diag_sockid`.
const HEADER: usize = 16;
const IDENTITY: usize = 48;

/// Ends every connected UDP socket whose peer is one of these, in the caller's network namespace and in those that the
/// files stand for; comes back with how many there were. A namespace that is gone has none.
///
/// # Errors
/// When the kernel can't list or end sockets: it lacks UDP_DIAG or INET_DIAG_DESTROY.
pub fn destroy<'a>(peers: &BTreeSet<SocketAddr>, namespaces: impl Iterator<Item = &'a Path>) -> io::Result<usize> {
    let mut count = destroy_here(peers)?;
    for namespace in namespaces {
        if let Ok(namespace) = Netns::open(namespace) {
            count += namespace.run(|| destroy_here(peers))??;
        }
    }
    Ok(count)
}

fn destroy_here(peers: &BTreeSet<SocketAddr>) -> io::Result<usize> {
    let mut count = 0;
    for family in [AF_INET, AF_INET6] {
        for identity in connected(family)?
            .iter()
            .filter(|identity| peers.contains(&peer(family, identity)))
        {
            count += usize::from(end(family, identity)?);
        }
    }
    Ok(count)
}

/// The identities of the connected UDP sockets of a family.
fn connected(family: u8) -> io::Result<Vec<[u8; IDENTITY]>> {
    let socket = open()?;
    socket.send(
        &request(SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, family, CONNECTED, &[0; IDENTITY]),
        0,
    )?;
    let mut found = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        for (kind, message) in messages(&answer) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(error(message)),
                // Four bytes stand before the identity.
                _ => found.extend(
                    message
                        .get(4..4 + IDENTITY)
                        .and_then(|bytes| <[u8; IDENTITY]>::try_from(bytes).ok()),
                ),
            }
        }
    }
}

/// Whether the socket was still there to be ended.
fn end(family: u8, identity: &[u8; IDENTITY]) -> io::Result<bool> {
    const ENOENT: i32 = 2;
    let socket = open()?;
    socket.send(&request(SOCK_DESTROY, REQUEST | ACK, family, CONNECTED, identity), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    match messages(&answer).next() {
        Some((NLMSG_ERROR, message)) => match error(message) {
            done if done.raw_os_error() == Some(0) => Ok(true),
            gone if gone.raw_os_error() == Some(ENOENT) => Ok(false),
            failed => Err(failed),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    Ok(socket)
}

fn request(kind: u16, flags: u16, family: u8, states: u32, identity: &[u8; IDENTITY]) -> Vec<u8> {
    let length = HEADER + 8 + IDENTITY;
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).unwrap_or(0).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, UDP, 0, 0]);
    message.extend(states.to_ne_bytes());
    message.extend(identity);
    message
}

/// Kind and content of each message of an answer.
fn messages(answer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = answer;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        // A length below the header's is no message.
        let message = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, message))
    })
}

/// The error of an answer; the number zero is the kernel's "done".
fn error(message: &[u8]) -> io::Error {
    let number = message.get(..4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    number.map_or(io::ErrorKind::InvalidData.into(), |bytes| {
        io::Error::from_raw_os_error(-i32::from_ne_bytes(bytes))
    })
}

/// The peer of a socket: ports stand first, then the own address, then the peer's. A mapped address is an IPv4 one.
fn peer(family: u8, identity: &[u8; IDENTITY]) -> SocketAddr {
    let port = u16::from_be_bytes([identity[2], identity[3]]);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&identity[20..36]);
    let address = if family == AF_INET {
        IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
    } else {
        IpAddr::from(bytes).to_canonical()
    };
    SocketAddr::new(address, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_read_where_the_kernel_puts_it() {
        let mut identity = [0; IDENTITY];
        identity[2..4].copy_from_slice(&[0, 53]);
        identity[20..24].copy_from_slice(&[10, 244, 0, 2]);
        assert_eq!(peer(AF_INET, &identity), "10.244.0.2:53".parse().unwrap());
        identity[20..36].copy_from_slice(&"::ffff:10.244.0.3".parse::<std::net::Ipv6Addr>().unwrap().octets());
        assert_eq!(peer(AF_INET6, &identity), "10.244.0.3:53".parse().unwrap());
    }

    #[test]
    fn an_answer_that_is_cut_short_has_no_more_messages() {
        let whole = request(SOCK_DIAG_BY_FAMILY, REQUEST, AF_INET, CONNECTED, &[0; IDENTITY]);
        assert_eq!(messages(&whole).count(), 1);
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length]).count(), 0);
        }
        assert_eq!(messages(&[0; 64]).take(3).count(), 0);
    }
}
