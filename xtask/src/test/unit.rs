//! Unit tests: everything that `cargo test` finds outside of the root tests.

use std::process::Stdio;

use anyhow::Context;

use super::summary::{Record, Verdict};
use crate::workspace;

/// Runs the tests. They are bounded by libtest's own process: what hangs is killed with the command after its limit.
pub(crate) fn run(filter: Option<&str>) -> anyhow::Result<Vec<Record>> {
    let scope = [
        "test",
        "--workspace",
        "--exclude",
        "tests",
        "--exclude",
        "ebpf-programs",
        "--no-fail-fast",
    ];
    let build = workspace::cargo()
        .args(scope)
        .arg("--no-run")
        .status()
        .context("start cargo")?;
    anyhow::ensure!(build.success(), "building the unit tests ended with {build}");
    let mut cargo = std::process::Command::new("timeout");
    cargo
        .arg("--kill-after=5")
        .arg(LIMIT_SECONDS)
        .arg(workspace::cargo_program());
    workspace::prepare(&mut cargo);
    cargo.args(scope).arg("--color=never").args(filter).stdin(Stdio::null());
    let output = cargo.output().context("start cargo")?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    let mut records = records(&text);
    let has_failed = records.iter().any(|record| record.verdict == Verdict::Failed);
    if !output.status.success() && !has_failed {
        records.push(Record::failure(
            "cargo test",
            format!("ended with {}\n{text}", output.status),
        ));
    }
    println!("unit: {} tests", records.len());
    Ok(records)
}

const LIMIT_SECONDS: &str = "900";

/// The lines `test NAME ... ok` of libtest, with a failure's own section as its output.
pub(super) fn records(text: &str) -> Vec<Record> {
    let tests = text
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.rsplit_once(" ... "));
    let record = |(name, word): (&str, &str)| Record {
        name: name.to_owned(),
        verdict: verdict(word),
        seconds: 0.0,
        output: section(text, name),
    };
    tests.map(record).collect()
}

fn verdict(word: &str) -> Verdict {
    match word.split(',').next() {
        Some("ok") => Verdict::Passed,
        Some("ignored") => Verdict::Skipped("ignored".to_owned()),
        _ => Verdict::Failed,
    }
}

/// From `---- NAME stdout ----` to the next such line.
fn section(text: &str, name: &str) -> String {
    let head = format!("---- {name} stdout ----\n");
    let Some((_, rest)) = text.split_once(&head) else {
        return String::new();
    };
    let end = ["\n---- ", "\nfailures:"]
        .iter()
        .filter_map(|mark| rest.find(mark))
        .min();
    rest[..end.unwrap_or(rest.len())].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_and_the_output_of_a_failure_are_found() {
        let text = "running 2 tests\ntest a::b ... ok\ntest c ... FAILED\n\nfailures:\n\n---- c stdout ----\nit broke\n\nfailures:\n    c\n";
        let records = records(text);
        let names: Vec<_> = records
            .iter()
            .map(|record| (record.name.as_str(), record.verdict.clone()))
            .collect();
        assert_eq!(names, [("a::b", Verdict::Passed), ("c", Verdict::Failed)]);
        assert_eq!(records[1].output, "it broke");
    }
}
