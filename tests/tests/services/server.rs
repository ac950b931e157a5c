//! Backends: servers on loopback addresses that say who they are.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU32, Ordering};

use agent_core::service::Protocol;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage};

/// A server that runs until the test's process ends.
pub(crate) struct Backend {
    /// What it answers.
    pub(crate) label: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
}

/// A TCP server that says its label and closes. Call within the namespace.
pub(crate) fn tcp(address: &str) -> impl FnOnce() -> Backend + Send {
    serve_tcp(address, |mut connection, label| {
        // A client that has gone is its own affair.
        let _ = connection.write_all(label.as_bytes());
    })
}

/// A TCP server that reads to the end, says its label, who asked and how many bytes there were. Call within the namespace.
pub(crate) fn witness(address: &str) -> impl FnOnce() -> Backend + Send {
    serve_tcp(address, |mut connection, label| {
        let label = label.to_owned();
        std::thread::spawn(move || {
            let from = connection
                .peer_addr()
                .map(|peer| peer.ip().to_string())
                .unwrap_or_default();
            let count = std::io::copy(&mut connection, &mut std::io::sink()).unwrap_or(0);
            // A client that has gone is its own affair.
            let _ = connection.write_all(format!("{label} {from} {count}").as_bytes());
        });
    })
}

/// A TCP server that says its label for whatever it reads. Call within the namespace.
pub(crate) fn echo(address: &str) -> impl FnOnce() -> Backend + Send {
    serve_tcp(address, |mut connection, label| {
        let label = label.to_owned();
        std::thread::spawn(move || {
            while connection.read(&mut [0; 64]).is_ok_and(|count| count > 0) {
                let _ = connection.write_all(label.as_bytes());
            }
        });
    })
}

fn serve_tcp(address: &str, serve: impl Fn(TcpStream, &str) + Send + 'static) -> impl FnOnce() -> Backend + Send {
    let listener_address: SocketAddr = address.parse().unwrap();
    move || {
        let listener = TcpListener::bind(listener_address).unwrap();
        let backend = backend(listener.local_addr().unwrap(), Protocol::Tcp);
        let label = backend.label.clone();
        std::thread::spawn(move || {
            listener
                .incoming()
                .flatten()
                .for_each(|connection| serve(connection, &label))
        });
        backend
    }
}

/// A UDP server that answers its label. Call within the namespace.
pub(crate) fn udp(address: &str) -> impl FnOnce() -> Backend + Send {
    serve_udp(address, |_, _, label| label.as_bytes().to_vec())
}

/// A UDP server that says its label, who asked and how many bytes there were. Call within the namespace.
pub(crate) fn udp_witness(address: &str) -> impl FnOnce() -> Backend + Send {
    serve_udp(address, |from, count, label| {
        // As long as the question, so that the answer is in pieces, too.
        let mut answer = format!("{label} {} {count} ", from.ip()).into_bytes();
        answer.resize(count.max(answer.len()), b' ');
        answer
    })
}

fn serve_udp(
    address: &str,
    answer: impl Fn(SocketAddr, usize, &str) -> Vec<u8> + Send + 'static,
) -> impl FnOnce() -> Backend + Send {
    let socket_address: SocketAddr = address.parse().unwrap();
    move || {
        let socket = UdpSocket::bind(socket_address).unwrap();
        let backend = backend(socket.local_addr().unwrap(), Protocol::Udp);
        let label = backend.label.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok((count, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&answer(from, count, &label), from);
            }
        });
        backend
    }
}

/// What ends a message to [`sctp_witness`]: an association has no end of one side alone.
pub(crate) const END: u8 = b'.';

/// An SCTP server that says its label, who asked and how many bytes there were. Call within the namespace.
pub(crate) fn sctp_witness(address: &str) -> impl FnOnce() -> Backend + Send {
    let address: SocketAddr = address.parse().unwrap();
    move || {
        let listener = sctp_socket(address).unwrap();
        socket::bind(listener.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
        socket::listen(&listener, Backlog::new(16).unwrap()).unwrap();
        let backend = backend(address, Protocol::Sctp);
        let label = backend.label.clone();
        // Whoever takes a stream of either protocol can do the same with it.
        let listener = TcpListener::from(listener);
        std::thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                let from = connection.peer_addr().unwrap().ip();
                let (mut count, mut buffer) = (0, [0; 4096]);
                while let Ok(length @ 1..) = connection.read(&mut buffer) {
                    count += length;
                    if buffer[length - 1] == END {
                        let _ = connection.write_all(format!("{label} {from} {}", count - 1).as_bytes());
                    }
                }
            }
        });
        backend
    }
}

/// A socket of SCTP for one association at a time.
pub(crate) fn sctp_socket(address: SocketAddr) -> nix::Result<std::os::fd::OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp)
}

fn backend(address: SocketAddr, protocol: Protocol) -> Backend {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let label = format!("backend{}", COUNT.fetch_add(1, Ordering::Relaxed));
    Backend {
        label,
        address,
        protocol,
    }
}
