//! A scope that is there.

use std::path::Path;

use super::super::Limits;
use super::super::dbus::Body;
use super::{Manager, SystemdError, failed, properties};

/// A scope that is there.
#[derive(Debug, Clone, Copy)]
pub struct Unit<'a> {
    /// Whose it is.
    pub manager: Manager,
    /// Its name.
    pub name: &'a str,
    /// Its directory.
    pub cgroup: &'a Path,
}

impl Unit<'_> {
    /// Tells systemd of new limits, so that it does not set the old ones again.
    pub fn tell(&self, limits: &Limits) -> Result<(), SystemdError> {
        let properties = properties(limits);
        if properties.is_empty() {
            return Ok(());
        }
        let mut body = Body::default();
        body.text(self.name);
        body.flag(true);
        body.properties(&properties);
        let call = || self.manager.connect()?.call("SetUnitProperties", "sba(sv)", &body);
        call().map(drop).map_err(failed("limit", self.name))
    }

    /// Removes it. One that is not there any more, because its last process has ended, is as good.
    pub fn stop(&self) -> Result<(), SystemdError> {
        let mut body = Body::default();
        body.text(self.name);
        body.text("replace");
        let call = |mut connection: super::Connection| connection.call("StopUnit", "ss", &body);
        match self.manager.connect().and_then(call) {
            Err(error) if !error.to_string().contains("NoSuchUnit") => Err(failed("stop", self.name)(error)),
            _ => Ok(()),
        }
    }

    /// Has systemd move a process to the cgroup `into`, which is its own or one below it.
    ///
    /// A user's process may not leave the session that it was started from by itself. The user's systemd asks the machine's,
    /// which lets it.
    pub(crate) fn attach(&self, pid: u32, into: &Path) -> Result<(), SystemdError> {
        let below = into.strip_prefix(self.cgroup).unwrap_or(Path::new(""));
        let below = match below.as_os_str().is_empty() {
            true => String::new(),
            false => format!("/{}", below.display()),
        };
        let mut body = Body::default();
        body.text(self.name);
        body.text(&below);
        body.numbers(&[pid]);
        let call = || self.manager.connect()?.call("AttachProcessesToUnit", "ssau", &body);
        call().map(drop).map_err(failed("put a process into", self.name))
    }
}
