//! Directories and links, read without allocating: getdents64(2), readlinkat(2). Renaming as no library has it: renameat2(2).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use nix::NixPath;
use nix::errno::Errno;

/// Room for some entries; the longest has 280 bytes.
const ROOM: usize = 2048;

/// Where the length and the name of an entry stand in `struct linux_dirent64`.
const LENGTH: usize = 16;
const NAME: usize = 19;

/// The names in a directory, without `.` and `..`.
pub(crate) struct Entries<'a> {
    directory: BorrowedFd<'a>,
    buffer: [u8; ROOM],
    filled: usize,
    next: usize,
}

impl<'a> Entries<'a> {
    /// Those of `directory`, which is open for reading and was not read yet.
    pub(crate) fn of(directory: BorrowedFd<'a>) -> Self {
        Self {
            directory,
            buffer: [0; ROOM],
            filled: 0,
            next: 0,
        }
    }

    /// The next name; none at the end.
    pub(crate) fn next_name(&mut self) -> nix::Result<Option<&CStr>> {
        loop {
            if self.next >= self.filled && !self.fill()? {
                return Ok(None);
            }
            let start = self.next;
            let entry = self.buffer.get(start..self.filled).ok_or(Errno::EIO)?;
            let length = entry.get(LENGTH..LENGTH + 2).ok_or(Errno::EIO)?;
            let length = u16::from_ne_bytes([length[0], length[1]]);
            self.next += usize::from(length.max(1));
            let name = entry.get(NAME..).ok_or(Errno::EIO)?;
            if !matches!(name, [b'.', 0, ..] | [b'.', b'.', 0, ..]) {
                let name = self.buffer.get(start + NAME..self.filled).ok_or(Errno::EIO)?;
                return CStr::from_bytes_until_nul(name).map(Some).map_err(|_| Errno::EIO);
            }
        }
    }

    /// False at the end ([getdents64(2)](https://man7.org/linux/man-pages/man2/getdents.2.html)).
    fn fill(&mut self) -> nix::Result<bool> {
        let (directory, buffer) = (self.directory.as_raw_fd(), self.buffer.as_mut_ptr());
        // SAFETY: the buffer is ours and ROOM bytes long.
        let filled = unsafe { libc::syscall(libc::SYS_getdents64, directory, buffer, ROOM) };
        self.filled = usize::try_from(Errno::result(filled)?).map_err(|_| Errno::EIO)?;
        self.next = 0;
        Ok(self.filled > 0)
    }
}

/// Reads the target of a link into `buffer`, which must hold zeros. Returns its length; a target that leaves no room
/// for a null byte is `ENAMETOOLONG` ([readlinkat(2)](https://man7.org/linux/man-pages/man2/readlinkat.2.html)).
pub(crate) fn readlinkat(directory: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> nix::Result<usize> {
    // SAFETY: the name is null-terminated and the buffer as long as is said.
    let length = unsafe {
        libc::readlinkat(
            directory.as_raw_fd(),
            name.as_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    };
    let length = usize::try_from(Errno::result(length)?).map_err(|_| Errno::EIO)?;
    if length < buffer.len() {
        Ok(length)
    } else {
        Err(Errno::ENAMETOOLONG)
    }
}

/// Lets two paths change places ([renameat2(2)](https://man7.org/linux/man-pages/man2/renameat2.2.html),
/// `RENAME_EXCHANGE`). Not every C library has a function for it.
pub(crate) fn exchange(one: &Path, other: &Path) -> nix::Result<()> {
    let exchange = |one: &CStr, other: &CStr| {
        let (here, one, other) = (libc::AT_FDCWD, one.as_ptr(), other.as_ptr());
        // SAFETY: both paths are null-terminated strings that outlive the call.
        let result = unsafe { libc::syscall(libc::SYS_renameat2, here, one, here, other, libc::RENAME_EXCHANGE) };
        Errno::result(result).map(drop)
    };
    one.with_nix_path(|one| other.with_nix_path(|other| exchange(one, other)))??
}

/// Whether the working directory has a path from this process's root
/// ([getcwd(2)](https://man7.org/linux/man-pages/man2/getcwd.2.html): else it begins with `(unreachable)`).
pub(crate) fn is_working_directory_reachable() -> nix::Result<bool> {
    let mut path = [0_u8; 4096];
    // SAFETY: the buffer is ours and as long as is said.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) };
    Errno::result(length)?;
    Ok(path[0] == b'/')
}
