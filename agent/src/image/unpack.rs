//! Puts the entries of one layer into its directory, and nowhere else.
//!
//! Every name is resolved by `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)` from the layer's root fd, and changed
//! through fds or by its last component alone: the kernel never follows a link here. The directory must be reachable by
//! its owner alone while this runs, so that nobody else changes it meanwhile.
//!
//! Layers are unpacked one by one, not over each other. A directory that an entry implies but the layer doesn't list is
//! therefore made as it is in the layers below, or it would hide their owner and mode when overlay merges them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dev, FileType, Gid, Mode, OFlags, Timespec, Uid, chmodat, chownat, futimens, linkat, mkdirat, mknodat,
    openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::attributes::{dress, mtime, times};
use super::entry::{Entry, EntryPath, Kind};
use super::parents::{DIRECTORY, Parent, Parents, is_directory, make_directory_over, relative, set_opaque, stat_in};
use super::problem::{Problem, Result, UnpackError};
use super::view::{View, is_whiteout};

/// A layer's directory being filled.
pub(super) struct Unpacker<'a> {
    parents: Parents<'a>,
    below: &'a View,
    limit: u64,
    count: u64,
    /// Times of directories, set at the end because every entry made in a directory changes them.
    times: Vec<(Vec<OsString>, Timespec)>,
}

impl<'a> Unpacker<'a> {
    /// Fills `root`, an empty directory; `below` are the image's layers under this one; more than `limit` entries are
    /// refused.
    pub(super) fn new(root: &Path, below: &'a View, limit: u64) -> io::Result<Self> {
        let parents = Parents::new(root, below)?;
        Ok(Self {
            parents,
            below,
            limit,
            count: 0,
            times: Vec::new(),
        })
    }

    /// Makes one entry.
    pub(super) fn apply(&mut self, entry: &Entry, content: impl Read) -> Result<(), UnpackError> {
        self.make(entry, content)
            .map_err(|failure| failure.at(entry.path.to_string()))
    }

    /// Sets the directories' times. The innermost come last in most layers, so go backwards; order doesn't matter to
    /// the result, since setting times changes no directory's own.
    pub(super) fn finish(mut self) -> Result<(), UnpackError> {
        for (path, mtime) in std::mem::take(&mut self.times).into_iter().rev() {
            self.set_time(&path, mtime)
                .map_err(|failure| failure.at(relative(&path).display().to_string()))?;
        }
        Ok(())
    }

