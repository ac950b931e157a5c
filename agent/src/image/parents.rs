//! The directories that a layer's entries go into: found, or made as the layers below have them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags, fchmod, fsetxattr, mkdirat, openat, openat2,
    statat, unlinkat,
};
use rustix::io::Errno;

use super::attributes::own_as;
use super::problem::{Problem, Result};
use super::view::{self, OPAQUE, View, is_whiteout};

/// The layer's own directory, and how the names of entries lead below it.
pub(super) struct Parents<'a> {
    pub(super) root: OwnedFd,
    below: &'a View,
    /// The directory of the last entry: most entries have the same as the one before.
    last: Option<Parent>,
}

/// A directory that entries are made in.
pub(super) struct Parent {
    /// As the entry names it.
    named: Vec<OsString>,
    /// Where that is, with the links of the layers below resolved.
    pub(super) real: Vec<OsString>,
    pub(super) directory: OwnedFd,
}

impl<'a> Parents<'a> {
    /// Below the empty directory `root`, which takes owner and mode from the layers below.
    pub(super) fn new(root: &Path, below: &'a View) -> io::Result<Self> {
        let root = openat(CWD, root, DIRECTORY, Mode::empty())?;
        match below.stat(&[])? {
            Some(stat) => own_as(root.as_fd(), &stat)?,
            None => fchmod(&root, Mode::from_raw_mode(0o755))?,
        }
        Ok(Self {
            root,
            below,
            last: None,
        })
    }

    /// Remembers a directory for the next entry.
    pub(super) fn keep(&mut self, parent: Parent) {
        self.last = Some(parent);
    }

    /// After a directory was removed: its fd leads nowhere.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// The directory that an entry goes into, made if the layer doesn't list it.
    pub(super) fn find_or_make(&mut self, path: &[OsString]) -> Result<Parent> {
        if let Some(parent) = self.last.take_if(|parent| parent.named == path) {
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
    pub(super) fn open(&self, path: &[OsString]) -> Result<Option<OwnedFd>> {
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
    fn imply(&self, path: &[OsString]) -> Result<Parent> {
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

/// A path of real names as one to resolve from the root.
pub(super) fn relative(path: &[OsString]) -> PathBuf {
    if path.is_empty() {
        PathBuf::from(".")
    } else {
        path.iter().collect()
    }
}

/// To open a directory itself, never a link to one.
pub(super) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A directory where something stands already: an earlier directory stays, a whiteout gives way and is remembered
/// (`true`), anything else is refused.
pub(super) fn make_directory_over(parent: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
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

pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

pub(super) fn stat_in(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Stat>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn set_opaque(directory: BorrowedFd<'_>) -> Result<()> {
    Ok(fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())?)
}
