//! `plan`: what would be done with a bundle, step by step, and why.

use std::path::PathBuf;

use anyhow::{Context, Result};
use runtime::container::Manner;
use runtime::container::explain::explain;
use runtime::container::named::Bundle;

use crate::arguments::{Globals, Word, is_on, next, unexpected};
use crate::making::place_of;

#[derive(Debug)]
pub(crate) struct Plan {
    bundle: PathBuf,
    json: bool,
}

impl Plan {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let (mut bundle, mut json) = (None, false);
        while let Some(word) = next(&mut parser)? {
            match word {
                Word::Value(value) if bundle.is_none() => bundle = Some(PathBuf::from(value)),
                Word::Flag(flag) if flag == "b" || flag == "bundle" => bundle = Some(parser.value()?.into()),
                Word::Flag(flag) if flag == "json" => json = is_on(&mut parser)?,
                word @ (Word::Flag(_) | Word::Value(_)) => return Err(unexpected(&word)),
            }
        }
        let bundle = bundle.context("plan needs a bundle directory")?;
        Ok(Self { bundle, json })
    }

    pub(crate) fn run(&self, globals: &Globals) -> Result<u8> {
        let bundle = Bundle::read(&self.bundle, None)?;
        let cgroup = place_of(globals, &bundle.spec, "ID")?.foreseen()?;
        let plan = explain(&bundle.spec, &bundle.directory, cgroup.as_deref(), Manner::default())?;
        if self.json {
            crate::print(&serde_json::to_string_pretty(&plan)?)
        } else {
            crate::print(plan.to_string().trim_end())
        }
    }
}
