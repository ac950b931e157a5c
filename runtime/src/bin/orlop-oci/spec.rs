//! `spec`: a config.json to start from.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use runtime::container::spec::example;

use crate::arguments::{Word, is_on, next, unexpected};

#[derive(Debug)]
pub(crate) struct Spec {
    bundle: PathBuf,
    rootless: bool,
}

impl Spec {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let (mut bundle, mut rootless) = (PathBuf::from("."), false);
        while let Some(word) = next(&mut parser)? {
            match word {
                Word::Flag(flag) if flag == "b" || flag == "bundle" => bundle = parser.value()?.into(),
                Word::Flag(flag) if flag == "rootless" => rootless = is_on(&mut parser)?,
                word @ (Word::Flag(_) | Word::Value(_)) => return Err(unexpected(&word)),
            }
        }
        Ok(Self { bundle, rootless })
    }

    /// A file that is there is somebody's work.
    pub(crate) fn run(&self) -> Result<u8> {
        let user = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let text = serde_json::to_string_pretty(&example(self.rootless.then_some(user)))?;
        let path = self.bundle.join("config.json");
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(0)
    }
}
