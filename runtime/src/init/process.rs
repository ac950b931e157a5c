//! Steps about the process itself.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstat, stat, umask};
use nix::unistd::{
    AccessFlags, Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, faccessat, fchdir, fchown, read, setgroups, setresgid,
    setresuid, write,
};

use super::{Init, inside};
use crate::container_path::ContainerPath;
use crate::guard::Guard;
use crate::report::{MAPPED, Report, START};
use crate::step::{CapabilitySets, Groups, Identity, NamespaceFile, Program, SeccompFilter};
use crate::sys::clone::exit_now;
use crate::sys::exec::execve;
use crate::sys::{capability, namespace, seccomp};

/// By write(2), which the strictest seccomp filter allows. Nobody who listens: SIGPIPE ends the process, as it should.
pub(crate) fn send(channel: BorrowedFd<'_>, report: Report) -> nix::Result<()> {
    write(channel, &report.encode()).map(drop)
}

/// Sends `report` and returns what the parent says to it. Ends the process when the parent goes away instead.
pub(super) fn wait_for_word(channel: BorrowedFd<'_>, report: Report) -> nix::Result<u8> {
    send(channel, report)?;
    hear(channel)
}

/// The next word of the parent. Ends the process when the parent has gone away.
fn hear(channel: BorrowedFd<'_>) -> nix::Result<u8> {
    let mut word = [0];
    loop {
        match read(channel, &mut word) {
            Ok(1) => return Ok(word[0]),
            Ok(_) => exit_now(super::FAILED),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Goes on when the parent has handed the listener over: from here on calls may wait for its answer.
pub(super) fn install_filter(filter: &SeccompFilter, channel: BorrowedFd<'_>) -> nix::Result<()> {
    if !filter.listens {
        return seccomp::set_mode_filter(&filter.program, filter.flags);
    }
    let listener = seccomp::set_mode_filter_with_listener(&filter.program, filter.flags)?;
    let number = listener.as_raw_fd().cast_unsigned();
    match wait_for_word(channel, Report::Listener { number })? {
        START => Ok(()),
        _ => exit_now(super::FAILED),
    }
}

pub(super) fn wait_for_hooks(channel: BorrowedFd<'_>) -> nix::Result<()> {
    match wait_for_word(channel, Report::Hooks)? {
        START => Ok(()),
        _ => exit_now(super::FAILED),
    }
}

/// Waits, for as long as it takes, for the start byte in a pipe that never ends. Other bytes are no start.
pub(super) fn wait_at_gate(start: BorrowedFd<'_>) -> nix::Result<()> {
    let mut word = [0];
    loop {
        match read(start, &mut word) {
            Ok(1) if word == [START] => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether one of the candidates could be executed, in the words that exec would have for it.
pub(super) fn find_program(candidates: &[CString]) -> nix::Result<()> {
    let mut reason = Errno::ENOENT;
    for candidate in candidates {
        match executable(candidate) {
            Ok(()) => return Ok(()),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => reason = errno,
        }
    }
    Err(reason)
}

fn executable(path: &CStr) -> nix::Result<()> {
    faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)?;
    match stat(path)?.st_mode & libc::S_IFMT {
        libc::S_IFREG => Ok(()),
        _ => Err(Errno::EACCES),
    }
}

/// Kernels without keys, and users who have too many, share their parent's keyring: it holds nothing of ours.
pub(super) fn new_session_keyring(label: Option<&CStr>) -> nix::Result<()> {
    label.map_or(Ok(()), label_new_keys)?;
    match namespace::join_new_session_keyring() {
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EDQUOT) => Ok(()),
        result => result,
    }
}

/// Until its exec. The host's /proc is in sight, and no container's process has a part in it.
fn label_new_keys(label: &CStr) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = open(c"/proc/thread-self/attr/keycreate", flags, Mode::empty())?;
    write(&file, label.to_bytes()).map(drop)
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

/// The host's /proc is in sight, and no container's process has a part in it. Once this process is in the namespace, its
/// clocks are fixed; until then only its next child would be born there (time_namespaces(7)).
pub(super) fn new_time_namespace(offsets: &CStr) -> nix::Result<()> {
    namespace::unshare(libc::CLONE_NEWTIME)?;
    if !offsets.is_empty() {
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = open(c"/proc/self/timens_offsets", flags, Mode::empty())?;
        write(&file, offsets.to_bytes())?;
    }
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let children = open(c"/proc/self/ns/time_for_children", flags, Mode::empty())?;
    namespace::setns(children.as_fd(), libc::CLONE_NEWTIME)
}

/// Only pipes: what else a caller passes is not ours to give away. A pipe whose owner is outside of the user namespace
/// stays as it is; the parent has done what could be done.
pub(super) fn own_streams(owner: u32) -> nix::Result<()> {
    for number in 0..3 {
        let stream = crate::sys::fd::fixed(number);
        if fstat(stream)?.st_mode & libc::S_IFMT == libc::S_IFIFO {
            match fchown(stream, Some(Uid::from_raw(owner)), None) {
                Ok(()) | Err(Errno::EPERM | Errno::EINVAL) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

/// Waits for the parent's word that the maps are there.
pub(super) fn await_mappings(channel: BorrowedFd<'_>) -> nix::Result<()> {
    if hear(channel)? == MAPPED {
        Ok(())
    } else {
        Err(Errno::EPROTO)
    }
}

pub(super) fn become_namespace_root(groups: Groups) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    if groups == Groups::Set {
        setgroups(&[])?;
    }
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

/// Keeps the capabilities for the step that sets them: a change from root to another user would drop them.
pub(super) fn set_user(identity: &Identity) -> nix::Result<()> {
    nix::sys::prctl::set_keepcaps(true)?;
    if identity.groups == Groups::Set {
        setgroups(&identity.additional_gids)?;
    }
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
        fchdir(directory)?;
        // Whatever has become of the directory meanwhile: it must have a path from the root (CVE-2024-21626).
        if Guard::ResolvedInside.is_out() || crate::sys::directory::is_working_directory_reachable()? {
            Ok(())
        } else {
            Err(Errno::ENOENT)
        }
    }
}
