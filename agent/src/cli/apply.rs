//! `orlop apply -f`: hands manifests to the agent, which checks and keeps them.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use hyper::Method;

use super::client::{Client, bytes_body};
use crate::server::message::{Applied, AppliedOutcome};

/// The largest file that is sent; the agent refuses more.
const LIMIT: u64 = 10 << 20;

/// Create or change objects from manifests
#[derive(Args, Debug)]
pub(super) struct Apply {
    /// A file, a directory of files, or - for stdin
    #[arg(short, long, value_name = "FILE|DIR|-", required = true)]
    filename: Vec<PathBuf>,
}

impl Apply {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        for (name, text) in manifests(&self.filename)? {
            let path = format!("/v1/apply?file={}", super::load::percent(&name));
            let applied: Vec<Applied> = client.json(Method::POST, &path, bytes_body(text)).await?;
            for object in applied {
                super::print(&format!("{} {}\n", object.object, word(object.outcome)))?;
            }
        }
        Ok(())
    }
}

fn word(outcome: AppliedOutcome) -> &'static str {
    match outcome {
        AppliedOutcome::Created => "created",
        AppliedOutcome::Configured => "configured",
        AppliedOutcome::Unchanged => "unchanged",
    }
}

/// The named files' names and contents; a directory stands for its manifests in order.
pub(super) fn manifests(names: &[PathBuf]) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in names {
        if name.as_os_str() == "-" {
            found.push(("stdin".into(), read(std::io::stdin(), "stdin")?));
        } else if name.is_dir() {
            for file in in_directory(name)? {
                found.push(from_file(&file)?);
            }
        } else {
            found.push(from_file(name)?);
        }
    }
    Ok(found)
}

fn in_directory(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let reading = || format!("read {}", dir.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if crate::sources::manifests::is_manifest_name(&path) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("{} holds no *.yaml, *.yml or *.json", dir.display());
    }
    Ok(files)
}

fn from_file(path: &Path) -> anyhow::Result<(String, Vec<u8>)> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).with_context(|| format!("open {name}"))?;
    Ok((name.clone(), read(file, &name)?))
}

fn read(input: impl Read, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    input
        .take(LIMIT + 1)
        .read_to_end(&mut text)
        .with_context(|| format!("read {name}"))?;
    if text.len() as u64 > LIMIT {
        bail!("{name} is larger than 10 MiB");
    }
    Ok(text)
}
