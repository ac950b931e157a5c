//! fork(2), for a process that goes on in its child.

use std::io;

use nix::errno::Errno;

use super::thread::SingleThreaded;

/// Which of the two processes this is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fork {
    /// The one that called.
    Parent,
    /// The new one.
    Child,
}

/// Doubles this process ([fork(2)](https://man7.org/linux/man-pages/man2/fork.2.html)). Unlike after a raw `clone3`,
/// the C library of the child knows that it is another process, so the child may go on as any program.
pub(crate) fn fork(_token: &SingleThreaded) -> io::Result<Fork> {
    // SAFETY: the token shows that there is no other thread, whose locks the child would find held for ever.
    let pid = Errno::result(unsafe { libc::fork() })?;
    Ok(if pid == 0 { Fork::Child } else { Fork::Parent })
}
