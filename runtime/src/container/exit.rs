//! How a process ended.

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::wait::{self, Ended};

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
            if let Some(exit) = Self::reap(process, 0)? {
                return Ok(exit);
            }
        }
    }

    /// Reaps a child of this process if it has ended, and does not wait.
    pub fn try_wait(process: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        Self::reap(process, libc::WNOHANG)
    }

    fn reap(process: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<Option<Self>> {
        match wait::wait(process, flags) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            ended => Ok(ended?.map(Self::of)),
        }
    }

    fn of(ended: Ended) -> Self {
        match ended.code {
            libc::CLD_EXITED => Self::Code(u8::try_from(ended.status & 0xff).unwrap_or(u8::MAX)),
            _ => Self::Signal(ended.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;
    use crate::sys::pidfd::{pidfd_open, pidfd_send_signal};

    #[test]
    fn codes_and_signals_are_told_apart_real_time_signals_included() {
        for (script, expected) in [
            ("exit 7", Exit::Code(7)),
            ("kill -9 $$", Exit::Signal(9)),
            ("kill -36 $$", Exit::Signal(36)),
        ] {
            #[expect(clippy::zombie_processes, reason = "reaped through the pidfd")]
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let process = pidfd_open(child.id()).unwrap();
            assert_eq!(Exit::wait(process.as_fd()).unwrap(), expected, "{script}");
        }
    }

    #[test]
    fn trying_does_not_wait() {
        #[expect(clippy::zombie_processes, reason = "reaped through the pidfd")]
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = pidfd_open(child.id()).unwrap();
        assert_eq!(Exit::try_wait(process.as_fd()).unwrap(), None);
        pidfd_send_signal(process.as_fd(), 15).unwrap();
        assert_eq!(Exit::wait(process.as_fd()).unwrap().shell_code(), 143);
    }
}
