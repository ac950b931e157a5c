//! `orlop logs`: prints a container's log, and goes on with -f.

use clap::Args;
use http_body_util::BodyExt;
use hyper::Method;

use super::client::{Client, json_body};
use crate::server::message::LogsRequest;

/// Print the log of a container
#[derive(Args, Debug)]
pub(super) struct Logs {
    /// The pod
    pod: String,
    /// The container; needed where the pod has more than one
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    #[command(flatten)]
    namespace: super::Namespace,
    /// Go on as the log grows
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// The attempt before the present one
    #[arg(short, long)]
    previous: bool,
    /// Put the time before every line
    #[arg(long)]
    timestamps: bool,
}

impl Logs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let request = LogsRequest {
            namespace: self.namespace.namespace,
            pod: self.pod,
            container: self.container,
            follow: self.follow,
            tail: self.tail,
            timestamps: self.timestamps,
            previous: self.previous,
        };
        let mut body = client
            .send(Method::POST, "/v1/logs", json_body(&request)?)
            .await?
            .into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                write(&data)?;
            }
        }
        Ok(())
    }
}

fn write(bytes: &[u8]) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}
