//! `orlop agent`: runs the node agent in the foreground.

use clap::Args;

use crate::config::AgentFlags;

/// Keep the pods of a directory of manifests running
#[derive(Args, Debug)]
pub(super) struct Agent {
    #[command(flatten)]
    flags: AgentFlags,
}

impl Agent {
    pub(super) fn run(self) -> anyhow::Result<()> {
        crate::run::run(self.flags.resolve()?)
    }
}
