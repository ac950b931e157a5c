//! The mount API of Linux 5.2 and later: mounts are file descriptors, made first and attached last.
//!
//! <https://man7.org/linux/man-pages/man2/fsopen.2.html>, open_tree(2), move_mount(2), mount_setattr(2).

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSCONFIG_CMD_RECONFIGURE: libc::c_uint = 7;

/// `FSPICK_*` of linux/mount.h.
const FSPICK_CLOEXEC: libc::c_uint = 1;
const FSPICK_EMPTY_PATH: libc::c_uint = 8;

/// What mount_setattr(2) changes on a mount: `MOUNT_ATTR_*` to set and to clear, and one of `MS_SHARED`, `MS_SLAVE`,
/// `MS_PRIVATE`, `MS_UNBINDABLE` or 0 for "as it is".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
}

impl Attributes {
    /// Another propagation, and nothing else.
    pub(crate) fn propagating(propagation: u64) -> Self {
        Self {
            propagation,
            ..Self::default()
        }
    }

    /// Whether something is allowed again that may have been locked away from a lesser user (mount_namespaces(7)).
    pub(crate) fn take_protection(self) -> bool {
        let locked =
            libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
        self.clear & locked != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// `ST_RELATIME`, which the libc crate does not know of musl's.
const ST_RELATIME: libc::c_ulong = 4096;

/// The flags of a mount, with those of its filesystem (statvfs(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MountFlags(libc::c_ulong);

impl MountFlags {
    /// Those that a mount namespace of a lesser user can't take away (mount_namespaces(7)).
    const LOCKED: libc::c_ulong = libc::ST_RDONLY | libc::ST_NOSUID | libc::ST_NODEV | libc::ST_NOEXEC;
    /// When accesses are noted, which it can't change at all.
    const ATIME: libc::c_ulong = libc::ST_NOATIME | libc::ST_NODIRATIME | ST_RELATIME;

    /// Whether `later` has all that is locked in these.
    pub(crate) fn are_kept_in(self, later: Self) -> bool {
        self.0 & !later.0 & Self::LOCKED == 0 && (self.0 ^ later.0) & Self::ATIME == 0
    }
}

/// The flags of the mount whose root `mount` is open as.
pub(crate) fn mount_flags(mount: BorrowedFd<'_>) -> nix::Result<MountFlags> {
    let mut status = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the structure has room for what is written.
    Errno::result(unsafe { libc::fstatvfs(mount.as_raw_fd(), status.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded and filled it.
    let status = unsafe { status.assume_init() };
    Ok(MountFlags(status.f_flag))
}

/// Begins to make a filesystem of `kind` (fsopen(2)).
pub(crate) fn fsopen(kind: &CStr) -> nix::Result<OwnedFd> {
    // SAFETY: the name is null-terminated.
    super::returned_fd(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })
}

/// Sets one option of a filesystem that is being made: a flag, or a string of at most 255 bytes (fsconfig(2)).
pub(crate) fn fsconfig_set(filesystem: BorrowedFd<'_>, key: &CStr, value: Option<&CStr>) -> nix::Result<()> {
    match value {
        Some(value) => fsconfig(filesystem, FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr()),
        None => fsconfig(filesystem, FSCONFIG_SET_FLAG, key.as_ptr(), std::ptr::null()),
    }
}

/// Makes the filesystem from the options given so far (fsconfig(2)).
pub(crate) fn fsconfig_create(filesystem: BorrowedFd<'_>) -> nix::Result<()> {
    fsconfig(filesystem, FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())
}

/// Begins to change the filesystem that `mount` shows (fspick(2)).
pub(crate) fn fspick(mount: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
    // SAFETY: the path is empty and null-terminated.
    super::returned_fd(unsafe { libc::syscall(libc::SYS_fspick, mount.as_raw_fd(), c"".as_ptr(), flags) })
}

/// Changes the filesystem by the options given so far (fsconfig(2)).
pub(crate) fn fsconfig_reconfigure(filesystem: BorrowedFd<'_>) -> nix::Result<()> {
    fsconfig(filesystem, FSCONFIG_CMD_RECONFIGURE, std::ptr::null(), std::ptr::null())
}

fn fsconfig(
    filesystem: BorrowedFd<'_>,
    command: libc::c_uint,
    key: *const c_char,
    value: *const c_char,
) -> nix::Result<()> {
    // SAFETY: the callers above pass null or null-terminated strings, as each command wants them.
    let result = unsafe { libc::syscall(libc::SYS_fsconfig, filesystem.as_raw_fd(), command, key, value, 0) };
    Errno::result(result).map(drop)
}

/// A detached mount of a filesystem that has been made, with `attributes` (`MOUNT_ATTR_*`; fsmount(2)).
pub(crate) fn fsmount(filesystem: BorrowedFd<'_>, attributes: u64) -> nix::Result<OwnedFd> {
    // SAFETY: takes integers only.
    super::returned_fd(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            filesystem.as_raw_fd(),
            libc::FSMOUNT_CLOEXEC,
            attributes,
        )
    })
}

/// A detached copy of the mount at `path` (from `directory`; an empty path means `directory` itself), with the mounts
/// below it if `recursive` (open_tree(2) with `OPEN_TREE_CLONE`).
pub(crate) fn open_tree_clone(directory: BorrowedFd<'_>, path: &CStr, recursive: bool) -> nix::Result<OwnedFd> {
    let recursion = if recursive {
        libc::AT_RECURSIVE.cast_unsigned()
    } else {
        0
    };
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH.cast_unsigned() | recursion;
    // SAFETY: the path is null-terminated.
    super::returned_fd(unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), path.as_ptr(), flags) })
}

/// Attaches the detached mount `tree` on top of what `target` refers to (move_mount(2)). No path is looked at.
pub(crate) fn move_mount(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> nix::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let (tree, target, empty) = (tree.as_raw_fd(), target.as_raw_fd(), c"".as_ptr());
    // SAFETY: both paths are empty, null-terminated strings.
    Errno::result(unsafe { libc::syscall(libc::SYS_move_mount, tree, empty, target, empty, flags) }).map(drop)
}

/// Changes the mount whose root `mount` is open as, and those below it if `recursive` (mount_setattr(2)).
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> nix::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    set_attributes(mount, attributes, recursive)
}

/// Shows the files of a detached mount, and of those below it if `recursive`, as belonging to whom the user namespace
/// of the file `namespace` maps their owners to (`MOUNT_ATTR_IDMAP`). Not for a mount that is mapped already.
pub(crate) fn map_ids(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>, recursive: bool) -> nix::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(namespace.as_raw_fd().cast_unsigned()),
    };
    set_attributes(mount, attributes, recursive)
}

fn set_attributes(mount: BorrowedFd<'_>, attributes: libc::mount_attr, recursive: bool) -> nix::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let (empty, size) = (c"".as_ptr(), size_of::<libc::mount_attr>());
    // SAFETY: the path is null-terminated; the structure is initialised and its size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            empty,
            flags,
            &raw const attributes,
            size,
        )
    };
    Errno::result(result).map(drop)
}
