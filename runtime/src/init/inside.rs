//! Paths inside the container's root: resolved by the kernel within it, and made on the way.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};

use super::dangling::{self, Last};
use crate::container_path::{ContainerPath, last_name};
use crate::guard::Guard;

/// How often a lookup is tried again that a rename elsewhere in the system has disturbed (`EAGAIN` of openat2(2)).
const ATTEMPTS: u32 = 64;

/// Opens `path` below `root` with `flags`. Symbolic links lead somewhere inside the root; magic links nowhere.
pub(crate) fn open(root: BorrowedFd<'_>, path: &CStr, flags: OFlag) -> nix::Result<OwnedFd> {
    if Guard::ResolvedInside.is_out() {
        return openat(root, path, flags | OFlag::O_CLOEXEC, Mode::empty());
    }
    open_resolving(
        root,
        path,
        flags,
        ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    )
}

/// As [`open()`], but a symbolic link anywhere in the path is `ELOOP`.
pub(super) fn open_without_links(root: BorrowedFd<'_>, path: &CStr, flags: OFlag) -> nix::Result<OwnedFd> {
    open_resolving(
        root,
        path,
        flags,
        ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS,
    )
}

fn open_resolving(root: BorrowedFd<'_>, path: &CStr, flags: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    let mut result = Err(Errno::EAGAIN);
    for _ in 0..ATTEMPTS {
        result = openat2(root, path, how);
        if !matches!(result, Err(Errno::EAGAIN | Errno::EINTR)) {
            break;
        }
    }
    result
}

/// How a directory is opened to find, make or mount something in it.
pub(super) const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Opens the directory that the last of `prefixes` names, and makes what is missing on the way. Looks from the end for what
/// is there: as a rule no more than the last is missing.
pub(crate) fn make_directory(root: BorrowedFd<'_>, prefixes: &[CString]) -> nix::Result<OwnedFd> {
    let mut there = prefixes.len();
    let mut directory = loop {
        let path = prefixes[..there].last().map_or(c".", |prefix| prefix);
        match open(root, path, DIRECTORY) {
            Err(Errno::ENOENT) if there > 0 => there -= 1,
            result => break result?,
        }
    };
    for prefix in &prefixes[there..] {
        exists_or(make_directory_in(directory.as_fd(), last_name(prefix)))?;
        directory = match (open(root, prefix, DIRECTORY), prefixes.last()) {
            (Err(Errno::ENOENT), Some(whole)) => return dangling::make(root, whole, Last::Directory),
            (result, _) => result?,
        };
    }
    Ok(directory)
}

/// Opens the file at `path` as a place to mount on, and makes it, empty, if it is missing.
pub(crate) fn make_file(root: BorrowedFd<'_>, path: &ContainerPath) -> nix::Result<OwnedFd> {
    match open(root, path.relative(), OFlag::O_PATH) {
        Err(Errno::ENOENT) => {}
        result => return result,
    }
    let (parents, name) = path.split().ok_or(Errno::EISDIR)?;
    let directory = make_directory(root, parents)?;
    exists_or(make_file_in(directory.as_fd(), name))?;
    match open(root, path.relative(), OFlag::O_PATH) {
        Err(Errno::ENOENT) => dangling::make(root, path.relative(), Last::File),
        result => result,
    }
}

pub(super) fn make_directory_in(directory: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    mkdirat(directory, name, Mode::from_bits_truncate(0o755))
}

pub(super) fn make_file_in(directory: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(directory, name, flags, Mode::from_bits_truncate(0o644)).map(drop)
}

/// Success, also when the thing was there already.
pub(super) fn exists_or(result: nix::Result<()>) -> nix::Result<()> {
    match result {
        Err(Errno::EEXIST) => Ok(()),
        result => result,
    }
}
