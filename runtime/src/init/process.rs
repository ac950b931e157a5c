//! Steps about the process itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::stat::{Mode, fstat, umask};
use nix::unistd::{Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchdir, fchown, setgroups, setresgid, setresuid};

use super::{Init, inside};
use crate::container_path::ContainerPath;
use crate::report::{Report, START};
use crate::step::{CapabilitySets, Identity, NamespaceFile, Program};
use crate::sys::clone::exit_now;
use crate::sys::exec::execve;
use crate::sys::{capability, namespace};

pub(super) fn send(channel: BorrowedFd<'_>, report: Report) -> nix::Result<()> {
    use std::os::fd::AsRawFd;
    nix::sys::socket::send(channel.as_raw_fd(), &report.encode(), MsgFlags::MSG_NOSIGNAL).map(drop)
}

/// Ends the process when the parent goes away instead of starting it.
pub(super) fn wait_for_start(channel: BorrowedFd<'_>) -> nix::Result<()> {
    use std::os::fd::AsRawFd;
    send(channel, Report::Ready)?;
    let mut word = [0];
    loop {
        match recv(channel.as_raw_fd(), &mut word, MsgFlags::empty()) {
            Ok(1) if word == [START] => return Ok(()),
            Ok(_) => exit_now(super::FAILED),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Kernels without keys, and users who have too many, share their parent's keyring: it holds nothing of ours.
pub(super) fn new_session_keyring() -> nix::Result<()> {
    match namespace::join_new_session_keyring() {
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EDQUOT) => Ok(()),
        result => result,
    }
}

pub(super) fn use_streams([stdin, stdout, stderr]: &[OwnedFd; 3]) -> nix::Result<()> {
    dup2_stdin(stdin)?;
    dup2_stdout(stdout)?;
    dup2_stderr(stderr)
}

pub(super) fn join(namespace: &NamespaceFile) -> nix::Result<()> {
    let file = namespace.file.as_ref().ok_or(Errno::EBADF)?;
    namespace::setns(file.as_fd(), namespace.kind)
}

/// Only pipes: what else a caller passes is not ours to give away.
pub(super) fn own_streams(owner: u32) -> nix::Result<()> {
    for number in 0..3 {
        let stream = crate::sys::fd::fixed(number);
        if fstat(stream)?.st_mode & libc::S_IFMT == libc::S_IFIFO {
            fchown(stream, Some(Uid::from_raw(owner)), None)?;
        }
    }
    Ok(())
}

/// Keeps the capabilities for the step that sets them: a change from root to another user would drop them.
pub(super) fn set_user(identity: &Identity) -> nix::Result<()> {
    nix::sys::prctl::set_keepcaps(true)?;
    setgroups(&identity.additional_gids)?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

pub(super) fn set_capabilities(sets: CapabilitySets) -> nix::Result<()> {
    capability::capset(sets.effective, sets.permitted, sets.inheritable)?;
    capability::set_ambient(sets.ambient)
}

pub(super) fn set_umask(mask: u32) -> nix::Result<()> {
    umask(Mode::from_bits_truncate(mask));
    Ok(())
}

/// Goes on to the next candidate where a shell would; what was there but could not be executed is the better reason.
pub(super) fn execute(program: &Program) -> Errno {
    let mut reason = Errno::ENOENT;
    for candidate in &program.candidates {
        let errno = execve(candidate, &program.arguments, &program.environment);
        if errno == Errno::EACCES {
            reason = errno;
        } else if !matches!(errno, Errno::ENOENT | Errno::ENOTDIR) {
            return errno;
        }
    }
    reason
}

impl Init<'_> {
    pub(super) fn change_directory(&mut self, path: &ContainerPath) -> nix::Result<()> {
        let directory = inside::open(self.root()?, path.relative(), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        fchdir(directory)
    }
}
