//! The door into existing namespaces: where a user namespace is concerned, a process of its own enters them and makes the
//! container's process there, as a child of ours, and ends.
//!
//! Who enters a user namespace can't come back, and who is to be born in one must not need a right over the others that
//! it is to be in. The same process is brought to a cgroup that we may not put a process into.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::prctl::set_dumpable;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};

use super::error::{CreateError, host};
use super::launch::{end, receive, say};
use super::{Exit, SingleThreaded};
use crate::cgroup::systemd::Unit;
use crate::guard::Guard;
use crate::report::{Report, START};
use crate::step::NamespaceFile;
use crate::sys::channel::send_with_fd;
use crate::sys::clone::{Child, Parent, clone3, clone3_for, exit_now};
use crate::sys::fd::close_inherited;
use crate::sys::namespace::setns;
use crate::sys::pidfd::pid_of;

/// The step that reports a failed clone; those before it are the namespaces.
const CLONE: u32 = u32::MAX;

/// At most so many namespaces are entered: one of each kind.
const KINDS: usize = 8;

/// How the process comes to its cgroup.
#[derive(Clone, Copy)]
pub(super) enum Way<'a> {
    /// It is born there; without one in ours.
    Birth(Option<BorrowedFd<'a>>),
    /// systemd brings who makes it there.
    Brought(Unit<'a>, &'a Path),
}

/// As [`clone3`], with the process in the namespaces of `door`.
pub(super) fn clone_through(
    token: &SingleThreaded,
    door: &[NamespaceFile],
    namespaces: libc::c_int,
    way: Way<'_>,
    run: impl FnOnce(),
) -> Result<Child, CreateError> {
    let socket = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = socket.map_err(|errno| host("make a channel to the door", errno))?;
    let (cgroup, is_brought) = match way {
        Way::Birth(cgroup) => (cgroup, false),
        Way::Brought(..) => (None, true),
    };
    let usher = clone3(token, 0, None, || {
        close_inherited(ours.as_fd());
        if is_brought && !hears(theirs.as_fd()) {
            return;
        }
        let result = keep_others_out(door).and_then(|()| enter(door)).and_then(|()| {
            let run = || {
                // Whoever waits for a word sees its end when this usher has ended.
                close_inherited(theirs.as_fd());
                run();
            };
            let child = clone3_for(token, Parent::Ours, namespaces, cgroup, run);
            let child = child.map_err(|errno| (CLONE, errno))?;
            send_with_fd(theirs.as_fd(), &Report::Born.encode(), child.pidfd.as_fd()).map_err(|errno| (CLONE, errno))
        });
        if let Err((step, errno)) = result {
            let _ = crate::init::send(theirs.as_fd(), Report::Failed { step, errno });
        }
        exit_now(0);
    });
    let usher = usher.map_err(|errno| host("clone a process to enter the namespaces", errno))?;
    drop(theirs);
    if let Way::Brought(unit, into) = way
        && let Err(error) = bring(&usher, unit, into, ours.as_fd())
    {
        end(usher.pidfd.as_fd());
        return Err(error);
    }
    let born = receive(ours.as_fd()).map_err(|error| host("hear from the door", error));
    let _ = Exit::wait(usher.pidfd.as_fd());
    child_of(born?, door)
}

/// Has the usher brought to its cgroup, and tells it so.
fn bring(usher: &Child, unit: Unit<'_>, into: &Path, channel: BorrowedFd<'_>) -> Result<(), CreateError> {
    unit.attach(usher.pid, into)?;
    say(channel, START).map_err(|errno| host("let the door open", errno))
}

/// Whether the word has come; nothing comes from who has gone.
fn hears(channel: BorrowedFd<'_>) -> bool {
    let mut word = [0];
    loop {
        match recv(channel.as_raw_fd(), &mut word, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            heard => return heard == Ok(1),
        }
    }
}

/// Who is in the namespaces can't look into what is made there, not even before its first step.
fn keep_others_out(door: &[NamespaceFile]) -> Result<(), (u32, Errno)> {
    if door.is_empty() || Guard::UndumpableJoin.is_out() {
        return Ok(());
    }
    set_dumpable(false).map_err(|errno| (CLONE, errno))
}

/// Those that we have a right over before the user namespace, the others from within it.
fn enter(door: &[NamespaceFile]) -> Result<(), (u32, Errno)> {
    let mut entered = [false; KINDS];
    for (entered, namespace) in entered.iter_mut().zip(door).filter(|(_, file)| !is_user(file)) {
        *entered = join(namespace).is_ok();
    }
    let rest = (0_u32..).zip(door).zip(entered).filter(|(_, entered)| !entered);
    let rest = rest.map(|(numbered, _)| numbered);
    let join = |(index, namespace): (u32, &NamespaceFile)| join(namespace).map_err(|errno| (index, errno));
    rest.clone().filter(|(_, file)| is_user(file)).try_for_each(join)?;
    rest.filter(|(_, file)| !is_user(file)).try_for_each(join)
}

fn is_user(namespace: &NamespaceFile) -> bool {
    namespace.kind & libc::CLONE_NEWUSER != 0
}

fn join(namespace: &NamespaceFile) -> nix::Result<()> {
    let file = namespace.file.as_ref().ok_or(Errno::EBADF)?;
    setns(file.as_fd(), namespace.kind)
}

fn child_of(
    (report, mut passed): (Option<Report>, Vec<OwnedFd>),
    door: &[NamespaceFile],
) -> Result<Child, CreateError> {
    match report {
        Some(Report::Born) => {
            let pidfd = passed.pop().ok_or(CreateError::Died)?;
            let pid = pid_of(pidfd.as_fd()).ok_or(CreateError::Died)?;
            Ok(Child { pid, pidfd })
        }
        Some(Report::Failed { step, errno }) => {
            let namespace = usize::try_from(step).ok().and_then(|step| door.get(step));
            let action = namespace.map_or_else(
                || "clone the container's process".to_owned(),
                |namespace| format!("join the namespace {}", namespace.path.display()),
            );
            Err(host(&action, errno))
        }
        // What it has made sees that nobody talks to it, and ends, too.
        None => Err(host(
            "clone the container's process",
            io::Error::other("the process that enters the namespaces for it was killed"),
        )),
        Some(Report::Ready | Report::Terminal | Report::Hooks | Report::Listener { .. }) => Err(CreateError::Died),
    }
}
