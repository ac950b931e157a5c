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
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dev, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Uid, XattrFlags, chmodat, chownat, fchmod,
    fsetxattr, futimens, linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::attributes::{dress, mtime, own_as, times};
use super::entry::{Entry, EntryPath, Kind};
use super::view::{self, OPAQUE, View, is_whiteout};

/// Why an entry was refused, or couldn't be made.
#[derive(Debug, thiserror::Error)]
#[error("entry {path:?}: {problem}")]
pub struct UnpackError {
    path: String,
    problem: Problem,
    source: Option<io::Error>,
}

/// What is wrong with an entry in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("its path leads through a symbolic link")]
    ThroughLink,
    #[error("its path leads through something that is not a directory")]
    ThroughFile,
    #[error("a directory in place of something else in the same layer")]
    DirectoryOverOther,
    #[error("it would replace a directory that is not empty")]
    OverDirectory,
    #[error("its link target is not a file of the same layer")]
    LinkTarget,
    #[error("a whiteout that names nothing, or its own directory or parent")]
    Whiteout,
    #[error("a character device 0:0, which would hide files below")]
    WhiteoutDevice,
    #[error("the layer's root can only be a directory")]
    Root,
    #[error("its content ends early")]
    Truncated,
    #[error("more entries than the limit of {0}")]
    Entries(u64),
    #[error("make it")]
    System,
}

/// A layer's directory being filled.
pub(super) struct Unpacker<'a> {
    root: OwnedFd,
    below: &'a View,
    limit: u64,
    count: u64,
    /// Times of directories, set at the end because every entry made in a directory changes them.
    times: Vec<(Vec<OsString>, Timespec)>,
    /// The directory that the last entry was made in: most entries have the same as the one before.
    parent: Option<Parent>,
}

/// A directory that entries are made in.
struct Parent {
    /// As the entry names it.
    named: Vec<OsString>,
    /// Where that is, with the links of the layers below resolved.
    real: Vec<OsString>,
    directory: OwnedFd,
}

type Result<T, E = Failure> = std::result::Result<T, E>;

/// A problem before the entry's name is put to it.
pub(super) struct Failure(Problem, Option<io::Error>);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem, None)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(Problem::System, Some(error))
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        io::Error::from(error).into()
    }
}

impl<'a> Unpacker<'a> {
    /// Fills `root`, an empty directory; `below` are the image's layers under this one; more than `limit` entries are
    /// refused.
    pub(super) fn new(root: &Path, below: &'a View, limit: u64) -> io::Result<Self> {
        let root = openat(rustix::fs::CWD, root, DIRECTORY, Mode::empty())?;
        match below.stat(&[])? {
            Some(stat) => own_as(root.as_fd(), &stat)?,
            None => fchmod(&root, Mode::from_raw_mode(0o755))?,
        }
        Ok(Self {
            root,
            below,
            limit,
            count: 0,
            times: Vec::new(),
            parent: None,
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
        match self.open(path)? {
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
        let parent = self.parent(parents)?;
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
        self.parent = Some(parent);
        Ok(())
    }

    /// The entry of the layer's own root, `./`.
    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(Problem::Root.into());
        }
        dress(self.root.as_fd(), entry)?;
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
        let directory = self.open(target_parents)?.ok_or(Problem::LinkTarget)?;
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
            b".wh..opq" => return set_opaque(self.parent(parents)?.directory.as_fd()),
            // The rest of that prefix is AUFS's own bookkeeping, which docker drops too.
            name if name.starts_with(b".wh.") => return Ok(()),
            _ => {}
        }
        // In a directory that nothing merges with, a whiteout would show up as a broken file.
        if !self.below.contains(parents, hidden)? {
            return Ok(());
        }
        let parent = self.parent(parents)?.directory;
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
        self.parent = None;
        let kept = std::mem::take(&mut self.times);
        self.times = kept
            .into_iter()
            .filter(|(path, _)| matches!(self.open(path), Ok(Some(_))))
            .collect();
    }

    /// The directory that an entry goes into, made if the layer doesn't list it.
    fn parent(&mut self, path: &[OsString]) -> Result<Parent> {
        if let Some(parent) = self.parent.take_if(|parent| parent.named == path) {
            return Ok(parent);
        }
        match self.open(path)? {
            Some(directory) => Ok(Parent {
                named: path.to_vec(),
                real: path.to_vec(),
                directory,
            }),
            None => self.imply(path),
        }
    }

