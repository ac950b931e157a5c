//! A job for the runner (`tests-vm`), and what comes back from it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::executables::Test;
use super::summary::{Record, Verdict};

/// How long tests may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// One of them, which is killed then.
    pub(crate) test: Duration,
    /// All of them; what has not begun by then has failed.
    pub(crate) total: Duration,
}

/// The job that runs `tests`; `place` says where an executable is in the runner's machine.
pub(crate) fn describe(
    tests: &[Test],
    limits: &Limits,
    environment: &BTreeMap<&str, String>,
    place: impl Fn(&Path) -> String,
) -> Value {
    let tests: Vec<_> = tests
        .iter()
        .map(|test| json!({"name": test.name, "program": place(&test.program)}))
        .collect();
    json!({
        "tests": tests,
        "limit_seconds": limits.test.as_secs(),
        "total_seconds": limits.total.as_secs(),
        "environment": environment,
    })
}

/// How far a job has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Results in the order of the job's tests.
    pub(crate) records: Vec<Record>,
    /// The index of the test that is running.
    pub(crate) running: Option<usize>,
    /// The runner has said that it is through; nothing else is a verdict.
    pub(crate) is_done: bool,
}

impl Progress {
    /// Takes one line of the runner's report; prints a line for each test that is over, headed by `label`.
    pub(crate) fn take(&mut self, line: &str, tests: &[Test], label: &str) -> anyhow::Result<()> {
        let event: Value = serde_json::from_str(line).with_context(|| format!("parse the runner's line {line:?}"))?;
        match event["event"].as_str() {
            Some("booted") => {}
            Some("started") => self.running = Some(index(&event)?),
            Some("finished") => {
                let record = record(&event, tests)?;
                print(label, &record);
                self.records.push(record);
                self.running = None;
            }
            Some("done") => self.is_done = true,
            Some("broken") => bail!("the machine could not be made ready: {}", event["reason"]),
            _ => bail!("the runner reported what is not known here: {line}"),
        }
        Ok(())
    }
}

fn index(event: &Value) -> anyhow::Result<usize> {
    let index = event["index"]
        .as_u64()
        .context("an event without the index of its test")?;
    usize::try_from(index).context("an index fits")
}

fn record(event: &Value, tests: &[Test]) -> anyhow::Result<Record> {
    let test = tests
        .get(index(event)?)
        .context("an event about a test that is not in the job")?;
    let output = event["output"].as_str().unwrap_or_default().to_owned();
    let seconds = event["seconds"].as_f64().unwrap_or_default();
    let (verdict, output) = match event["verdict"].as_str() {
        Some("passed") => (passed_or_skipped(&output), output),
        Some("timeout") => (
            Verdict::Failed,
            format!("{output}\nkilled: it did not end within its limit"),
        ),
        _ => (Verdict::Failed, output),
    };
    Ok(Record {
        name: test.full_name(),
        verdict,
        seconds,
        output,
    })
}

/// A test that skips says so on a line of its own.
fn passed_or_skipped(output: &str) -> Verdict {
    let reason = output
        .lines()
        .find_map(|line| line.split_once("SKIP: "))
        .map(|(_, reason)| reason.to_owned());
    reason.map_or(Verdict::Passed, Verdict::Skipped)
}

fn print(label: &str, record: &Record) {
    let word = match record.verdict {
        Verdict::Passed => "ok",
        Verdict::Skipped(_) => "skipped",
        Verdict::Failed => "FAILED",
    };
    println!("{label}: {} ... {word} ({:.1} s)", record.name, record.seconds);
    for note in record.output.lines().filter_map(|line| line.split_once("NOTE: ")) {
        println!("{label}: {}", note.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_test() -> Vec<Test> {
        vec![Test {
            suite: "pods".to_owned(),
            name: "starts".to_owned(),
            program: "/x/pods-1".into(),
        }]
    }

    #[test]
    fn a_report_becomes_records_and_only_done_ends_it() {
        let mut progress = Progress::default();
        progress
            .take(r#"{"event":"started","index":0}"#, &one_test(), "t")
            .unwrap();
        assert_eq!(progress.running, Some(0));
        let line = r#"{"event":"finished","index":0,"verdict":"passed","seconds":1.5,"output":"SKIP: x needs y\n"}"#;
        progress.take(line, &one_test(), "t").unwrap();
        assert_eq!(progress.records[0].verdict, Verdict::Skipped("x needs y".to_owned()));
        assert!(!progress.is_done);
        progress
            .take(r#"{"event":"done","count":1}"#, &one_test(), "t")
            .unwrap();
        assert!(progress.is_done);
    }

    #[test]
    fn a_report_about_nothing_we_asked_for_is_an_error() {
        let mut progress = Progress::default();
        let line = r#"{"event":"finished","index":7,"verdict":"passed","seconds":1.5,"output":""}"#;
        assert!(progress.take(line, &one_test(), "t").is_err());
        assert!(progress.take("kernel panic", &one_test(), "t").is_err());
    }
}
