//! A process that does nothing but be in a scope: systemd makes none without a process, and the container's own is born
//! in it later.

use std::fs;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use super::super::root;
use crate::proc::cgroup_path;
use crate::sys::clone::{Child, clone3};
use crate::sys::fd::close_inherited;
use crate::sys::pidfd::pidfd_send_signal;
use crate::sys::thread::SingleThreaded;
use crate::sys::wait::wait;

/// The process. It ends with this, or with this process.
#[derive(Debug)]
pub(super) struct Placeholder {
    child: Child,
    /// The process waits for its end: it must not outlive who made it.
    _end: PipeWriter,
}

impl Placeholder {
    pub(super) fn new(token: &SingleThreaded) -> io::Result<Self> {
        let (mut theirs, ours) = io::pipe()?;
        let child = clone3(token, 0, None, || {
            close_inherited(ours.as_fd());
            await_end(&mut theirs);
        })?;
        Ok(Self { child, _end: ours })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.pid
    }

    /// The directory of the cgroup that it is in.
    pub(super) fn cgroup(&self) -> io::Result<PathBuf> {
        let list = fs::read_to_string(format!("/proc/{}/cgroup", self.child.pid))?;
        let path = cgroup_path(&list).map(Path::new);
        let path = path.ok_or_else(|| io::Error::other("there is no cgroup of version 2"))?;
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(io::Error::other(
                "the scope is outside of this process's cgroup namespace",
            ));
        }
        let root = root().map_err(|error| error.source)?;
        Ok(root.join(path))
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        // Processes that were made since have the pipe, too.
        let _ = pidfd_send_signal(self.child.pidfd.as_fd(), libc::SIGKILL);
        while matches!(wait(self.child.pidfd.as_fd(), 0), Err(error) if error.kind() == io::ErrorKind::Interrupted) {}
    }
}

/// Nothing is ever written.
fn await_end(pipe: &mut PipeReader) {
    while matches!(pipe.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::Interrupted) {}
}
