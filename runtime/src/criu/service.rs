//! One request to `criu swrk`, which ends with its answer.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};

use super::{Answer, Notification, noted};
use crate::sys::socket;

/// Longest answer.
const ROOM: usize = 64 * 1024;

/// How many lines of its log an error repeats, of the last so many bytes.
const QUOTED: usize = 3;
const QUOTED_FROM: u64 = 256 * 1024;

/// Why CRIU did not do it.
#[derive(Debug, thiserror::Error)]
pub enum CriuError {
    /// There is none, or it could not be started.
    #[error("start criu(8), which makes and restores checkpoints")]
    Start(#[source] io::Error),
    /// It could not be talked to, or ended without an answer.
    #[error("talk to criu")]
    Talk(#[source] io::Error),
    /// It would need something that this kernel does not have.
    #[error("criu can't do it on this kernel: {0}")]
    Lacking(&'static str),
    /// It refused or failed.
    #[error("criu failed{}, see {}", words.iter().map(|word| format!(": {word}")).collect::<String>(), log.display())]
    Failed {
        /// What it says, and the last errors of its log.
        words: Vec<String>,
        /// The log.
        log: PathBuf,
    },
}

/// A running `criu swrk`.
#[derive(Debug)]
pub(crate) struct Service {
    process: Child,
    socket: OwnedFd,
}

impl Service {
    /// Starts it. `inherited` are descriptors that it is to have, with the numbers that they have here; with `streams`
    /// our own standard streams too.
    pub(crate) fn start(inherited: &[OwnedFd], streams: bool) -> Result<Self, CriuError> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|errno| CriuError::Talk(errno.into()))?;
        for descriptor in inherited.iter().map(AsFd::as_fd).chain([theirs.as_fd()]) {
            outlive_exec(descriptor).map_err(CriuError::Talk)?;
        }
        let stream = || if streams { Stdio::inherit() } else { Stdio::null() };
        let process = Command::new("criu")
            .arg("swrk")
            .arg(theirs.as_raw_fd().to_string())
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .map_err(CriuError::Start)?;
        Ok(Self { process, socket: ours })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Asks, and is told of what has been reached until the answer comes. `log` is for the error.
    pub(crate) fn ask<E: From<CriuError>>(
        mut self,
        request: &[u8],
        log: &Path,
        mut notified: impl FnMut(Notification, Vec<OwnedFd>) -> Result<(), E>,
    ) -> Result<Answer, E> {
        self.say(request)?;
        loop {
            let (answer, descriptors) = self.hear()?;
            match answer.notification {
                Some(notification) => {
                    notified(notification, descriptors)?;
                    self.say(&noted())?;
                }
                None if answer.is_success => return Ok(answer),
                None => return Err(failed(answer, log).into()),
            }
        }
    }

    fn say(&mut self, request: &[u8]) -> Result<(), CriuError> {
        match send(self.socket.as_raw_fd(), request, MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(errno) => Err(CriuError::Talk(errno.into())),
        }
    }

    fn hear(&mut self) -> Result<(Answer, Vec<OwnedFd>), CriuError> {
        let (mut bytes, mut descriptors) = (vec![0; ROOM], Vec::new());
        let length =
            socket::receive(self.socket.as_fd(), &mut bytes, &mut descriptors, true).map_err(CriuError::Talk)?;
        let answer = (length > 0).then(|| Answer::read(&bytes[..length])).flatten();
        let none = || CriuError::Talk(io::Error::other("it has ended without an answer"));
        Ok((answer.ok_or_else(none)?, descriptors))
    }
}

/// It ends when nobody talks to it any more.
impl Drop for Service {
    fn drop(&mut self) {
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        let _ = self.process.wait();
    }
}

fn failed(answer: Answer, log: &Path) -> CriuError {
    // An error without its reasons is one still.
    let text = end_of(log).unwrap_or_default();
    let errors: Vec<_> = text.lines().filter(|line| line.contains("Error")).collect();
    let last = errors[errors.len().saturating_sub(QUOTED)..].iter();
    let errno = answer.errno.filter(|number| *number != 0);
    let errno = errno.map(|number| io::Error::from_raw_os_error(number.cast_signed()).to_string());
    CriuError::Failed {
        words: answer
            .message
            .into_iter()
            .chain(errno)
            .chain(last.map(|line| (*line).to_owned()))
            .collect(),
        log: log.to_owned(),
    }
}

fn end_of(log: &Path) -> io::Result<String> {
    let mut log = File::open(log)?;
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(QUOTED_FROM)))?;
    let mut bytes = Vec::new();
    log.take(QUOTED_FROM).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn outlive_exec(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_repeats_the_end_of_a_long_log() {
        let log = std::env::temp_dir().join(format!("orlop-criu-log-{}", std::process::id()));
        let many: String = (0..40_000)
            .map(|number| format!("({number}) Error at {number}\n"))
            .collect();
        assert!(many.len() as u64 > 2 * QUOTED_FROM);
        std::fs::write(&log, many).unwrap();
        let error = failed(Answer::default(), &log).to_string();
        std::fs::remove_file(&log).unwrap();
        let last = "criu failed: (39997) Error at 39997: (39998) Error at 39998: (39999) Error at 39999, see ";
        assert!(error.starts_with(last), "{error}");
    }
}
