//! The proof that this process has one thread, which every clone asks for.
//!
//! A process with more than one thread that forks and goes on running its own code in the child can find any lock
//! held for ever (malloc's first of all). Ours never does: the token is made only by counting.

use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;

/// This process has exactly one thread, and this is it.
///
/// Not `Send`, so that it can't be carried into a thread that was started later. Make it where it is used: a thread
/// started after the proof makes the proof stale.
#[derive(Debug)]
pub struct SingleThreaded(PhantomData<*const ()>);

/// Why the process could not be shown to have a single thread.
#[derive(Debug, thiserror::Error)]
pub enum ThreadsError {
    /// `/proc/self/task` could not be looked at.
    #[error("count the threads in /proc/self/task")]
    Read(#[source] io::Error),
    /// There are other threads.
    #[error("this process has {0} threads; a container is only created from a single-threaded one")]
    Several(u64),
}

/// A directory has one link more than it has subdirectories, and one for its own name; `/proc/self/task` has a
/// subdirectory for each thread (proc_pid_task(5)). Its number of links is the one thing of /proc that is told without a
/// text being written and read.
const LINKS_OF_NO_THREADS: u64 = 2;

impl SingleThreaded {
    /// Counts the threads of this process.
    pub fn prove() -> Result<Self, ThreadsError> {
        let tasks = std::fs::metadata("/proc/self/task").map_err(ThreadsError::Read)?;
        match tasks.nlink().saturating_sub(LINKS_OF_NO_THREADS) {
            1 => Ok(Self(PhantomData)),
            0 => Err(ThreadsError::Read(io::Error::new(
                io::ErrorKind::InvalidData,
                "it counts none",
            ))),
            several => Err(ThreadsError::Several(several)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threaded_process_gets_no_token() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        assert!(matches!(SingleThreaded::prove(), Err(ThreadsError::Several(_))));
        drop(done);
        let _ = thread.join();
    }
}
