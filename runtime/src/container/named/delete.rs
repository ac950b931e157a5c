//! `delete`: the end of a container, its cgroup and its record.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::VerbError;
use super::{Named, Status, Store};
use crate::cgroup::systemd::Manager;
use crate::container::hook::Moment;
use crate::container::{SingleThreaded, kill};
use crate::spec::Spec;

/// How long a container may take to end that somebody deletes who has seen the last that it does.
const LAST_MOMENTS: u16 = 100;

/// How long killed processes may take to go away.
const END_LIMIT: Duration = Duration::from_secs(10);

impl Store {
    /// Deletes a container that has ended or was never started; with `force` any, and one that is not there is no error.
    /// Returns what its last hooks complain about.
    pub fn delete(&self, id: &str, force: bool) -> Result<Vec<String>, VerbError> {
        match self.find(id) {
            Err(VerbError::Unknown { .. }) if force => self.forget(id).map(|()| Vec::new()),
            named => named?.delete(force),
        }
    }
}

impl Named {
    /// As [`Store::delete`].
    pub fn delete(&self, force: bool) -> Result<Vec<String>, VerbError> {
        match self.status_at_its_end(force) {
            Status::Stopped | Status::Created => {}
            Status::Creating | Status::Running | Status::Paused if force => {}
            status @ (Status::Creating | Status::Running | Status::Paused) => {
                return Err(VerbError::NotStopped {
                    id: self.record.id.clone(),
                    status,
                });
            }
        }
        let spec = self.has_hooks().then(|| self.spec().ok()).flatten();
        put_away(&SingleThreaded::prove()?, self, spec.as_ref())
    }
}

impl Named {
    /// Its status; of one that runs and is not to be killed when it has had the time to end by itself.
    fn status_at_its_end(&self, force: bool) -> Status {
        let status = self.status();
        if status != Status::Running || force {
            return status;
        }
        if let Ok((_, pidfd)) = self.init() {
            let _ = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], LAST_MOMENTS);
        }
        self.status()
    }

    /// Ends what is left of its processes; its record stays.
    pub fn end(&self) -> Result<(), VerbError> {
        if let Ok((_, pidfd)) = self.init() {
            end(self, &pidfd)?;
        }
        let Some(cgroup) = self.cgroup() else { return Ok(()) };
        if !cgroup.is_populated()? {
            return Ok(());
        }
        cgroup.kill()?;
        if cgroup.wait_until_empty(END_LIMIT)? {
            Ok(())
        } else {
            Err(VerbError::Stuck {
                id: self.record.id.clone(),
            })
        }
    }
}

/// Ends what is left of a container and removes every trace of it.
pub(super) fn put_away(token: &SingleThreaded, named: &Named, spec: Option<&Spec>) -> Result<Vec<String>, VerbError> {
    named.end()?;
    if let Some(unit) = named.record.scope() {
        match unit.stop() {
            // It has gone, perhaps with the user's systemd.
            Err(_) if !unit.cgroup.exists() => {}
            // Whoever can't ask the user's systemd from here has an empty cgroup, which is the user's to remove.
            Err(_) if unit.manager == Manager::User => {}
            stopped => stopped?,
        }
    }
    if let Some(cgroup) = named.cgroup() {
        cgroup.remove()?;
    }
    named.leave_resctrl()?;
    named.unmount_root()?;
    named.remove()?;
    let failed = spec.map(|spec| named.hooks(spec).each_on_host(token, Moment::Poststop, None));
    Ok(failed.iter().flatten().map(sentence).collect())
}

/// Kills the init and waits for its end; who its parent is does not matter.
pub(super) fn end(named: &Named, init: &OwnedFd) -> Result<(), VerbError> {
    // It may have ended just now.
    let _ = kill(init.as_fd(), libc::SIGKILL);
    let timeout = PollTimeout::try_from(END_LIMIT).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(init.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(0) => Err(VerbError::Stuck {
            id: named.record.id.clone(),
        }),
        Ok(_) => Ok(()),
        Err(errno) => Err(VerbError::Kernel("wait for the container's end", errno.into())),
    }
}

/// An error with its causes.
fn sentence(error: &crate::container::HookError) -> String {
    let mut sentence = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        sentence.push_str(&format!(": {error}"));
        cause = error.source();
    }
    sentence
}
