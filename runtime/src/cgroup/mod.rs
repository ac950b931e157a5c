//! The cgroup v2 tree: where it is, and one directory of it.
//!
//! Only v2 is driven. On a hybrid host the v2 tree has few controllers or none: then cgroups still group, kill and
//! freeze, and limits that can't be enforced are reported as such.

mod block_io;
mod dbus;
mod devices;
mod limits;
mod members;
pub mod place;
pub mod systemd;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use block_io::io_weight;
pub use devices::DeviceRules;
pub use limits::{Limits, Setting, cpu_weight};

/// A file of the cgroup tree that could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct CgroupError {
    /// What was tried: `create`, `write "max" to`, …
    pub action: String,
    /// The file or directory.
    pub path: PathBuf,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// Where the cgroup2 filesystem is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid host. It stays
/// where it was found.
pub fn root() -> Result<PathBuf, CgroupError> {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    match ROOT.get() {
        Some(root) => Ok(root.clone()),
        None => find_root().map(|root| ROOT.get_or_init(|| root).clone()),
    }
}

fn find_root() -> Result<PathBuf, CgroupError> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(PathBuf::from)
        .find(|root| root.join("cgroup.controllers").exists())
        .ok_or_else(|| CgroupError {
            action: "find the cgroup2 filesystem below".into(),
            path: "/sys/fs/cgroup".into(),
            source: io::ErrorKind::NotFound.into(),
        })
}

