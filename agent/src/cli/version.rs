//! `orlop version`: the release of this command and of the agent that answers.

use clap::Args;

use super::client::Client;
use crate::server::message;

/// Print the versions of this command and of the agent
#[derive(Args, Debug)]
pub(super) struct Version {
    /// Only this command's version
    #[arg(long)]
    client: bool,
}

impl Version {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        super::print(&format!("Client Version: v{}\n", env!("CARGO_PKG_VERSION")))?;
        if self.client {
            return Ok(());
        }
        let agent: message::Version = client.get("/version").await?;
        super::print(&format!(
            "Agent Version: v{} (node {}, API {})\n",
            agent.version, agent.node, agent.api_version
        ))
    }
}