    /// Opens a directory of this layer by its real names; `None` if it isn't there.
    fn open(&self, path: &[OsString]) -> Result<Option<OwnedFd>> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        // O_NOFOLLOW would report a link at the end as "not a directory".
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        match openat2(&self.root, relative(path), flags, Mode::empty(), resolve) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP) => Err(Problem::ThroughLink.into()),
            Err(Errno::NOTDIR) => Err(Problem::ThroughFile.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Walks to `path` and makes the directories that are missing, each as the layers below have it. Where those have a
    /// symbolic link, its text leads on, within the layer's root: a file in `lib/` of a layer above one whose `lib` is a
    /// link to `usr/lib` belongs there, and a directory `lib` would hide the link.
    fn imply(&mut self, path: &[OsString]) -> Result<Parent> {
        let mut steps = vec![Step {
            directory: self.root.try_clone()?,
            is_merging: true,
        }];
        let mut real: Vec<OsString> = Vec::new();
        let mut pending: Vec<OsString> = path.iter().rev().cloned().collect();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == ".." {
                steps.truncate(steps.len().saturating_sub(1).max(1));
                real.pop();
                continue;
            }
            let step = steps.last().expect("the root is never popped");
            real.push(name.clone());
            if let Some(target) = self.link_below(step, &real)? {
                links += 1;
                real.pop();
                if links > view::LINKS {
                    return Err(Problem::ThroughLink.into());
                }
                if target.as_bytes().starts_with(b"/") {
                    steps.truncate(1);
                    real.clear();
                }
                pending.extend(view::components(&target));
                continue;
            }
            steps.push(self.step(step, &name, &real)?);
        }
        let directory = steps.pop().expect("the root is never popped").directory;
        Ok(Parent {
            named: path.to_vec(),
            real,
            directory,
        })
    }

    /// The link that the layers below have at `path`, if this layer has nothing there.
    fn link_below(&self, parent: &Step, path: &[OsString]) -> Result<Option<OsString>> {
        let name = path.last().expect("a name was pushed");
        let is_free = parent.is_merging && stat_in(parent.directory.as_fd(), name)?.is_none();
        if is_free {
            Ok(self.below.read_link(path)?)
        } else {
            Ok(None)
        }
    }

    /// Goes one directory down, and makes it if it is missing.
    fn step(&self, parent: &Step, name: &OsStr, path: &[OsString]) -> Result<Step> {
        let directory = parent.directory.as_fd();
        match stat_in(directory, name)? {
            Some(stat) if is_directory(&stat) => {
                let directory = openat(directory, name, DIRECTORY, Mode::empty())?;
                let is_merging = parent.is_merging && !view::is_opaque(directory.as_fd())?;
                Ok(Step { directory, is_merging })
            }
            Some(stat) if is_whiteout(&stat) => {
                make_directory_over(directory, name)?;
                let directory = openat(directory, name, DIRECTORY, Mode::empty())?;
                fchmod(&directory, Mode::from_raw_mode(0o755))?;
                set_opaque(directory.as_fd())?;
                Ok(Step {
                    directory,
                    is_merging: false,
                })
            }
            Some(stat) => Err(through(&stat).into()),
            None => self.make_implied(parent, name, path),
        }
    }

    /// Makes a directory that this layer doesn't list as the layers below have it, or plainly if they don't.
    fn make_implied(&self, parent: &Step, name: &OsStr, path: &[OsString]) -> Result<Step> {
        let below = if parent.is_merging {
            self.below.stat(path)?
        } else {
            None
        };
        mkdirat(&parent.directory, name, Mode::RWXU)?;
        let directory = openat(&parent.directory, name, DIRECTORY, Mode::empty())?;
        match below.filter(is_directory) {
            Some(stat) => own_as(directory.as_fd(), &stat)?,
            None => fchmod(&directory, Mode::from_raw_mode(0o755))?,
        }
        Ok(Step {
            directory,
            is_merging: parent.is_merging,
        })
    }
}

/// A directory on the way to an entry, and whether overlay would merge it with those below.
struct Step {
    directory: OwnedFd,
    is_merging: bool,
}

fn relative(path: &[OsString]) -> PathBuf {
    if path.is_empty() {
        PathBuf::from(".")
    } else {
        path.iter().collect()
    }
}

impl Failure {
    fn at(self, path: String) -> UnpackError {
        let Self(problem, source) = self;
        UnpackError { path, problem, source }
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A directory where something stands already: an earlier directory stays, a whiteout gives way and is remembered
/// (`true`), anything else is refused.
fn make_directory_over(parent: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if is_directory(&stat) {
        return Ok(false);
    }
    if !is_whiteout(&stat) {
        return Err(Problem::DirectoryOverOther.into());
    }
    unlinkat(parent, name, AtFlags::empty())?;
    mkdirat(parent, name, Mode::RWXU)?;
    Ok(true)
}

fn through(stat: &Stat) -> Problem {
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    if is_link {
        Problem::ThroughLink
    } else {
        Problem::ThroughFile
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn stat_in(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Stat>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn set_opaque(directory: BorrowedFd<'_>) -> Result<()> {
    Ok(fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())?)
}
