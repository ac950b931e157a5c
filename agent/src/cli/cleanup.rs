//! `orlop cleanup`: removes all that an agent left on this node. No agent may run meanwhile.

use clap::Args;

use crate::config::Places;

/// Remove everything that the agent left on this node: pods, links, routes, cgroups, pins, files
#[derive(Args, Debug)]
pub(super) struct Cleanup {
    #[command(flatten)]
    places: Places,
    /// Keep the images
    #[arg(long)]
    keep_images: bool,
}

impl Cleanup {
    pub(super) fn run(self) -> anyhow::Result<()> {
        crate::cleanup::cleanup(&self.places.resolve()?, self.keep_images)
    }
}
