//! The node that the other areas measure: the demo's, started for the time of the measurement unless it is up anyhow.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use anyhow::Context;
use serde_json::Value;

use crate::demo;

const SOCKET: &str = "/run/orlop/agent.sock";

/// A running node.
#[derive(Debug)]
pub(super) struct Node {
    was_up: bool,
}

impl Node {
    /// Uses the demo, or starts it.
    pub(super) fn start() -> anyhow::Result<Self> {
        anyhow::ensure!(
            crate::command::is_root(),
            "this area talks to the agent's socket: run it as root"
        );
        let was_up = demo::is_up();
        demo::up_quietly()?;
        Ok(Self { was_up })
    }

    /// Leaves the node as it was found.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        if !self.was_up {
            demo::down_quietly()?;
        }
        Ok(())
    }
}

/// The objects of one kind, through the agent's socket: starting a program for it would cost more than what is measured.
pub(super) fn list(resource: &str) -> anyhow::Result<Vec<Value>> {
    let mut stream = UnixStream::connect(SOCKET).with_context(|| format!("connect to {SOCKET}"))?;
    write!(
        stream,
        "GET /v1/{resource} HTTP/1.1\r\nHost: orlop\r\nConnection: close\r\n\r\n"
    )
    .context("ask the agent")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read the agent's answer")?;
    let text = String::from_utf8_lossy(&answer);
    let (_, body) = text.split_once("\r\n\r\n").context("the agent's answer has no body")?;
    let start = body.find('[').context("the agent's answer is no list")?;
    let end = body.rfind(']').context("the agent's answer is no list")?;
    serde_json::from_str(&body[start..=end]).context("parse the agent's answer")
}

/// The object of that name.
pub(super) fn find(resource: &str, name: &str) -> anyhow::Result<Option<Value>> {
    Ok(list(resource)?
        .into_iter()
        .find(|object| object["metadata"]["name"] == name))
}
