//! Places to mount on behind a symbolic link that leads nowhere yet, as `/etc/resolv.conf` of many images does: what the
//! link names is made, inside the root. Only for what [`super::inside`] could not make by the path as it stands.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::inside::{DIRECTORY, exists_or, make_directory_in, make_file_in, open};
use crate::container_path::last_name;
use crate::sys::directory::readlinkat;

/// So many links are followed (as many as the kernel follows itself).
const LINKS: usize = 40;
/// Longest path, with its null byte (`PATH_MAX`).
const ROOM: usize = 4096;

/// What is to be at the end of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    Directory,
    File,
}

/// Opens `path` below `root` and makes what is missing on the way, through links to what is missing, too.
pub(super) fn make(root: BorrowedFd<'_>, path: &CStr, last: Last) -> nix::Result<OwnedFd> {
    let mut way = Way::new(path)?;
    for _ in 0..LINKS {
        match way.walk(root, last)? {
            Walked::There(place) => return Ok(place),
            Walked::Link { directory, from, to } => way.follow(&directory, from, to)?,
        }
    }
    Err(Errno::ELOOP)
}

/// How far a walk came.
enum Walked {
    There(OwnedFd),
    /// The component in these bytes, in this directory, is a link to nothing.
    Link {
        directory: OwnedFd,
        from: usize,
        to: usize,
    },
}

/// A path that grows while links are followed. Whatever of it exists is left to the kernel, `..` behind a link too.
struct Way {
    text: [u8; ROOM],
    length: usize,
}

impl Way {
    fn new(path: &CStr) -> nix::Result<Self> {
        let mut way = Self {
            text: [0; ROOM],
            length: 0,
        };
        way.append(path.to_bytes())?;
        Ok(way)
    }

    fn append(&mut self, part: &[u8]) -> nix::Result<()> {
        let end = self.length + part.len();
        // The last byte stays null.
        let room = self.text[..ROOM - 1].get_mut(self.length..end);
        room.ok_or(Errno::ENAMETOOLONG)?.copy_from_slice(part);
        self.length = end;
        Ok(())
    }

    /// Start and end of the first component at `start` or behind it.
    fn component(&self, start: usize) -> Option<(usize, usize)> {
        let rest = &self.text[start..self.length];
        let from = start + rest.iter().position(|byte| *byte != b'/')?;
        let length = self.text[from..self.length].iter().position(|byte| *byte == b'/');
        Some((from, length.map_or(self.length, |length| from + length)))
    }

    fn walk(&self, root: BorrowedFd<'_>, last: Last) -> nix::Result<Walked> {
        let mut directory = open(root, c".", DIRECTORY)?;
        let mut next = self.component(0);
        while let Some((from, to)) = next {
            next = self.component(to);
            let kind = if next.is_some() { Last::Directory } else { last };
            let mut prefix = [0; ROOM];
            prefix[..to].copy_from_slice(&self.text[..to]);
            let prefix = CStr::from_bytes_until_nul(&prefix).map_err(|_| Errno::ENAMETOOLONG)?;
            directory = match step(root, &directory, prefix, kind) {
                Err(Errno::ENOENT) => return Ok(Walked::Link { directory, from, to }),
                result => result?,
            };
        }
        Ok(Walked::There(directory))
    }

    /// Puts what the link says in its place.
    fn follow(&mut self, directory: &OwnedFd, from: usize, to: usize) -> nix::Result<()> {
        let mut before = Self {
            text: self.text,
            length: from,
        };
        let rest = &self.text[to..self.length];
        let (mut name, mut target) = ([0; ROOM], [0; ROOM]);
        name[..to - from].copy_from_slice(&self.text[from..to]);
        let name = CStr::from_bytes_until_nul(&name).map_err(|_| Errno::ENAMETOOLONG)?;
        let length = readlinkat(directory.as_fd(), name, &mut target)?;
        if target[0] == b'/' {
            before.length = 0;
        }
        before.append(&target[..length])?;
        before.append(rest)?;
        *self = before;
        Ok(())
    }
}

/// Opens `prefix`, whose last name is in `directory`, and makes it if it is missing. `ENOENT` is a link to nothing.
fn step(root: BorrowedFd<'_>, directory: &OwnedFd, prefix: &CStr, kind: Last) -> nix::Result<OwnedFd> {
    let flags = match kind {
        Last::Directory => DIRECTORY,
        Last::File => OFlag::O_PATH,
    };
    match open(root, prefix, flags) {
        Err(Errno::ENOENT) => {}
        result => return result,
    }
    let name = last_name(prefix);
    exists_or(match kind {
        Last::Directory => make_directory_in(directory.as_fd(), name),
        Last::File => make_file_in(directory.as_fd(), name),
    })?;
    open(root, prefix, flags)
}
