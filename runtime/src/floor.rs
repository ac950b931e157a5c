//! The least that a container takes: a cgroup, one clone3 into it, mounts by mount(2), an exec. `cargo xtask bench runtime`
//! measures everything beside it. It checks nothing, limits nothing and takes no right away: no runtime.
//!
//! How much is mounted makes a difference, so there are two: [`Mounts::of`] a bundle are all that its configuration asks for,
//! which is what a runtime has to make of it, too; [`Mounts::usual`] are the few that no container is without.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, fchdir, mkdir, pivot_root, symlinkat};
use oci_spec::runtime::{LinuxNamespaceType, Mount};

use crate::cgroup::Cgroup;
use crate::container::{Exit, SingleThreaded};
use crate::field::mount_options::Options;
use crate::plan::{FieldError, c_string, has_namespace};
use crate::prepare::c_path;
use crate::spec::Spec;
use crate::sys::clone::clone3;
use crate::sys::exec::{StringArray, execve};
use crate::sys::namespace::{bring_loopback_up, sethostname};
use crate::sys::stopwatch::{self, Lap, lap};

const NAMESPACES: libc::c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
/// Mounts that are made in every container: type, place and options.
const USUAL: [(&CStr, &CStr, &CStr); 6] = [
    (c"proc", c"proc", c""),
    (c"tmpfs", c"dev", c"mode=755,size=65536k"),
    (c"devpts", c"dev/pts", c"newinstance,ptmxmode=0666,mode=0620"),
    (c"tmpfs", c"dev/shm", c"mode=1777,size=65536k"),
    (c"mqueue", c"dev/mqueue", c""),
    (c"sysfs", c"sys", c""),
];
const DEVICES: [(&CStr, u64); 6] = [
    (c"dev/null", 3),
    (c"dev/zero", 5),
    (c"dev/full", 7),
    (c"dev/random", 8),
    (c"dev/urandom", 9),
    (c"dev/tty", 0),
];
const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"dev/fd"),
    (c"/proc/self/fd/0", c"dev/stdin"),
    (c"/proc/self/fd/1", c"dev/stdout"),
    (c"/proc/self/fd/2", c"dev/stderr"),
    (c"pts/ptmx", c"dev/ptmx"),
];

/// Begins to note when what is done while a container is made.
pub fn start_stopwatch() -> io::Result<()> {
    Ok(stopwatch::start()?)
}

/// Its program has ended.
pub fn ended() {
    lap(Lap::ENDED);
}

/// What was done since [`start_stopwatch`], in its order, until its cgroup was removed just now, each with its nanoseconds.
pub fn laps() -> Vec<(String, u64)> {
    lap(Lap::REMOVED);
    stopwatch::laps()
}

/// What is mounted in a container, ready for mount(2).
#[derive(Debug)]
pub struct Mounts {
    root: CString,
    namespaces: libc::c_int,
    filesystems: Vec<Filesystem>,
    links: &'static [(&'static CStr, &'static CStr)],
    readonly: Vec<CString>,
    masked: Vec<CString>,
    readonly_root: bool,
}

/// One mount; places begin at the root.
#[derive(Debug)]
struct Filesystem {
    /// None for what is mounted elsewhere already.
    kind: Option<CString>,
    source: CString,
    place: CString,
    flags: MsFlags,
    options: CString,
}

impl Mounts {
    /// Those that every container has, in `root`.
    pub fn usual(root: &Path) -> io::Result<Self> {
        let usual = |(kind, place, options): (&CStr, &CStr, &CStr)| Filesystem {
            kind: Some(kind.into()),
            source: kind.into(),
            place: place.into(),
            flags: MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            options: options.into(),
        };
        Ok(Self {
            root: c_path(root)?,
            namespaces: NAMESPACES,
            filesystems: USUAL.into_iter().map(usual).collect(),
            links: &[],
            readonly: Vec::new(),
            masked: Vec::new(),
            readonly_root: false,
        })
    }

    /// All that `spec` asks for, in `root`, for a container in the cgroup `cgroup`.
    pub fn of(spec: &Spec, root: &Path, cgroup: &Path) -> io::Result<Self> {
        let linux = spec.linux().as_ref();
        let places = |paths: Option<&Vec<String>>| paths.into_iter().flatten().map(place).collect::<io::Result<_>>();
        let namespace = if has_namespace(spec, LinuxNamespaceType::Cgroup) {
            libc::CLONE_NEWCGROUP
        } else {
            0
        };
        let own_cgroup = (namespace == 0).then_some(cgroup);
        let mounts = spec.mounts().iter().flatten();
        let filesystems = mounts.map(|mount| Filesystem::of(mount, own_cgroup));
        Ok(Self {
            root: c_path(root)?,
            namespaces: NAMESPACES | namespace,
            filesystems: filesystems.collect::<Result<_, _>>().map_err(io::Error::other)?,
            links: &LINKS,
            readonly: places(linux.and_then(|linux| linux.readonly_paths().as_ref()))?,
            masked: places(linux.and_then(|linux| linux.masked_paths().as_ref()))?,
            readonly_root: spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
        })
    }

    fn make(&self) -> nix::Result<()> {
        let (none, root) = (None::<&CStr>, self.root.as_c_str());
        mount(none, c"/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some(root), root, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
        chdir(root)?;
        for filesystem in &self.filesystems {
            filesystem.make()?;
            if filesystem.place.as_c_str() == c"dev" {
                self.make_devices()?;
            }
        }
        self.readonly.iter().try_for_each(|place| make_readonly(place))?;
        let mut empty = None;
        self.masked.iter().try_for_each(|place| mask(place, &mut empty))
    }

    fn make_devices(&self) -> nix::Result<()> {
        for (name, minor) in DEVICES {
            let number = makedev(if minor == 0 { 5 } else { 1 }, minor);
            mknod(name, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), number)?;
        }
        self.links
            .iter()
            .try_for_each(|(target, link)| symlinkat(*target, nix::fcntl::AT_FDCWD, *link))
    }
}

