//! `ps`: the processes of a container.

use super::{Named, VerbError};

impl Named {
    /// The process ids of all of it, as this process sees them.
    pub fn processes(&self) -> Result<Vec<u32>, VerbError> {
        let mut processes = self.cgroup_for("ps")?.processes()?;
        processes.sort_unstable();
        Ok(processes)
    }
}
