//! `orlop pull`: asks the agent to pull an image.

use clap::Args;
use hyper::Method;

use super::client::{Client, json_body};
use crate::server::message::{ImageView, PullRequest};

/// Pull an image from its registry
#[derive(Args, Debug)]
pub(super) struct Pull {
    /// The image, as a pod names it
    image: String,
    /// Speak plain HTTP with the registry
    #[arg(long)]
    insecure: bool,
}

impl Pull {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let body = json_body(&PullRequest {
            image: self.image,
            insecure: self.insecure,
        })?;
        let image: ImageView = client.json(Method::POST, "/v1/images/pull", body).await?;
        super::print(&format!(
            "Image is up to date for {}@{}\n",
            image.repository, image.digest
        ))
    }
}
