//! Running from a read-only view of our own program.
//!
//! A container's process may get at the program of who creates it (`/proc/self/exe`, a script that begins with
//! `#!/proc/self/exe`) and overwrite it on the host once it is not running any more (CVE-2019-5736). The file of a
//! program that was executed from a read-only mount can't be opened for writing that way. Who may not make mounts runs
//! from a sealed copy in memory.

#[cfg(target_arch = "x86_64")]
mod early;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::exec::StringArray;
use super::mount::{Attributes, mount_setattr, open_tree_clone};
use super::thread::SingleThreaded;
use crate::guard::Guard;

/// What a copy of the program can't be: changed, grown or cut, or unsealed.
const SEALS: SealFlag = SealFlag::F_SEAL_WRITE
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_SEAL);

/// `MFD_EXEC` of linux/memfd.h, since Linux 6.3.
const MFD_EXEC: libc::c_uint = 0x10;

/// Executes this program once more, from a detached read-only mount of its own file or a sealed copy of it, with the
/// same arguments and environment. Returns at once when that has happened already or the file is on a read-only
/// filesystem.
///
/// For the first line of a program: whatever it has opened without close-on-exec stays open.
pub fn run_from_read_only_file(_token: &SingleThreaded) -> io::Result<()> {
    if Guard::SealedProgram.is_out() {
        return Ok(());
    }
    if statvfs("/proc/self/exe")?.flags().contains(FsFlags::ST_RDONLY) || is_sealed()? {
        return restore_name();
    }
    let program = match read_only_mount() {
        Err(Errno::EPERM) => sealed_copy()?,
        result => result?,
    };
    let strings = |list: Vec<Vec<u8>>| list.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let arguments = StringArray::new(strings(std::env::args_os().map(OsStringExt::into_vec).collect())?);
    let variable =
        |(name, value): (std::ffi::OsString, std::ffi::OsString)| [name.into_vec(), value.into_vec()].join(&b'=');
    let environment = StringArray::new(strings(std::env::vars_os().map(variable).collect())?);
    Err(execveat_empty(program.as_raw_fd(), &arguments, &environment).into())
}

fn read_only_mount() -> nix::Result<OwnedFd> {
    let program = open_tree_clone(AT_FDCWD.as_fd(), c"/proc/self/exe", false)?;
    let attributes = Attributes {
        set: libc::MOUNT_ATTR_RDONLY,
        ..Attributes::default()
    };
    mount_setattr(program.as_fd(), attributes, false)?;
    Ok(program)
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let copy = match memfd_create(c"orlop", flags | MFdFlags::from_bits_retain(MFD_EXEC)) {
        Err(Errno::EINVAL) => memfd_create(c"orlop", flags),
        result => result,
    };
    let mut copy = File::from(copy?);
    io::copy(&mut File::open("/proc/self/exe")?, &mut copy)?;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(copy.into())
}

fn is_sealed() -> io::Result<bool> {
    let seals = fcntl(File::open("/proc/self/exe")?, FcntlArg::F_GET_SEALS);
    Ok(seals.is_ok_and(|seals| SealFlag::from_bits_truncate(seals).contains(SEALS)))
}

/// Older kernels name a process that was executed without a path after the descriptor.
fn restore_name() -> io::Result<()> {
    let program = std::env::args_os()
        .next()
        .map(std::path::PathBuf::from)
        .unwrap_or_default();
    let name = program.file_name().unwrap_or_default().to_owned().into_vec();
    Ok(nix::sys::prctl::set_name(&CString::new(name)?)?)
}

fn execveat_empty(program: libc::c_int, arguments: &StringArray, environment: &StringArray) -> Errno {
    let (empty, arguments, environment) = (c"".as_ptr(), arguments.as_ptr(), environment.as_ptr());
    // SAFETY: the path is empty and null-terminated, and so are both arrays, which own their strings.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program,
            empty,
            arguments,
            environment,
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::last()
}
