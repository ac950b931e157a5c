//! Figures that a test executable measures, because that takes the libraries: `bench::figures` of `tests/tests/<area>`.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::Value;

use super::Row;
use crate::{command, workspace};

/// The agent is a part of the executable there, and sets these limits of its allocator itself: `runtime::sys::memory`.
const ALLOCATOR: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "1048576"),
    ("MALLOC_TRIM_THRESHOLD_", "1048576"),
    ("MALLOC_ARENA_MAX", "1"),
];

/// Runs the executable, asked for figures with `asked`, with one more variable of the environment if it needs one, and reads
/// its lines, one JSON object each; `goal` is of a case and a peer.
pub(super) fn rows(
    area: &'static str,
    asked: &str,
    environment: Option<(&str, PathBuf)>,
    goal: impl Fn(&str, &str) -> Option<f64>,
) -> anyhow::Result<Vec<Row>> {
    let figures = lines(area, asked, environment)?;
    figures.iter().map(|figure| row(area, figure, &goal)).collect()
}

/// The executable's lines as they are.
pub(super) fn lines(
    area: &'static str,
    asked: &str,
    environment: Option<(&str, PathBuf)>,
) -> anyhow::Result<Vec<Value>> {
    let mut cargo = workspace::cargo();
    cargo
        .args(["test", "--quiet", "--release", "-p", "tests", "--test", area, "--"])
        .args(["--exact", "bench::figures", "--nocapture"])
        .env("ORLOP_BENCH", asked)
        .envs(ALLOCATOR)
        .envs(environment);
    let text = command::output(&mut cargo)?;
    let figures = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    // What the test framework prints may be a number.
    Ok(figures.filter(Value::is_object).collect())
}

fn row(area: &'static str, figure: &Value, goal: impl Fn(&str, &str) -> Option<f64>) -> anyhow::Result<Row> {
    let number = |name: &str| figure[name].as_f64().with_context(|| format!("no {name} in {figure}"));
    let (unit, scale) = match figure["unit"].as_str() {
        Some("us") => ("us", 1e3),
        _ => ("ms", 1e6),
    };
    let case = figure["figure"].as_str().unwrap_or_default();
    let peer = match figure["peer"].as_str() {
        Some(name) => Some((name.to_owned(), number("peer_ns")? / scale)),
        // Too slow to be measured beside us.
        None => None,
    };
    Ok(Row {
        area,
        case: case.to_owned(),
        ours: number("ours_ns")? / scale,
        goal: peer.as_ref().and_then(|(peer, _)| goal(case, peer)),
        peer,
        unit,
    })
}
