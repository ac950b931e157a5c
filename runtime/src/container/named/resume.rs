//! `resume`: lets a paused container go on.

use super::{Named, Status, VerbError};

impl Named {
    /// Lets all of it go on.
    pub fn resume(&self) -> Result<(), VerbError> {
        match self.status() {
            Status::Paused => Ok(self.cgroup_for("resume")?.freeze(false)?),
            status @ (Status::Creating | Status::Created | Status::Running | Status::Stopped) => {
                Err(VerbError::Status { verb: "resume", status })
            }
        }
    }
}
