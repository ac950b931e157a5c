//! `kill`: a signal to a container.

use std::os::fd::AsFd;

use super::{Named, Status, VerbError};
use crate::cgroup::Cgroup;
use crate::container::kill;
use crate::plan::has_pid_namespace;
use crate::sys::pidfd::pidfd_open;

impl Named {
    /// Sends `signal` to its init; or with `all` to every process that it has, the init having ended or not.
    ///
    /// SIGKILL for a container without a pid namespace of its own goes to all of them: nothing else ends the others.
    pub fn kill(&self, signal: i32, all: bool) -> Result<(), VerbError> {
        let is_end = signal == libc::SIGKILL;
        let shares_pids = || self.spec().is_ok_and(|spec| !has_pid_namespace(&spec));
        if let Some(cgroup) = self.cgroup().filter(|_| all || (is_end && shares_pids())) {
            if !all && self.status() == Status::Stopped && cgroup.processes()?.is_empty() {
                return Err(VerbError::NotRunning);
            }
            return kill_all(&cgroup, signal);
        }
        let (_, pidfd) = self.init()?;
        match kill(pidfd.as_fd(), signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(VerbError::NotRunning),
            result => result.map_err(|error| VerbError::Kernel("signal the container's process", error)),
        }
    }
}

/// Those that end meanwhile need no signal.
fn kill_all(cgroup: &Cgroup, signal: i32) -> Result<(), VerbError> {
    if signal == libc::SIGKILL {
        return Ok(cgroup.kill()?);
    }
    for pid in cgroup.processes()? {
        let Ok(process) = pidfd_open(pid) else { continue };
        // Held, and still in the cgroup: so it is one of the container's.
        if cgroup.holds(pid) {
            let _ = kill(process.as_fd(), signal);
        }
    }
    Ok(())
}
