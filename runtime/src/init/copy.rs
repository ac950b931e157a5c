//! Copies a directory into a new tmpfs that is about to hide it (`tmpcopyup`).

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchownat, read, symlinkat, write};

use crate::sys::directory::Entries;

/// How deep directories may lie in each other; each level takes some of the stack. Deeper ones are `ENAMETOOLONG`.
const DEPTH_LIMIT: u32 = 64;

/// The longest target of a symbolic link, with its end.
const PATH_LIMIT: usize = 4096;

/// Copies what is in `from` into `to`, with owners and modes, and gives `to` those of `from`. Nothing is followed: the
/// names come from the directory and are opened in it.
pub(super) fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> nix::Result<()> {
    copy_entries(&open_directory(from, c".")?, &open_directory(to, c".")?, 0)
}

fn copy_entries(from: &OwnedFd, to: &OwnedFd, depth: u32) -> nix::Result<()> {
    if depth == DEPTH_LIMIT {
        return Err(Errno::ENAMETOOLONG);
    }
    let mut entries = Entries::of(from.as_fd());
    while let Some(name) = entries.next_name()? {
        copy_entry(from, to, name, depth)?;
    }
    let status = fstat(from)?;
    nix::unistd::fchown(
        to,
        Some(Uid::from_raw(status.st_uid)),
        Some(Gid::from_raw(status.st_gid)),
    )?;
    fchmod(to, mode(&status))
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: u32) -> nix::Result<()> {
    let status = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    match status.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            mkdirat(to.as_fd(), name, Mode::S_IRWXU)?;
            return copy_entries(
                &open_directory(from.as_fd(), name)?,
                &open_directory(to.as_fd(), name)?,
                depth + 1,
            );
        }
        libc::S_IFREG => return copy_file(from, to, name, &status),
        libc::S_IFLNK => copy_link(from, to, name)?,
        kind => mknodat(
            to.as_fd(),
            name,
            SFlag::from_bits_truncate(kind),
            mode(&status),
            status.st_rdev,
        )?,
    }
    let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    fchownat(to.as_fd(), name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr, status: &FileStat) -> nix::Result<()> {
    let reading = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let writing = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let source = openat(from.as_fd(), name, reading, Mode::empty())?;
    let target = openat(to.as_fd(), name, writing, Mode::S_IRWXU)?;
    let mut chunk = [0; 16 << 10];
    loop {
        let length = read(&source, &mut chunk)?;
        let Some(mut left) = chunk.get(..length).filter(|left| !left.is_empty()) else {
            break;
        };
        while !left.is_empty() {
            let written = write(&target, left)?;
            left = left.get(written..).ok_or(Errno::EIO)?;
        }
    }
    let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    nix::unistd::fchown(&target, Some(uid), Some(gid))?;
    fchmod(&target, mode(status))
}

fn copy_link(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> nix::Result<()> {
    let mut buffer = [0; PATH_LIMIT];
    let length = crate::sys::directory::readlinkat(from.as_fd(), name, &mut buffer)?;
    let target = buffer.get(..=length).ok_or(Errno::ENAMETOOLONG)?;
    let target = CStr::from_bytes_with_nul(target).map_err(|_| Errno::ENAMETOOLONG)?;
    symlinkat(target, to.as_fd(), name)
}

fn open_directory(directory: BorrowedFd<'_>, name: &CStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

fn mode(status: &FileStat) -> Mode {
    Mode::from_bits_truncate(status.st_mode & 0o7777)
}
