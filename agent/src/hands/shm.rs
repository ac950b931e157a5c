//! The `/dev/shm` that a pod's containers share, as they share its ipc namespace: a small tmpfs of the pod's own.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::stat;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// The size that container runtimes give it.
const OPTIONS: &str = "mode=1777,size=65536k";

/// The shared memory could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path}")]
pub struct ShmError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Mounts it unless it is mounted already.
pub fn mount_at(path: &Path) -> Result<(), ShmError> {
    std::fs::create_dir_all(path).map_err(failed("create", path))?;
    if is_mounted(path) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), path, Some("tmpfs"), flags, Some(OPTIONS))
        .map_err(|errno| failed("mount a tmpfs on", path)(errno.into()))
}

/// Whether it is mounted: a tmpfs that is not the one its directory lies on, for that may be a tmpfs too.
pub fn is_mounted(path: &Path) -> bool {
    let is_tmpfs = statfs(path).is_ok_and(|stat| stat.filesystem_type() == TMPFS_MAGIC);
    let device = |path: &Path| stat(path).map(|stat| stat.st_dev).ok();
    is_tmpfs && device(path) != path.parent().and_then(device)
}

/// Unmounts and removes it. Repeatable.
pub fn remove(path: &Path) -> Result<(), ShmError> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(errno) => return Err(failed("unmount", path)(errno.into())),
        }
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ShmError {
    let path = path.to_path_buf();
    move |source| ShmError { what, path, source }
}
