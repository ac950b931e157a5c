//! How a process ended.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code, 0 to 255.
    Code(u8),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// The code that a shell would show: the process's own, or 128 + signal.
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }

    /// Waits for the end of a child of this process and reaps it.
    pub fn wait(process: BorrowedFd<'_>) -> io::Result<Self> {
        loop {
            if let Some(exit) = Self::reap(process, WaitPidFlag::WEXITED)? {
                return Ok(exit);
            }
        }
    }

    /// Reaps a child of this process if it has ended, and does not wait.
    pub fn try_wait(process: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        Self::reap(process, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)
    }

    fn reap(process: BorrowedFd<'_>, flags: WaitPidFlag) -> io::Result<Option<Self>> {
        match waitid(Id::PIDFd(process), flags) {
            Ok(status) => Ok(Self::of(status)),
            Err(Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn of(status: WaitStatus) -> Option<Self> {
        match status {
            WaitStatus::Exited(_, code) => Some(Self::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX))),
            WaitStatus::Signaled(_, signal, _) => Some(Self::Signal(signal as i32)),
            WaitStatus::Stopped(..)
            | WaitStatus::PtraceEvent(..)
            | WaitStatus::PtraceSyscall(_)
            | WaitStatus::Continued(_)
            | WaitStatus::StillAlive => None,
        }
    }
}
