//! A network namespace of a test's own, entered only by throw-away threads.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sched::CloneFlags;

/// A fresh network namespace with `lo` up. It goes when this value is dropped and nobody else is in it.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
}

impl NetworkNamespace {
    /// Makes one.
    ///
    /// # Panics
    /// Without root.
    #[track_caller]
    pub fn new() -> Self {
        let made = std::thread::scope(|scope| scope.spawn(make).join().expect("making a namespace does not panic"));
        Self {
            file: made.expect("root may make a network namespace"),
        }
    }

    /// Runs `work` on a throw-away thread inside the namespace. Processes that it starts are inside, too.
    ///
    /// # Panics
    /// When `work` does, with the same message.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            enter(&self.file).expect("root may enter a namespace it made");
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A path by which this process and its children can open the namespace while this value lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// The inode number that names the namespace, as in `net:[4026531840]`.
    ///
    /// # Panics
    /// Never while the file is open.
    pub fn inode(&self) -> u64 {
        self.file.metadata().expect("an open file has metadata").ino()
    }
}

impl Default for NetworkNamespace {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "runs on a throw-away thread that NetworkNamespace::new made for it"
)]
fn make() -> io::Result<File> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
    raise_loopback()?;
    File::open("/proc/thread-self/ns/net")
}

#[expect(
    clippy::disallowed_methods,
    reason = "runs on a throw-away thread that NetworkNamespace::run made for it"
)]
fn enter(namespace: &File) -> io::Result<()> {
    Ok(nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

/// `lo` has index 1 in every namespace.
fn raise_loopback() -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = 1;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::SetLink(link)));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    let NetlinkPayload::Error(error) = answer.payload else {
        return Ok(());
    };
    if error.code.is_some() {
        Err(error.to_io())
    } else {
        Ok(())
    }
}
