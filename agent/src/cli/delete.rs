//! `orlop delete`: takes applied objects back. What a manifest file defines is only removed with the file.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use hyper::Method;

use super::client::{Client, bytes_body, empty};
use super::row::Resource;
use crate::server::message::Deleted;

/// Delete objects that were applied
#[derive(Args, Debug)]
pub(super) struct Delete {
    /// What to delete
    #[arg(required_unless_present = "filename")]
    resource: Option<Resource>,
    /// The objects' names
    #[arg(required_unless_present = "filename")]
    names: Vec<String>,
    /// Delete what these manifests define
    #[arg(short, long, value_name = "FILE|DIR|-", conflicts_with = "resource")]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    namespace: super::Namespace,
    /// Return at once instead of when the pods are gone
    #[arg(long)]
    no_wait: bool,
}

impl Delete {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let mut deleted = Vec::new();
        for (name, text) in super::apply::manifests(&self.filename)? {
            let path = format!("/v1/delete?file={}", super::load::percent(&name));
            deleted.extend(
                client
                    .json::<Vec<Deleted>>(Method::POST, &path, bytes_body(text))
                    .await?,
            );
        }
        if let Some(resource) = self.resource {
            if !resource.is_namespaced() {
                bail!("{} can't be deleted", resource.path());
            }
            for name in &self.names {
                let path = format!("/v1/{}/{}/{name}", resource.path(), self.namespace.namespace);
                deleted.push(client.json(Method::DELETE, &path, empty()).await?);
            }
        }
        for object in &deleted {
            super::print(&format!("{} deleted\n", object.object))?;
        }
        if !self.no_wait {
            wait_until_gone(client, &deleted).await?;
        }
        Ok(())
    }
}

/// The agent bounds this: a pod has its grace period, then it is killed.
async fn wait_until_gone(client: &Client, deleted: &[Deleted]) -> anyhow::Result<()> {
    for uid in deleted.iter().filter_map(|object| object.pod_uid.as_deref()) {
        loop {
            let pods: Vec<serde_json::Value> = client.get("/v1/pods").await?;
            if !pods
                .iter()
                .any(|pod| pod.pointer("/metadata/uid").and_then(|uid| uid.as_str()) == Some(uid))
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}
