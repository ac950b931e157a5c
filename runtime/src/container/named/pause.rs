//! `pause`: stops every process of a container for a while.

use std::time::{Duration, Instant};

use super::{Named, Status, VerbError};

/// How long the processes may take to stop, and how often that is looked at.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(1);

impl Named {
    /// Stops all of it, and returns when it stands still (`cgroup.freeze`).
    pub fn pause(&self) -> Result<(), VerbError> {
        match self.status() {
            Status::Running | Status::Created => {}
            status @ (Status::Creating | Status::Paused | Status::Stopped) => {
                return Err(VerbError::Status { verb: "pause", status });
            }
        }
        let cgroup = self.cgroup_for("pause")?;
        cgroup.freeze(true)?;
        let deadline = Instant::now() + FREEZE_LIMIT;
        while !cgroup.stands_still()? {
            if Instant::now() > deadline {
                cgroup.freeze(false)?;
                return Err(VerbError::Stuck {
                    id: self.record.id.clone(),
                });
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    pub(super) fn cgroup_for(&self, verb: &'static str) -> Result<crate::cgroup::Cgroup, VerbError> {
        self.cgroup().ok_or_else(|| VerbError::NoCgroup {
            id: self.record.id.clone(),
            verb,
        })
    }
}
