//! A part of the host's filesystem as a mount of its own, which is attached nowhere until the container has a place.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::fstat;

use crate::field::user::IdMappings;
use crate::sys::mount::{Attributes, mount_flags, mount_setattr, open_tree_clone};

/// What to take, and how it is to look.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) source: PathBuf,
    /// The same, for the kernel.
    pub(crate) path: CString,
    pub(crate) recursive: bool,
    /// What becomes of the flags of its first mount.
    pub(crate) flags: Flags,
    /// Whether flags of the source are locked for the container's user namespace, though not for who takes the tree: they
    /// stay, and can't be taken away by name.
    pub(crate) is_locked: bool,
    /// Applied to every mount below the source too.
    pub(crate) recursive_attributes: Attributes,
    /// Whose files it shows as whose.
    pub(crate) id_map: Option<IdMap>,
    /// Kind (`S_IFCHR`, …) and number of the device that it has to be.
    pub(crate) device: Option<(libc::mode_t, libc::dev_t)>,
    pub(crate) taker: Taker,
    pub(crate) taken: RefCell<Option<OwnedFd>>,
}

/// What becomes of the flags that a source has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    /// Those that are named are set and the others cleared.
    pub(crate) all: Attributes,
    /// Only those that are named change, since the others are locked (mount_namespaces(7)).
    pub(crate) named: Attributes,
}

impl Flags {
    /// The same, locked or not.
    pub(crate) fn both(attributes: Attributes) -> Self {
        Self {
            all: attributes,
            named: attributes,
        }
    }
}

/// Who takes a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taker {
    /// The parent, who may go everywhere and map ids.
    Parent,
    /// The child, in its turn.
    Child,
}

/// An id-mapped mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdMap {
    pub(crate) ids: Ids,
    /// The mounts below it too.
    pub(crate) recursive: bool,
}

/// Whose ids are whose in an id-mapped mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ids {
    /// The mount's own; or those of the container's new user namespace.
    Listed(IdMappings),
    /// As in the user namespace at this path, which the container joins.
    OfNamespace(PathBuf),
}

impl Tree {
    /// Takes it from the root and mount namespace that the caller sees. Does not allocate: it may be the child.
    pub(crate) fn take(&self) -> nix::Result<()> {
        self.take_at(AT_FDCWD.as_fd(), &self.path)
    }

    /// As [`Tree::take`], what is at `path` from `directory` instead of its own path.
    pub(crate) fn take_at(&self, directory: BorrowedFd<'_>, path: &CStr) -> nix::Result<()> {
        let tree = open_tree_clone(directory, path, self.recursive)?;
        self.check_device(tree.as_fd())?;
        self.change_flags(tree.as_fd())?;
        self.change_below(tree.as_fd())?;
        *self.taken.try_borrow_mut().map_err(|_| Errno::EBUSY)? = Some(tree);
        Ok(())
    }

    fn change_flags(&self, tree: BorrowedFd<'_>) -> nix::Result<()> {
        if self.is_locked {
            return change_unlocked(tree, self.flags.named);
        }
        match change(tree, self.flags.all, false) {
            Err(Errno::EPERM) => change(tree, self.flags.named, false),
            result => result,
        }
    }

    /// What is locked below can't be told mount by mount: nothing is taken away there.
    fn change_below(&self, tree: BorrowedFd<'_>) -> nix::Result<()> {
        if self.is_locked && self.recursive_attributes.take_protection() {
            return Err(Errno::EPERM);
        }
        change(tree, self.recursive_attributes, true)
    }

    fn check_device(&self, tree: BorrowedFd<'_>) -> nix::Result<()> {
        let Some((kind, number)) = self.device else {
            return Ok(());
        };
        let status = fstat(tree)?;
        if status.st_mode & libc::S_IFMT == kind && status.st_rdev == number {
            Ok(())
        } else {
            Err(Errno::ENODEV)
        }
    }

    /// Does something with the detached mount.
    pub(crate) fn with<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> nix::Result<T>) -> nix::Result<T> {
        let taken = self.taken.try_borrow().map_err(|_| Errno::EBUSY)?;
        act(taken.as_ref().ok_or(Errno::EBADF)?.as_fd())
    }

    /// The detached mount, for who attaches it: it is not to stay open then, where only a few files may be.
    pub(crate) fn give(&self) -> nix::Result<OwnedFd> {
        let mut taken = self.taken.try_borrow_mut().map_err(|_| Errno::EBUSY)?;
        taken.take().ok_or(Errno::EBADF)
    }

    pub(crate) fn is_directory(&self) -> nix::Result<bool> {
        self.with(|mount| Ok(fstat(mount)?.st_mode & libc::S_IFMT == libc::S_IFDIR))
    }
}

/// As the kernel has it where flags are locked. A flag may be the filesystem's: that one stays whatever the mount's does.
fn change_unlocked(tree: BorrowedFd<'_>, attributes: Attributes) -> nix::Result<()> {
    let before = mount_flags(tree)?;
    change(tree, attributes, false)?;
    if before.are_kept_in(mount_flags(tree)?) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

fn change(tree: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> nix::Result<()> {
    if attributes.is_empty() {
        Ok(())
    } else {
        mount_setattr(tree, attributes, recursive)
    }
}
