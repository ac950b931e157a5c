//! The proof that this process has one thread, which every clone asks for.
//!
//! A process with more than one thread that forks and goes on running its own code in the child can find any lock
//! held for ever (malloc's first of all). Ours never does: the token is made only by counting.

use std::io;
use std::marker::PhantomData;

/// This process has exactly one thread, and this is it.
///
/// Not `Send`, so that it can't be carried into a thread that was started later. Make it where it is used: a thread
/// started after the proof makes the proof stale.
#[derive(Debug)]
pub struct SingleThreaded(PhantomData<*const ()>);

/// Why the process could not be shown to have a single thread.
#[derive(Debug, thiserror::Error)]
pub enum ThreadsError {
    /// `/proc/self/status` could not be read.
    #[error("read the thread count from /proc/self/status")]
    Read(#[source] io::Error),
    /// There are other threads.
    #[error("this process has {0} threads; a container is only created from a single-threaded one")]
    Several(u32),
}

impl SingleThreaded {
    /// Counts the threads of this process (`Threads:` in proc_pid_status(5)).
    pub fn prove() -> Result<Self, ThreadsError> {
        let status = std::fs::read_to_string("/proc/self/status").map_err(ThreadsError::Read)?;
        match crate::proc::thread_count(&status) {
            Some(1) => Ok(Self(PhantomData)),
            Some(several) => Err(ThreadsError::Several(several)),
            None => Err(ThreadsError::Read(io::Error::new(
                io::ErrorKind::InvalidData,
                "no Threads: line",
            ))),
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
