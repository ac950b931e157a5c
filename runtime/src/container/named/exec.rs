//! `exec`: one more process in a container.

use std::borrow::Cow;
use std::path::PathBuf;

use super::{Named, Status, VerbError};
use crate::container::{Manner, Running, SingleThreaded, Stdio, Target, exec};
use crate::spec::Process;

/// The process to add.
#[derive(Debug)]
pub struct ExecOrder<'a> {
    /// What to run, and as whom.
    pub process: &'a Process,
    /// Its standard streams.
    pub stdio: Stdio,
    /// What the caller wants besides.
    pub manner: Manner,
    /// A cgroup below the container's to be born in.
    pub cgroup: Option<PathBuf>,
    /// Add it to a paused container, too; it runs when that is resumed.
    pub ignore_paused: bool,
}

impl Named {
    /// Adds a process to a created or running container. What it does not say of labels and limits the container's own
    /// process does, as for the peers: nobody is without them by leaving them out.
    pub fn exec(&self, order: ExecOrder<'_>) -> Result<Running, VerbError> {
        match self.status() {
            Status::Created | Status::Running => {}
            Status::Paused if order.ignore_paused => {}
            Status::Paused => return Err(VerbError::Paused),
            status @ Status::Creating => {
                return Err(VerbError::Status {
                    verb: "exec in",
                    status,
                });
            }
            Status::Stopped => return Err(VerbError::NotRunning),
        }
        let spec = self.spec()?;
        let (_, pidfd) = self.init()?;
        let whole = self.target(&pidfd, &spec);
        let target = Target {
            cgroup: order.cgroup.as_deref().or(whole.cgroup),
            follows_init: order.cgroup.is_none(),
            ..whole
        };
        let first = spec.process().as_ref();
        let process = first.map_or(Cow::Borrowed(order.process), |first| order.process.completed_by(first));
        let token = SingleThreaded::prove()?;
        Ok(exec(&token, target, &process, order.stdio, order.manner)?)
    }
}
