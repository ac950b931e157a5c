//! Pins a pod's net, ipc and uts namespaces as bind mounts, so that they live without any process. It neither configures
//! the network nor starts anything in them.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use nix::sys::statfs::statfs;

/// `f_type` of a namespace file, statfs(2).
const NSFS_MAGIC: nix::libc::c_long = 0x6e73_6673;

/// A namespace that the containers of a pod share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared {
    /// Links, addresses, routes.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// The host name.
    Uts,
}

impl Shared {
    /// All of them, in the order in which they are pinned.
    pub const ALL: [Shared; 3] = [Shared::Net, Shared::Ipc, Shared::Uts];

    /// Those that the containers of a pod share.
    pub fn of_pod(on_host_network: bool) -> &'static [Shared] {
        if on_host_network { &[Shared::Ipc] } else { &Shared::ALL }
    }

    /// The name of the pin's file and of the entry in /proc/thread-self/ns.
    pub fn file_name(self) -> &'static str {
        match self {
            Shared::Net => "net",
            Shared::Ipc => "ipc",
            Shared::Uts => "uts",
        }
    }

    fn flag(self) -> CloneFlags {
        match self {
            Shared::Net => CloneFlags::CLONE_NEWNET,
            Shared::Ipc => CloneFlags::CLONE_NEWIPC,
            Shared::Uts => CloneFlags::CLONE_NEWUTS,
        }
    }
}

/// Why namespaces could not be pinned or released.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The pin's place can't be made or removed.
    #[error("{what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel refused a namespace.
    #[error("{what}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: Errno,
    },
    /// The throw-away thread can't be started or died.
    #[error("run the thread that makes namespaces")]
    Thread(#[source] io::Error),
}

/// Makes and pins what is not yet pinned in `dir`; without a host name the pod is on the node's network, and only ipc is
/// its own. Repeatable after a kill between any two of its steps: a file without a mount is mounted over, a namespace
/// without a pin died with its thread.
pub fn pin(dir: &Path, hostname: Option<&str>) -> Result<(), NamespaceError> {
    fs::create_dir_all(dir).map_err(file("create", dir))?;
    let wanted = Shared::of_pod(hostname.is_none());
    let missing: Vec<Shared> = wanted
        .iter()
        .copied()
        .filter(|&shared| !is_pinned(&pin_path(dir, shared)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    for &shared in &missing {
        let path = pin_path(dir, shared);
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(file("create", &path))?;
    }
    // unshare(2) changes the calling thread for good, so it happens on a thread that ends right after.
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("namespaces".into())
            .spawn_scoped(scope, || unshare_and_bind(dir, &missing, hostname))
            .map_err(NamespaceError::Thread)?
            .join()
            .map_err(|_| NamespaceError::Thread(io::Error::other("the thread panicked")))?
    })
}

/// Which namespaces are pinned in `dir`.
pub fn pinned(dir: &Path) -> Vec<Shared> {
    Shared::ALL
        .into_iter()
        .filter(|&shared| is_pinned(&pin_path(dir, shared)))
        .collect()
}

/// Removes the pins and their directory; the namespaces end with their last process. Repeatable.
pub fn release(dir: &Path) -> Result<(), NamespaceError> {
    for shared in Shared::ALL {
        let path = pin_path(dir, shared);
        unmount_all(&path)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file("remove", &path)(error)),
            Ok(()) | Err(_) => {}
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", dir)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The file that pins a namespace in `dir`.
pub fn pin_path(dir: &Path, shared: Shared) -> PathBuf {
    dir.join(shared.file_name())
}

fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type().0 == NSFS_MAGIC)
}

fn unshare_and_bind(dir: &Path, missing: &[Shared], hostname: Option<&str>) -> Result<(), NamespaceError> {
    let flags = missing
        .iter()
        .fold(CloneFlags::empty(), |flags, shared| flags | shared.flag());
    unshare(flags).map_err(kernel("unshare the pod's namespaces"))?;
    if let Some(hostname) = hostname.filter(|_| missing.contains(&Shared::Uts)) {
        nix::unistd::sethostname(hostname).map_err(kernel("set the pod's host name"))?;
    }
    for &shared in missing {
        let source = Path::new("/proc/thread-self/ns").join(shared.file_name());
        let target = pin_path(dir, shared);
        mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|errno| file("bind a namespace to", &target)(errno.into()))?;
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "runs on a throw-away thread that ends with the namespaces it made"
)]
fn unshare(flags: CloneFlags) -> nix::Result<()> {
    nix::sched::unshare(flags)
}

/// Unmounts every layer: a kill between mount and its record may have left two.
fn unmount_all(path: &Path) -> Result<(), NamespaceError> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(file("unmount", path)(errno.into())),
        }
    }
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NamespaceError {
    move |source| NamespaceError::File {
        what,
        path: path.into(),
        source,
    }
}

fn kernel(what: &'static str) -> impl FnOnce(Errno) -> NamespaceError {
    move |source| NamespaceError::Kernel { what, source }
}
