//! Owner, mode, times and extended attributes of what a layer brings, as far as a layer may set them.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, fchmod, fchown, fsetxattr};
use rustix::io::Errno;

use super::entry::Entry;

/// Gives a directory the owner and mode of another.
pub(super) fn own_as(directory: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    fchown(
        directory,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    Ok(fchmod(directory, Mode::from_raw_mode(stat.st_mode & 0o7777))?)
}

/// Sets owner, mode and attributes, in this order: chown clears the setuid bits and file capabilities.
pub(super) fn dress(file: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
    fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    fchmod(file, Mode::from_raw_mode(entry.mode))?;
    set_xattrs(file, entry)
}

/// Sets the attributes that a layer may bring: file capabilities and the user's own. All others are the host's affair
/// (security labels, overlay's marks, ACLs of unknown ids) and are dropped.
fn set_xattrs(file: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
    for (name, value) in &entry.xattrs {
        let is_user = name.starts_with("user.") && !name.starts_with("user.overlay.");
        if !is_user && name != "security.capability" {
            continue;
        }
        match fsetxattr(file, name.as_str(), value, XattrFlags::empty()) {
            // tmpfs took no user attributes before Linux 6.6.
            Err(Errno::OPNOTSUPP) if is_user => {}
            other => other?,
        }
    }
    Ok(())
}

/// When the entry was changed last.
pub(super) fn mtime(entry: &Entry) -> Timespec {
    Timespec {
        tv_sec: entry.mtime.0,
        tv_nsec: entry.mtime.1.into(),
    }
}

/// For utimensat(2): the access time stays.
pub(super) fn times(mtime: Timespec) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: mtime,
    }
}
