//! What is written down of a container.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::error::{VerbError, file};
use crate::cgroup::systemd::{Manager, Unit};
use crate::proc::Stat;
use crate::shim::cri::Stamp;
use crate::shim::now;
use crate::sys::directory::exchange;
use crate::sys::pidfd::pidfd_open;

/// The version of the file that this code writes, and the only one that it reads.
const VERSION: u32 = 1;

/// `state.json` of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    version: u32,
    /// Its id.
    pub id: String,
    /// Absolute directory that it was made from.
    pub bundle: PathBuf,
    /// Absolute directory of its root filesystem.
    pub rootfs: PathBuf,
    /// When it was made: RFC 3339 in UTC, with nanoseconds.
    pub created: String,
    /// Its directory in the cgroup2 tree, if it has one of its own.
    pub cgroup: Option<PathBuf>,
    /// The systemd unit that the cgroup is, if systemd has made it.
    #[serde(default)]
    pub unit: Option<String>,
    /// Whose systemd that was.
    #[serde(default)]
    pub manager: Manager,
    /// Its groups of the resctrl filesystem, if it was given any.
    #[serde(default)]
    pub(super) resctrl: ResctrlGroups,
    /// How many mounts there were on its root filesystem's directory before its own, which is seen by others too; none
    /// where nobody else sees it.
    #[serde(default)]
    pub(super) mounts_before: Option<usize>,
    /// Its first process; none before that is ready.
    pub init: Option<Init>,
    /// What the process has still to do when it is started, for an error: action and field by the number of the step.
    pub(super) steps: BTreeMap<u32, (String, String)>,
}

/// Groups of the resctrl filesystem, by their directories.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct ResctrlGroups {
    /// Those that each process of the container is put into, one after the other.
    pub(super) joined: Vec<PathBuf>,
    /// The one that goes with the container.
    pub(super) removed: Option<PathBuf>,
}

/// A process that can't be taken for another one that gets its number later.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Init {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
}

impl Record {
    pub(super) fn new(id: &str, bundle: &Path, rootfs: &Path, cgroup: Option<PathBuf>) -> Self {
        Self {
            version: VERSION,
            id: id.into(),
            bundle: bundle.into(),
            rootfs: rootfs.into(),
            created: stamp_of_now(),
            cgroup,
            unit: None,
            manager: Manager::default(),
            resctrl: ResctrlGroups::default(),
            mounts_before: None,
            init: None,
            steps: BTreeMap::new(),
        }
    }

    /// The systemd unit that its cgroup is.
    pub(super) fn scope(&self) -> Option<Unit<'_>> {
        let (name, cgroup) = self.unit.as_deref().zip(self.cgroup.as_deref())?;
        Some(Unit {
            manager: self.manager,
            name,
            cgroup,
        })
    }

    pub(super) fn read(path: &Path) -> Result<Self, VerbError> {
        let invalid = |error: String| file("read", path)(io::Error::new(io::ErrorKind::InvalidData, error));
        let text = fs::read(path).map_err(file("read", path))?;
        let record: Self = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        if record.version == VERSION {
            Ok(record)
        } else {
            Err(invalid(format!("it is of version {}, not {VERSION}", record.version)))
        }
    }

    /// Replaces the file as a whole: nobody ever sees half of it. The state directory does not outlive a reboot, and
    /// neither does a container, so that nothing is forced to disk.
    pub(super) fn write(&self, path: &Path) -> Result<(), VerbError> {
        let beside = path.with_extension("json.new");
        let write = || {
            fs::write(&beside, serde_json::to_vec(self)?)?;
            take_place(&beside, path)
        };
        write().map_err(file("write", path))
    }
}

impl Init {
    /// The process with this number as it is now.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let start_time = Stat::read(pid)?.start_time;
        Ok(Self { pid, start_time })
    }

    /// Holds on to the process, if it is still there and has not ended.
    pub(super) fn open(self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(self.pid).ok()?;
        // Looked at after it is held: so it is this one that the descriptor stands for.
        self.is_alive().then_some(pidfd)
    }

    pub(super) fn is_alive(self) -> bool {
        Stat::read(self.pid).is_ok_and(|stat| stat.start_time == self.start_time && !matches!(stat.state, 'Z' | 'X'))
    }
}

/// Renames `new` to `old`, which may be there. Ext4 writes a file to disk before it replaces another one, for the sake of
/// a crash that no record outlives; not when the two change places.
fn take_place(new: &Path, old: &Path) -> io::Result<()> {
    match exchange(new, old) {
        Ok(()) => fs::remove_file(new),
        // There is none, or this filesystem can't.
        Err(Errno::ENOENT | Errno::EINVAL) => fs::rename(new, old),
        Err(errno) => Err(errno.into()),
    }
}

/// The time of day in RFC 3339, in UTC with nanoseconds.
pub fn stamp_of_now() -> String {
    Stamp::from(now()).as_str().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_of_the_same_number_is_not_believed() {
        let own = Init::of(std::process::id()).unwrap();
        assert!(own.is_alive() && own.open().is_some());
        let other = Init {
            start_time: own.start_time + 1,
            ..own
        };
        assert!(!other.is_alive() && other.open().is_none());
    }

    #[test]
    fn a_record_of_another_version_is_refused() {
        let path = std::env::temp_dir().join(format!("record-{}.json", std::process::id()));
        let mut record = Record::new("c", Path::new("/b"), Path::new("/b/r"), None);
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap().id, "c");
        record.version = 2;
        record.write(&path).unwrap();
        assert!(Record::read(&path).is_err());
        fs::remove_file(&path).unwrap();
    }
}