impl Filesystem {
    fn of(mount: &Mount, own_cgroup: Option<&Path>) -> Result<Self, FieldError> {
        let options = Options::parse("mounts", mount.options().as_deref().unwrap_or_default())?;
        let source = mount.source().clone().unwrap_or_default();
        let (kind, source) = match (mount.typ().as_deref(), own_cgroup) {
            (Some("cgroup"), Some(own)) => (None, own.to_owned()),
            (Some("cgroup"), None) => (Some(c"cgroup2".into()), source),
            (Some(kind), _) if !options.bind => (Some(c_string("mounts", kind.as_ref())?), source),
            _ => (None, source),
        };
        let words = options.data.iter().map(|(key, value)| match value {
            Some(value) => [key.to_bytes(), value.to_bytes()].join(&b'='),
            None => key.to_bytes().to_vec(),
        });
        let words = words.collect::<Vec<_>>().join(&b',');
        Ok(Self {
            kind,
            source: c_string("mounts", source.as_os_str())?,
            place: place(mount.destination()).map_err(|error| FieldError::new("mounts", error.to_string()))?,
            flags: flags(options.own.set),
            options: CString::new(words).map_err(|error| FieldError::new("mounts", error.to_string()))?,
        })
    }

    fn make(&self) -> nix::Result<()> {
        match mkdir(self.place.as_c_str(), Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            result => result?,
        }
        let (source, place) = (Some(self.source.as_c_str()), self.place.as_c_str());
        let Some(kind) = &self.kind else {
            bind(source, place)?;
            return change(place, self.flags);
        };
        mount(
            source,
            place,
            Some(kind.as_c_str()),
            self.flags,
            Some(self.options.as_c_str()),
        )
    }
}

/// The path of a directory from the root.
fn place(path: impl AsRef<Path>) -> io::Result<CString> {
    let path = path.as_ref();
    Ok(c_path(path.strip_prefix("/").unwrap_or(path))?)
}

/// The flags of mount(2) for those of a mount; all but one have the same number in both.
fn flags(attributes: u64) -> MsFlags {
    let same = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let same = MsFlags::from_bits_truncate(attributes & same);
    if attributes & libc::MOUNT_ATTR_STRICTATIME == 0 {
        same
    } else {
        same | MsFlags::MS_STRICTATIME
    }
}

fn bind(source: Option<&CStr>, place: &CStr) -> nix::Result<()> {
    mount(
        source,
        place,
        None::<&CStr>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&CStr>,
    )
}

fn change(place: &CStr, flags: MsFlags) -> nix::Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
    mount(None::<&CStr>, place, None::<&CStr>, flags, None::<&CStr>)
}

fn make_readonly(place: &CStr) -> nix::Result<()> {
    match bind(Some(place), place) {
        Err(Errno::ENOENT) => Ok(()),
        result => result.and_then(|()| change(place, MsFlags::MS_RDONLY)),
    }
}

/// The host's null device hides a file, an empty filesystem a directory: one for all of them.
fn mask<'a>(place: &'a CStr, empty: &mut Option<&'a CStr>) -> nix::Result<()> {
    match (bind(Some(c"/dev/null"), place), *empty) {
        (Err(Errno::ENOENT), _) => Ok(()),
        (Err(Errno::ENOTDIR), Some(empty)) => bind(Some(empty), place),
        (Err(Errno::ENOTDIR), None) => {
            let tmpfs = Some(c"tmpfs");
            mount(tmpfs, place, tmpfs, MsFlags::MS_RDONLY, None::<&CStr>)?;
            *empty = Some(place);
            Ok(())
        }
        (result, _) => result,
    }
}

/// Runs `program` in a container with `mounts` in the new cgroup `cgroup` to its end, and removes the cgroup.
pub fn run(token: &SingleThreaded, mounts: &Mounts, cgroup: &Path, program: &CStr) -> io::Result<Exit> {
    let cgroup = Cgroup::at(cgroup);
    cgroup.create(&[]).map_err(io::Error::other)?;
    let directory = cgroup.open().map_err(io::Error::other)?;
    let arguments = StringArray::new(vec![program.to_owned()]);
    let environment = StringArray::new(vec![CString::from(c"PATH=/bin")]);
    let child = clone3(token, mounts.namespaces, Some(directory.as_fd()), || {
        // Whoever reads the exit code sees that something went wrong.
        if set_up(mounts).is_ok() {
            execve(program, &arguments, &environment);
        }
        crate::sys::clone::exit_now(127);
    })?;
    let exit = Exit::wait(child.pidfd.as_fd())?;
    cgroup.remove().map_err(io::Error::other)?;
    Ok(exit)
}

fn set_up(mounts: &Mounts) -> nix::Result<()> {
    mounts.make()?;
    sethostname(c"floor")?;
    bring_loopback_up()?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let old = open(c"/", flags, Mode::empty())?;
    pivot_root(c".", c".")?;
    fchdir(&old)?;
    umount2(c".", MntFlags::MNT_DETACH)?;
    chdir(c"/")?;
    if mounts.readonly_root {
        change(c"/", MsFlags::MS_RDONLY)?;
    }
    Ok(())
}