/// One cgroup, by its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup at `path`, an absolute directory in the cgroup2 filesystem; it need not exist.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.path.join("cgroup.procs").exists()
    }

    /// Makes it and the cgroups above it, and turns those of `controllers` on for it that its ancestors have. Says whether
    /// it was not there before.
    ///
    /// A controller that can't be turned on (not there, or processes in an ancestor) is no error: what needs it shows
    /// as not enforced, see [`Cgroup::limit`].
    pub fn create(&self, controllers: &[&str]) -> Result<bool, CgroupError> {
        let root = root()?;
        let below = self.path.strip_prefix(&root).map_err(|_| CgroupError {
            action: format!("find below {} the cgroup", root.display()),
            path: self.path.clone(),
            source: io::ErrorKind::InvalidInput.into(),
        })?;
        let mut ancestor = Self::at(root);
        let mut is_new = false;
        for name in below.components() {
            ancestor.turn_on(controllers)?;
            ancestor = Self::at(ancestor.path.join(name));
            is_new = match fs::create_dir(&ancestor.path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                result => result.map(|()| true).map_err(|error| ancestor.error("create", error))?,
            };
        }
        Ok(is_new)
    }

    /// The controllers that it can be limited with.
    pub fn controllers(&self) -> Result<BTreeSet<String>, CgroupError> {
        self.words("cgroup.controllers")
    }

    /// Sets every limit that this kernel can enforce here. Returns a sentence for each that it can't: its controller is
    /// not turned on, or the kernel was built without the file (swap, for instance).
    pub fn limit(&self, limits: &Limits) -> Result<Vec<String>, CgroupError> {
        if limits.settings().is_empty() {
            return Ok(Vec::new());
        }
        let controllers = self.controllers()?;
        let mut unenforced = Vec::new();
        for Setting {
            controller,
            file,
            value,
            field,
            otherwise,
        } in limits.settings()
        {
            let has = |file: &str| self.path.join(file).exists();
            let (file, value) = match otherwise {
                Some((other, other_value)) if !has(file) && has(other) => (other, other_value),
                _ => (file, value),
            };
            if let Some(needed) = controller.as_ref().filter(|needed| !controllers.contains(*needed)) {
                let lack = if is_controller_of_host(needed) {
                    format!("its cgroup was not given the {needed} controller")
                } else {
                    format!("this host has no {needed} controller")
                };
                unenforced.push(format!("{field}: {lack} to enforce it"));
            } else if !has(file) {
                unenforced.push(format!("{field}: this kernel has no {file} to enforce it"));
            } else {
                self.write(file, value)?;
            }
        }
        Ok(unenforced)
    }

    /// Kills every process in it and below it (`cgroup.kill`). Nothing happens when it does not exist.
    pub fn kill(&self) -> Result<(), CgroupError> {
        match fs::write(self.path.join("cgroup.kill"), "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error("kill every process of", error)),
            _ => Ok(()),
        }
    }

    /// Stops every process in it and below it, or lets them go on (`cgroup.freeze`). Does not wait for the stop.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    /// Whether it has been told to stop (`cgroup.freeze`).
    pub fn is_frozen(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
    }

    /// Whether every process in it and below it has stopped.
    pub fn stands_still(&self) -> Result<bool, CgroupError> {
        let events = fs::read_to_string(self.path.join("cgroup.events"));
        let events = events.map_err(|error| self.error("read cgroup.events of", error))?;
        Ok(count(&events, "frozen") == Some(1))
    }

    /// Whether a process is in it or below it. False when it does not exist.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        match File::open(self.path.join("cgroup.events")) {
            Ok(mut events) => self.says_populated(&mut events),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(self.error("read cgroup.events of", error)),
        }
    }

    fn says_populated(&self, events: &mut File) -> Result<bool, CgroupError> {
        match reread(events) {
            Ok(text) => Ok(count(&text, "populated") != Some(0)),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(self.error("read cgroup.events of", error)),
        }
    }

    /// Waits until no process is in it or below it; false when `limit` is over first.
    pub fn wait_until_empty(&self, limit: Duration) -> Result<bool, CgroupError> {
        let deadline = Instant::now() + limit;
        let Ok(mut events) = File::open(self.path.join("cgroup.events")) else {
            return Ok(true);
        };
        while self.says_populated(&mut events)? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout);
        }
        Ok(true)
    }

    /// Moves a process into it.
    pub fn add(&self, pid: u32) -> Result<(), CgroupError> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// How many processes the kernel has killed in it for want of memory (`oom_kill` of `memory.events`); none without
    /// the memory controller.
    pub fn oom_kills(&self) -> Option<u64> {
        count(&fs::read_to_string(self.path.join("memory.events")).ok()?, "oom_kill")
    }

    /// The number that a file of it holds; none where the file is not there, or says `max`.
    pub fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.path.join(file)).ok()?.trim().parse().ok()
    }

    /// The text of a file of it; empty where that is not there.
    pub fn text(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or_default()
    }

    /// Its directory, for `CLONE_INTO_CGROUP`.
    pub(crate) fn open(&self) -> Result<OwnedFd, CgroupError> {
        File::open(&self.path)
            .map(OwnedFd::from)
            .map_err(|error| self.error("open", error))
    }

    /// Turns on one by one: one that is refused must not keep the others off.
    fn turn_on(&self, controllers: &[&str]) -> Result<(), CgroupError> {
        if controllers.is_empty() {
            return Ok(());
        }
        let on = self.words("cgroup.subtree_control")?;
        let mut off = controllers.iter().filter(|name| !on.contains(**name)).peekable();
        // As a rule the container before has had them turned on.
        if off.peek().is_none() {
            return Ok(());
        }
        let there = self.controllers()?;
        for controller in off.filter(|name| there.contains(**name)) {
            let _ = fs::write(self.path.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        Ok(())
    }

    fn words(&self, file: &str) -> Result<BTreeSet<String>, CgroupError> {
        let text = fs::read_to_string(self.path.join(file)).map_err(|error| CgroupError {
            action: "read".into(),
            path: self.path.join(file),
            source: error,
        })?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        let path = self.path.join(file);
        fs::write(&path, value).map_err(|error| CgroupError {
            action: format!("write {value:?} to"),
            path,
            source: error,
        })
    }

    fn error(&self, action: &str, source: io::Error) -> CgroupError {
        CgroupError {
            action: action.into(),
            path: self.path.clone(),
            source,
        }
    }
}

/// Whether who was given the whole tree could limit with it: then somebody above has not passed it on.
fn is_controller_of_host(name: &str) -> bool {
    let controllers = root().and_then(|root| Cgroup::at(root).controllers());
    controllers.is_ok_and(|controllers| controllers.contains(name))
}

/// A removed cgroup's files answer ENODEV to who has them open, ENOENT to who has not.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// What a file of a cgroup says now: poll(2) tells of changes since the last reading of the very file that it asks.
pub(crate) fn reread(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn count(file: &str, key: &str) -> Option<u64> {
    file.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_by_their_whole_name() {
        let events = "low 0\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(count(events, "oom_kill"), Some(2));
        assert_eq!(count(events, "oom"), Some(3));
        assert_eq!(count(events, "high"), None);
    }
}
