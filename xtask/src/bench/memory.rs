//! Resident memory of the agent and of one podshim.
//!
//! PSS shares a page among the processes that map it: what one more of them costs.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Row;

/// What one shim is to cost.
const SHIM_GOAL: f64 = 1.5;

/// Reads the demo's processes.
pub(super) fn rows() -> anyhow::Result<Vec<Row>> {
    let agent = processes("orlop").into_iter().next().context("no agent runs")?;
    let shims = processes("podshim");
    let shim = shims.first().context("no podshim runs")?;
    let row = |case: &str, ours: f64| Row {
        area: "memory",
        case: case.to_owned(),
        ours,
        peer: None,
        unit: "MiB",
        goal: None,
    };
    let podshim = Row {
        peer: Some(("the goal".to_owned(), SHIM_GOAL)),
        goal: Some(1.0),
        ..row("podshim PSS", mebibytes(shim, "Pss:")?)
    };
    Ok(vec![
        row("agent RSS", mebibytes(&agent, "Rss:")?),
        row("agent PSS", mebibytes(&agent, "Pss:")?),
        row("podshim RSS", mebibytes(shim, "Rss:")?),
        podshim,
    ])
}

/// The directories in `/proc` of the processes with that name.
fn processes(name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let has_name = |dir: &PathBuf| std::fs::read_to_string(dir.join("comm")).is_ok_and(|comm| comm.trim() == name);
    entries.filter(has_name).collect()
}

fn mebibytes(process: &Path, field: &str) -> anyhow::Result<f64> {
    let path = process.join("smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .with_context(|| format!("no {field} in it"))?;
    let kibibytes: f64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .with_context(|| format!("parse {line:?}"))?;
    Ok(kibibytes / 1024.0)
}
