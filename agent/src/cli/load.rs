//! `orlop load`: streams an image archive, or a directory of an OCI layout as a tar, to the agent.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::Method;

use super::client::{Body, Client};
use crate::server::message::ImageView;

/// Bytes read and sent at a time.
const CHUNK: usize = 256 * 1024;

/// Load images from a docker archive, an OCI archive or an OCI layout directory
#[derive(Args, Debug)]
pub(super) struct Load {
    /// The archive or directory
    #[arg(value_name = "FILE|DIR", required_unless_present = "input", conflicts_with = "input")]
    source: Option<PathBuf>,
    /// The same, as docker names it
    #[arg(short, long, value_name = "FILE|DIR")]
    input: Option<PathBuf>,
    /// The name to give an image that brings none
    #[arg(long, value_name = "NAME")]
    tag: Option<String>,
}

impl Load {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let path = match &self.tag {
            Some(tag) => format!("/v1/images/load?tag={}", percent(tag)),
            None => "/v1/images/load".into(),
        };
        let input = self
            .source
            .or(self.input)
            .context("an archive or directory is needed")?;
        let (sender, body) = body();
        let reader = tokio::task::spawn_blocking(move || send(&input, sender));
        let images: Result<Vec<ImageView>, _> = client.json(Method::POST, &path, body).await;
        // What can't be read here matters more than the agent's surprise at a short body.
        reader.await??;
        images?
            .iter()
            .try_for_each(|image| super::print(&format!("Loaded image: {}\n", name(image))))
    }
}

fn name(image: &ImageView) -> String {
    if image.tag.is_empty() {
        format!("{}@{}", image.repository, image.digest)
    } else {
        format!("{}:{}", image.repository, image.tag)
    }
}

fn body() -> (Sender<Bytes, std::io::Error>, Body) {
    let (sender, channel) = Channel::new(4);
    (sender, BodyExt::boxed_unsync(channel))
}

fn send(input: &Path, sender: Sender<Bytes, std::io::Error>) -> anyhow::Result<()> {
    let mut out = Chunks { sender };
    let opened = || format!("open {}", input.display());
    if std::fs::metadata(input).with_context(opened)?.is_dir() {
        return archive(input, out).with_context(|| format!("archive {}", input.display()));
    }
    let mut file = std::fs::File::open(input).with_context(opened)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match file
            .read(&mut buffer)
            .with_context(|| format!("read {}", input.display()))?
        {
            0 => return Ok(()),
            read => match out.write_all(&buffer[..read]) {
                Ok(()) => {}
                // The agent has stopped reading: its answer says why.
                Err(_) => return Ok(()),
            },
        }
    }
}

/// An OCI layout has its index and its blobs, two levels deep; what else lies there stays.
fn archive(dir: &Path, out: Chunks) -> anyhow::Result<()> {
    let mut builder = tar::Builder::new(out);
    for name in ["oci-layout", "index.json"] {
        builder.append_path_with_name(dir.join(name), name)?;
    }
    let mut blobs: Vec<PathBuf> = Vec::new();
    for algorithm in std::fs::read_dir(dir.join("blobs"))? {
        for blob in std::fs::read_dir(algorithm?.path())? {
            blobs.push(blob?.path());
        }
    }
    for blob in blobs {
        builder.append_path_with_name(&blob, blob.strip_prefix(dir)?)?;
    }
    builder.into_inner()?.flush()?;
    Ok(())
}

/// Writes into the request's body, waiting while the agent is behind.
struct Chunks {
    sender: Sender<Bytes, std::io::Error>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let sent = tokio::runtime::Handle::current().block_on(self.sender.send_data(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Percent-encodes all but what a query may hold as it is (RFC 3986).
pub(super) fn percent(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:@".contains(&byte);
    text.bytes()
        .map(|byte| {
            if keep(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
