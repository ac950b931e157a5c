//! Work inside another network namespace. Not where namespaces are made or pinned.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
    process, thread,
};

use nix::{
    sched::CloneFlags,
    unistd::{getpid, gettid},
};

/// A network namespace, held open.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// Opens a bind mount or `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// When the path can't be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(|file| Self { file })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn current() -> io::Result<Self> {
        // A process's first thread is the one that `/proc/self` is about, at half the price: each name on the way to a
        // file of a new process is made when it is asked for.
        let is_first = gettid() == getpid();
        Self::open(Path::new(if is_first {
            "/proc/self/ns/net"
        } else {
            "/proc/thread-self/ns/net"
        }))
    }

    /// Whether both are the same namespace.
    ///
    /// # Errors
    /// When one can't be examined.
    pub fn is_same(&self, other: &Self) -> io::Result<bool> {
        let (ours, theirs) = (self.file.metadata()?, other.file.metadata()?);
        Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
    }

    /// Does `work`, which is short and starts nothing, inside the namespace on the calling thread. The thread is back when
    /// this returns or panics; a process that can't get it back ends, for it would go on in a pod's network. `home` is the
    /// calling thread's own.
    ///
    /// A thread for it, as [`Self::run`] makes one, takes a tenth of a millisecond, and a whole one on a busy machine.
    ///
    /// # Errors
    /// When the file is no network namespace (`EINVAL`).
    pub(crate) fn visit<T>(&self, home: &Self, work: impl FnOnce() -> T) -> io::Result<T> {
        let home = Home(home);
        enter(&self.file)?;
        let result = work();
        drop(home);
        Ok(result)
    }

    /// Does `work` inside the namespace, on a thread of its own, and waits for it.
    ///
    /// # Errors
    /// When no thread can be had, or the file is no network namespace (`EINVAL`).
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let inside = thread::Builder::new().spawn_scoped(scope, || {
                enter(&self.file)?;
                Ok(work())
            })?;
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Where a thread that visits goes back to, however the visit ends.
struct Home<'a>(&'a Netns);

impl Drop for Home<'_> {
    fn drop(&mut self) {
        if enter(&self.0.file).is_err() {
            process::abort();
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the calling thread is a throw-away one of Netns::run, or goes back at the end of Netns::visit"
)]
fn enter(file: &File) -> io::Result<()> {
    nix::sched::setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}
