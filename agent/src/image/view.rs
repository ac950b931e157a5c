//! The union of unpacked layers as overlay would show it, read without mounting anything.
//!
//! Every step goes through directory fds and one name at a time; symbolic links are only followed by [`View::read`],
//! and then within the union, as in a container.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fgetxattr, openat, readlinkat, statat};
use rustix::io::Errno;

/// As the kernel's MAXSYMLINKS.
pub(super) const LINKS: usize = 40;

/// Layers, topmost first.
pub(super) struct View(Vec<OwnedFd>);

/// A name found in the union: in which directory of which layer it stands, and what it is.
struct Found {
    directory: OwnedFd,
    stat: Stat,
}

impl Found {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

impl View {
    /// Opens the layers' directories, topmost first.
    pub(super) fn open<P: AsRef<Path>>(layers: &[P]) -> io::Result<Self> {
        let open = |layer: &P| Ok(openat(CWD, layer.as_ref(), DIRECTORY, Mode::empty())?);
        layers.iter().map(open).collect::<io::Result<_>>().map(Self)
    }

    /// What stands at that path, symbolic links unresolved; `None` if nothing does, or if the way there leads through
    /// something else than directories.
    pub(super) fn stat(&self, path: &[OsString]) -> io::Result<Option<Stat>> {
        match path.split_last() {
            None => self.0.first().map(|top| Ok(rustix::fs::fstat(top)?)).transpose(),
            Some(_) => Ok(self.find(path)?.map(|found| found.stat)),
        }
    }

    /// The target of the symbolic link at that path; `None` if there is none.
    pub(super) fn read_link(&self, path: &[OsString]) -> io::Result<Option<OsString>> {
        match (self.find(path)?, path.last()) {
            (Some(found), Some(name)) if found.kind() == FileType::Symlink => {
                let target = readlinkat(&found.directory, name, Vec::new())?;
                Ok(Some(OsStr::from_bytes(target.as_bytes()).to_owned()))
            }
            _ => Ok(None),
        }
    }

    /// Whether the directory `path` has something called `name`. Links on the way to the directory are followed.
    pub(super) fn contains(&self, path: &[OsString], name: &OsStr) -> io::Result<bool> {
        let Some(mut path) = self.resolve(path.iter().rev().cloned().collect())? else {
            return Ok(false);
        };
        path.push(name.to_owned());
        Ok(self.find(&path)?.is_some())
    }

    /// The content of a regular file, symbolic links resolved within the union; `None` if there is no such file.
    /// More than `limit` bytes, or something else than a regular file, is an error.
    pub(super) fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(path) = self.resolve(components(path.as_ref()))? else {
            return Ok(None);
        };
        let (Some(found), Some(name)) = (self.find(&path)?, path.last()) else {
            return Ok(None);
        };
        if found.kind() != FileType::RegularFile {
            return Err(io::Error::other("it is not a regular file"));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = std::fs::File::from(openat(&found.directory, name, flags, Mode::empty())?);
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content)?;
        let is_within = content.len() as u64 <= limit;
        if is_within {
            Ok(Some(content))
        } else {
            Err(io::Error::other(format!("it is larger than {limit} bytes")))
        }
    }

    /// The real names of a path, given in reverse, with all links followed; `..` above the root stays at the root, as in
    /// a container. `None` if a name on the way is missing.
    fn resolve(&self, mut pending: Vec<OsString>) -> io::Result<Option<Vec<OsString>>> {
        let mut real: Vec<OsString> = Vec::new();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == ".." {
                real.pop();
                continue;
            }
            real.push(name);
            if let Some(target) = self.read_link(&real)? {
                links += 1;
                if links > LINKS {
                    return Err(Errno::LOOP.into());
                }
                real.pop();
                if target.as_bytes().starts_with(b"/") {
                    real.clear();
                }
                pending.extend(components(&target));
            } else if self.find(&real)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(real))
    }

    /// Finds a path of real names by overlay's rules: the first layer that has it decides, directories merge, a
    /// whiteout or an opaque directory ends the search downwards.
    fn find(&self, path: &[OsString]) -> io::Result<Option<Found>> {
        let Some((last, parents)) = path.split_last() else {
            return Ok(None);
        };
        let mut directories: Vec<OwnedFd> = self.0.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        for name in parents {
            directories = descend(&directories, name)?;
        }
        for directory in directories {
            match stat_in(directory.as_fd(), last)? {
                None => {}
                Some(stat) if is_whiteout(&stat) => return Ok(None),
                Some(stat) => return Ok(Some(Found { directory, stat })),
            }
        }
        Ok(None)
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The components in reverse, so that the next one is popped from the end.
pub(super) fn components(path: &OsStr) -> Vec<OsString> {
    let names = path.as_bytes().split(|byte| *byte == b'/');
    let names = names.filter(|name| !matches!(*name, b"" | b"."));
    names.rev().map(|name| OsStr::from_bytes(name).to_owned()).collect()
}

/// The directories called `name` that merge, topmost first.
fn descend(directories: &[OwnedFd], name: &OsStr) -> io::Result<Vec<OwnedFd>> {
    let mut merged = Vec::new();
    for directory in directories {
        let Some(stat) = stat_in(directory.as_fd(), name)? else {
            continue;
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            break;
        }
        let next = openat(directory, name, DIRECTORY, Mode::empty())?;
        let is_opaque = is_opaque(next.as_fd())?;
        merged.push(next);
        if is_opaque {
            break;
        }
    }
    Ok(merged)
}

fn stat_in(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Stat>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Overlay's mark for "nothing here, whatever is below": a character device 0:0
/// (kernel, Documentation/filesystems/overlayfs.rst).
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a directory hides those below it.
pub(super) fn is_opaque(directory: BorrowedFd<'_>) -> io::Result<bool> {
    let mut value = [0; 1];
    match fgetxattr(directory, OPAQUE, &mut value) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Overlay's mark on a directory that hides the directories below it.
pub(super) const OPAQUE: &str = "trusted.overlay.opaque";