    fn set_time(&self, path: &[OsString], mtime: Timespec) -> Result<()> {
        match self.parents.open(path)? {
            Some(directory) => Ok(futimens(directory, &times(mtime))?),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn make(&mut self, entry: &Entry, content: impl Read) -> Result<()> {
        self.count += 1;
        if self.count > self.limit {
            return Err(Problem::Entries(self.limit).into());
        }
        let Some((name, parents)) = entry.path.components().split_last() else {
            return self.root(entry);
        };
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(parents, OsStr::from_bytes(hidden));
        }
        let parent = self.parents.find_or_make(parents)?;
        let into = parent.directory.as_fd();
        match &entry.kind {
            Kind::Directory => self.directory(&parent, name, entry)?,
            Kind::File { size } => self.file(into, name, entry, content.take(*size), *size)?,
            Kind::Symlink(target) => self.symlink(into, name, entry, target)?,
            Kind::HardLink(target) => self.hard_link(into, name, target)?,
            Kind::Character { major: 0, minor: 0 } => return Err(Problem::WhiteoutDevice.into()),
            Kind::Character { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                self.node(into, name, entry, FileType::CharacterDevice, device)?;
            }
            Kind::Block { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                self.node(into, name, entry, FileType::BlockDevice, device)?;
            }
            Kind::Fifo => self.node(into, name, entry, FileType::Fifo, 0)?,
        }
        self.parents.keep(parent);
        Ok(())
    }

    /// The entry of the layer's own root, `./`.
    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(Problem::Root.into());
        }
        dress(self.parents.root.as_fd(), entry)?;
        self.times.push((Vec::new(), mtime(entry)));
        Ok(())
    }

    fn directory(&mut self, parent: &Parent, name: &OsStr, entry: &Entry) -> Result<()> {
        let path = parent
            .real
            .iter()
            .map(OsString::as_os_str)
            .chain([name])
            .map(OsStr::to_owned)
            .collect();
        let parent = parent.directory.as_fd();
        let is_hiding = match mkdirat(parent, name, Mode::RWXU) {
            Ok(()) => false,
            Err(Errno::EXIST) => make_directory_over(parent, name)?,
            Err(error) => return Err(error.into()),
        };
        let directory = openat(parent, name, DIRECTORY, Mode::empty())?;
        dress(directory.as_fd(), entry)?;
        if is_hiding {
            set_opaque(directory.as_fd())?;
        }
        self.times.push((path, mtime(entry)));
        Ok(())
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
        mut from: impl Read,
        size: u64,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.instead(parent, name, || openat(parent, name, flags, Mode::RUSR | Mode::WUSR))?;
        let mut file = File::from(file);
        if io::copy(&mut from, &mut file)? != size {
            return Err(Problem::Truncated.into());
        }
        dress(file.as_fd(), entry)?;
        Ok(futimens(&file, &times(mtime(entry)))?)
    }

    fn symlink(&mut self, parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry, target: &OsStr) -> Result<()> {
        self.instead(parent, name, || symlinkat(target, parent, name))?;
        chownat(
            parent,
            name,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok(utimensat(
            parent,
            name,
            &times(mtime(entry)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    fn hard_link(&mut self, parent: BorrowedFd<'_>, name: &OsStr, target: &EntryPath) -> Result<()> {
        let Some((target_name, target_parents)) = target.components().split_last() else {
            return Err(Problem::LinkTarget.into());
        };
        let directory = self.parents.open(target_parents)?.ok_or(Problem::LinkTarget)?;
        let stat = stat_in(directory.as_fd(), target_name)?.ok_or(Problem::LinkTarget)?;
        if is_directory(&stat) || is_whiteout(&stat) {
            return Err(Problem::LinkTarget.into());
        }
        self.instead(parent, name, || {
            linkat(&directory, target_name, parent, name, AtFlags::empty())
        })
    }

    /// Devices lie in a directory of root's alone, and the runtime mounts the image `nodev`. Chmod by name is safe here:
    /// the name is a device that was made a moment ago, and nobody else may change the directory.
    fn node(&mut self, parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry, kind: FileType, device: Dev) -> Result<()> {
        self.instead(parent, name, || mknodat(parent, name, kind, Mode::empty(), device))?;
        chownat(
            parent,
            name,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        Ok(utimensat(
            parent,
            name,
            &times(mtime(entry)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// `.wh.NAME` hides NAME of the layers below, `.wh..wh..opq` all that they have in this directory
    /// (image-spec, layer.md#whiteouts). What this layer itself has stays, whichever comes first.
    fn whiteout(&mut self, parents: &[OsString], hidden: &OsStr) -> Result<()> {
        match hidden.as_bytes() {
            b"" | b"." | b".." => return Err(Problem::Whiteout.into()),
            b".wh..opq" => return set_opaque(self.parents.find_or_make(parents)?.directory.as_fd()),
            // The rest of that prefix is AUFS's own bookkeeping, which docker drops too.
            name if name.starts_with(b".wh.") => return Ok(()),
            _ => {}
        }
        // In a directory that nothing merges with, a whiteout would show up as a broken file.
        if !self.below.contains(parents, hidden)? {
            return Ok(());
        }
        let parent = self.parents.find_or_make(parents)?.directory;
        match mknodat(&parent, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => match openat(&parent, hidden, DIRECTORY, Mode::empty()) {
                Ok(directory) => set_opaque(directory.as_fd()),
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Makes something that must not exist yet; what an earlier entry put there goes, as with docker.
    fn instead<T>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let flags = if is_directory(&stat) {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        match unlinkat(parent, name, flags) {
            Err(Errno::NOTEMPTY) => return Err(Problem::OverDirectory.into()),
            other => other?,
        }
        if is_directory(&stat) {
            self.forget_directories();
        }
        Ok(make()?)
    }

    /// After a directory is gone, its time can't be set any more and fds of it lead nowhere.
    fn forget_directories(&mut self) {
        self.parents.forget();
        let kept = std::mem::take(&mut self.times);
        self.times = kept
            .into_iter()
            .filter(|(path, _)| matches!(self.parents.open(path), Ok(Some(_))))
            .collect();
    }
}
