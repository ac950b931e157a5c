//! Steps that mount, bind, mask and make.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknodat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{chdir, chroot, fchdir, pivot_root, symlinkat, write};

use super::copy::copy_directory;
use super::inside::DIRECTORY;
use super::{Init, Mask, inside};
use crate::container_path::ContainerPath;
use crate::guard::Guard;
use crate::step::{BindMount, Device, LABEL_OPTION, MadeOverlay, NewMount, RootMount};
use crate::sys::mount::{
    Attributes, fsconfig_create, fsconfig_reconfigure, fsconfig_set, fsmount, fsopen, fspick, mount_setattr,
    move_mount, open_tree_clone,
};
use crate::sys::xattr::fsetxattr;

/// Of a tmpfs, if nobody asks for another.
const USUAL_MODE: Mode = Mode::from_bits_truncate(0o1777);

/// The attribute in which a file has its label from SELinux.
const LABEL: &CStr = c"security.selinux";

pub(super) fn make_mounts_private() -> nix::Result<()> {
    mount(
        None::<&CStr>,
        c"/",
        None::<&CStr>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&CStr>,
    )
}

/// Mounts the root and goes there. A mount that is there already is put over the host's root, which needs no path
/// and no permission on the way to one.
pub(super) fn mount_root(root: &RootMount) -> nix::Result<()> {
    match root {
        RootMount::Directory { tree, in_place: false } => tree.with(|tree| put_on(tree, c"/")),
        RootMount::Directory { tree, in_place: true } => tree.with(|root| put_on(root, &tree.path)),
        RootMount::Overlay(overlay) => match &overlay.made {
            MadeOverlay::Tree(tree) if overlay.in_place => put_on(tree.as_fd(), &overlay.target),
            MadeOverlay::Tree(tree) => put_on(tree.as_fd(), c"/"),
            MadeOverlay::Classic { directory, options } => {
                let overlayfs = Some(c"overlay");
                chdir(directory.as_c_str())?;
                mount(
                    overlayfs,
                    overlay.target.as_c_str(),
                    overlayfs,
                    MsFlags::empty(),
                    Some(options.as_c_str()),
                )?;
                chdir(overlay.target.as_c_str())
            }
            MadeOverlay::Planned => Err(Errno::EBADF),
        },
    }
}

fn put_on(tree: BorrowedFd<'_>, target: &CStr) -> nix::Result<()> {
    let target = open(target, DIRECTORY, Mode::empty())?;
    move_mount(tree, target.as_fd())?;
    fchdir(tree)
}

/// Makes a filesystem and its mount, which is attached nowhere yet.
pub(super) fn make_mount(new: &NewMount) -> nix::Result<()> {
    let made = match new_filesystem(new, None) {
        Err(Errno::EPERM) => readonly_copy(new.instead.ok_or(Errno::EPERM)?),
        result => result,
    };
    new.made.replace(Some(made?));
    Ok(())
}

fn new_filesystem(new: &NewMount, mode: Option<Mode>) -> nix::Result<OwnedFd> {
    let filesystem = fsopen(&new.kind)?;
    for (key, value) in &new.options {
        fsconfig_set(filesystem.as_fd(), key, value.as_deref())?;
    }
    if let Some(mode) = mode {
        let digits = octal(mode);
        let digits = CStr::from_bytes_with_nul(&digits).map_err(|_| Errno::EINVAL)?;
        fsconfig_set(filesystem.as_fd(), c"mode", Some(digits))?;
    }
    for hint in &new.hints {
        match fsconfig_set(filesystem.as_fd(), hint, None) {
            Ok(()) | Err(Errno::EINVAL) => {}
            result => result?,
        }
    }
    fsconfig_create(filesystem.as_fd())?;
    let mounted = fsmount(filesystem.as_fd(), new.attributes.set)?;
    if let Some(label) = &new.root_label {
        label_root(mounted.as_fd(), label)?;
    }
    if new.attributes.propagation != 0 {
        let attributes = Attributes::propagating(new.attributes.propagation);
        mount_setattr(mounted.as_fd(), attributes, false)?;
    }
    Ok(mounted)
}

/// A filesystem that the policy has no labels for keeps what it has, and so does one that was made with a user namespace: its
/// root is nobody's inside.
fn label_root(mount: BorrowedFd<'_>, label: &CStr) -> nix::Result<()> {
    let root = openat(mount, c".", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    match fsetxattr(root.as_fd(), LABEL, label.to_bytes()) {
        Err(Errno::EOPNOTSUPP | Errno::EPERM) => Ok(()),
        result => result,
    }
}

/// For an option of a filesystem. It takes no memory, of which there is none here.
fn octal(mode: Mode) -> [u8; 5] {
    let digit = |shift: u32| b'0' + (mode.bits() >> shift & 7) as u8;
    [digit(9), digit(6), digit(3), digit(0), 0]
}

/// Hides what is at `directory`.
fn cover(directory: &CStr) -> nix::Result<()> {
    let tmpfs = Some(c"tmpfs");
    match mount(tmpfs, directory, tmpfs, MsFlags::MS_RDONLY, None::<&CStr>) {
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

/// What the host has at `directory`, which nobody inside may change (CVE-2023-25809).
fn readonly_copy(directory: &CStr) -> nix::Result<OwnedFd> {
    let tree = open_tree_clone(AT_FDCWD.as_fd(), directory, true)?;
    let attributes = Attributes {
        set: libc::MOUNT_ATTR_RDONLY,
        propagation: libc::MS_PRIVATE,
        ..Attributes::default()
    };
    mount_setattr(tree.as_fd(), attributes, true)?;
    Ok(tree)
}

impl<'a> Init<'a> {
    pub(super) fn open_host_null(&mut self) -> nix::Result<()> {
        let null = open(
            c"/dev/null",
            OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let status = fstat(&null)?;
        if status.st_mode & libc::S_IFMT != libc::S_IFCHR || status.st_rdev != makedev(1, 3) {
            return Err(Errno::ENODEV);
        }
        let mount = open_tree_clone(null.as_fd(), c"", false)?;
        self.null = Some(Mask { mount, is_used: false });
        Ok(())
    }

    /// The working directory is the new root. Both arguments may be "." (pivot_root(2)): the old root is then mounted
    /// on top of the new one. It has to go before any path is looked up: a `..` at the root would lead to it, even with
    /// `RESOLVE_IN_ROOT`.
    pub(super) fn pivot_root(&mut self) -> nix::Result<()> {
        let old_root = open(c"/", DIRECTORY, Mode::empty())?;
        let root = open(c".", DIRECTORY, Mode::empty())?;
        pivot_root(c".", c".")?;
        if !Guard::DetachedHost.is_out() {
            fchdir(&old_root)?;
            umount2(c".", MntFlags::MNT_DETACH)?;
        }
        fchdir(&root)?;
        self.root = Some(root);
        Ok(())
    }

    /// As [`Init::pivot_root`], where the host's root is the initial ramfs, which can't be pivoted away from. The host's
    /// `whole` filesystems go first, the last on top: whoever finds a way back to the old root finds none of them there, and
    /// as long as one is there the kernel lets root of any user namespace inside mount one in which nothing is masked. In a
    /// user namespace they are locked, and are covered.
    pub(super) fn move_root(&mut self, whole: &[CString]) -> nix::Result<()> {
        let mut are_locked = false;
        for directory in whole.iter().rev() {
            match umount2(directory.as_c_str(), MntFlags::MNT_DETACH) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::EINVAL | Errno::EPERM) => are_locked = true,
                Err(errno) => return Err(errno),
            }
        }
        if are_locked {
            // Behind them all: where two lie on one another, one cover would be the next to go.
            whole.iter().try_for_each(|directory| cover(directory))?;
        }
        match mount(Some(c"."), c"/", None::<&CStr>, MsFlags::MS_MOVE, None::<&CStr>) {
            // It is there already.
            Ok(()) | Err(Errno::ELOOP) => {}
            Err(errno) => return Err(errno),
        }
        chroot(c".")?;
        chdir(c"/")?;
        self.open_root()
    }

    /// The working directory is the new root.
    pub(super) fn change_root(&mut self) -> nix::Result<()> {
        chroot(c".")?;
        self.open_root()
    }

    pub(super) fn enter_root(&mut self, root: &OwnedFd) -> nix::Result<()> {
        fchdir(root)?;
        self.change_root()
    }

    /// The working directory is the new root.
    pub(super) fn open_new_root(&mut self) -> nix::Result<()> {
        self.root = Some(open(c".", DIRECTORY, Mode::empty())?);
        Ok(())
    }

    pub(super) fn open_root(&mut self) -> nix::Result<()> {
        self.root = Some(open(c"/", DIRECTORY, Mode::empty())?);
        Ok(())
    }

    pub(super) fn mount(&mut self, new: &NewMount) -> nix::Result<()> {
        // It is not to stay open: there may be few files that may be.
        let mut mounted = new.made.take().ok_or(Errno::EBADF)?;
        if new.keep_mode
            && let Some(mode) = self.mode_of(&new.target)?.filter(|mode| *mode != USUAL_MODE)
        {
            // It tells its mode among its options, where nobody can change it later.
            mounted = new_filesystem(new, Some(mode))?;
        }
        let target = if new.refuse_links && !Guard::RealDirectories.is_out() {
            self.make_real_directory(&new.target)?
        } else {
            inside::make_directory(self.root()?, new.target.prefixes())?
        };
        if new.copy_up {
            copy_directory(target.as_fd(), mounted.as_fd())?;
        }
        move_mount(mounted.as_fd(), target.as_fd())
    }

    /// None of a directory that is not there.
    fn mode_of(&self, hidden: &ContainerPath) -> nix::Result<Option<Mode>> {
        let Ok(hidden) = inside::open(self.root()?, hidden.relative(), DIRECTORY) else {
            return Ok(None);
        };
        Ok(Some(Mode::from_bits_truncate(fstat(&hidden)?.st_mode)))
    }

    fn make_real_directory(&self, path: &ContainerPath) -> nix::Result<OwnedFd> {
        let root = self.root()?;
        match inside::open_without_links(root, path.relative(), DIRECTORY) {
            Err(Errno::ENOENT) => {
                inside::make_directory(root, path.prefixes())?;
                inside::open_without_links(root, path.relative(), DIRECTORY)
            }
            result => result,
        }
    }

    pub(super) fn bind(&mut self, bind: &BindMount) -> nix::Result<()> {
        if let Some(source) = &bind.source_inside {
            let source = inside::open(self.root()?, source.relative(), OFlag::O_PATH)?;
            bind.tree.take_at(source.as_fd(), c"")?;
        }
        let target = if bind.tree.is_directory()? {
            inside::make_directory(self.root()?, bind.target.prefixes())?
        } else {
            inside::make_file(self.root()?, &bind.target)?
        };
        move_mount(bind.tree.give()?.as_fd(), target.as_fd())
    }

    pub(super) fn make_device(&mut self, device: &'a Device) -> nix::Result<()> {
        let (directory, name) = self.place(&device.path)?;
        let kind = SFlag::from_bits_truncate(device.kind);
        let number = makedev(device.major.into(), device.minor.into());
        mknodat(directory, name, kind, Mode::from_bits_truncate(device.mode), number)?;
        if (device.uid, device.gid) == (0, 0) {
            return Ok(());
        }
        let (uid, gid) = (
            nix::unistd::Uid::from_raw(device.uid),
            nix::unistd::Gid::from_raw(device.gid),
        );
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
        nix::unistd::fchownat(directory, name, Some(uid), Some(gid), flags)
    }

    pub(super) fn make_symlink(&mut self, link: &'a ContainerPath, target: &CStr) -> nix::Result<()> {
        let (directory, name) = self.place(link)?;
        symlinkat(target, directory, name)
    }

    /// The directory to make `path` in, which is made if it is missing, and its name there.
    fn place(&mut self, path: &'a ContainerPath) -> nix::Result<(BorrowedFd<'_>, &'a CStr)> {
        let (parents, name) = path.split().ok_or(Errno::EISDIR)?;
        let parent = parents.last().map_or(c".", |parent| parent);
        let directory = match self.made_in.take() {
            Some((at, directory)) if at == parent => directory,
            _ => inside::make_directory(self.root()?, parents)?,
        };
        let (_, directory) = self.made_in.insert((parent, directory));
        Ok((OwnedFd::as_fd(directory), name))
    }

    /// A procfs that is mounted nowhere. In a user namespace that has no pid namespace of its own nobody can make one:
    /// then it is the host's, which is still in sight.
    pub(super) fn open_proc(&mut self) -> nix::Result<()> {
        self.proc = Some(match detached_proc() {
            Err(Errno::EPERM) => hosts_proc()?,
            result => result?,
        });
        Ok(())
    }

    /// Through a procfs of our own: whatever an image or a volume has put at /proc does not matter.
    pub(super) fn write_sysctl(&mut self, file: &CStr, value: &CStr) -> nix::Result<()> {
        if Guard::DetachedProc.is_out() {
            let proc = inside::open(self.root()?, c"proc", DIRECTORY)?;
            return write_in(proc.as_fd(), file, value, ResolveFlag::RESOLVE_IN_ROOT);
        }
        self.write_proc(file, value, ResolveFlag::RESOLVE_NO_SYMLINKS)
    }

    /// `thread-self` is a link, but no magic one.
    pub(super) fn write_label(&mut self, file: &CStr, value: &CStr) -> nix::Result<()> {
        self.write_proc(file, value, ResolveFlag::RESOLVE_NO_MAGICLINKS)
    }

    fn write_proc(&self, file: &CStr, value: &CStr, resolve: ResolveFlag) -> nix::Result<()> {
        let proc = self.proc.as_ref().ok_or(Errno::EBADF)?;
        let inside = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV;
        write_in(proc.as_fd(), file, value, inside | resolve)
    }

    pub(super) fn mask(&mut self, path: &ContainerPath, label: Option<&CStr>) -> nix::Result<()> {
        if Guard::TrustedNull.is_out() {
            self.trust_images_null()?;
        }
        let Some(target) = self.find(path)? else { return Ok(()) };
        let mask = if fstat(&target)?.st_mode & libc::S_IFMT == libc::S_IFDIR {
            if self.empty.is_none() {
                self.empty = Some(Mask {
                    mount: empty_directory(label)?,
                    is_used: false,
                });
            }
            self.empty.as_mut()
        } else {
            self.null.as_mut()
        };
        mask.ok_or(Errno::EBADF)?.put_over(&target)
    }

    /// The mistake of CVE-2025-31133, for the test of its guard.
    fn trust_images_null(&mut self) -> nix::Result<()> {
        let null = inside::open(self.root()?, c"dev/null", OFlag::O_PATH)?;
        let mount = open_tree_clone(null.as_fd(), c"", false)?;
        self.null = Some(Mask { mount, is_used: false });
        Ok(())
    }

    pub(super) fn make_readonly(&mut self, path: &ContainerPath) -> nix::Result<()> {
        let Some(target) = self.find(path)? else { return Ok(()) };
        let tree = open_tree_clone(target.as_fd(), c"", true)?;
        let attributes = Attributes {
            set: libc::MOUNT_ATTR_RDONLY,
            ..Attributes::default()
        };
        mount_setattr(tree.as_fd(), attributes, true)?;
        move_mount(tree.as_fd(), target.as_fd())
    }

    pub(super) fn set_mount_attributes(
        &mut self,
        path: &ContainerPath,
        attributes: Attributes,
        recursive: bool,
    ) -> nix::Result<()> {
        let mount = inside::open(self.root()?, path.relative(), OFlag::O_PATH)?;
        mount_setattr(mount.as_fd(), attributes, recursive)
    }

    pub(super) fn reconfigure(
        &mut self,
        path: &ContainerPath,
        options: &[(CString, Option<CString>)],
    ) -> nix::Result<()> {
        let mount = inside::open(self.root()?, path.relative(), OFlag::O_PATH)?;
        let filesystem = fspick(mount.as_fd())?;
        for (key, value) in options {
            fsconfig_set(filesystem.as_fd(), key, value.as_deref())?;
        }
        fsconfig_reconfigure(filesystem.as_fd())
    }

    fn find(&self, path: &ContainerPath) -> nix::Result<Option<OwnedFd>> {
        match inside::open(self.root()?, path.relative(), OFlag::O_PATH) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

fn detached_proc() -> nix::Result<OwnedFd> {
    let filesystem = fsopen(c"proc")?;
    fsconfig_create(filesystem.as_fd())?;
    fsmount(filesystem.as_fd(), 0)
}

fn hosts_proc() -> nix::Result<OwnedFd> {
    let proc = open(c"/proc", DIRECTORY, Mode::empty())?;
    if fstatfs(&proc)?.filesystem_type() == PROC_SUPER_MAGIC {
        Ok(proc)
    } else {
        Err(Errno::ENODEV)
    }
}

fn write_in(directory: BorrowedFd<'_>, file: &CStr, value: &CStr, resolve: ResolveFlag) -> nix::Result<()> {
    let how = OpenHow::new()
        .flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC)
        .resolve(resolve);
    let file = openat2(directory, file, how)?;
    match write(&file, value.to_bytes())? {
        written if written == value.count_bytes() => Ok(()),
        _ => Err(Errno::EIO),
    }
}

impl Mask {
    fn put_over(&mut self, target: &OwnedFd) -> nix::Result<()> {
        if self.is_used {
            let copy = open_tree_clone(self.mount.as_fd(), c"", false)?;
            return move_mount(copy.as_fd(), target.as_fd());
        }
        self.is_used = true;
        move_mount(self.mount.as_fd(), target.as_fd())
    }
}

fn empty_directory(label: Option<&CStr>) -> nix::Result<OwnedFd> {
    let filesystem = fsopen(c"tmpfs")?;
    if let Some(label) = label {
        fsconfig_set(filesystem.as_fd(), LABEL_OPTION, Some(label))?;
    }
    fsconfig_set(filesystem.as_fd(), c"nr_inodes", Some(c"2"))?;
    fsconfig_create(filesystem.as_fd())?;
    fsmount(filesystem.as_fd(), libc::MOUNT_ATTR_RDONLY)
}
