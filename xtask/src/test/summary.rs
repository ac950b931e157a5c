//! What the tests came to.

use std::time::{Duration, Instant};

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It passed.
    Passed,
    /// It can't run here, for this reason.
    Skipped(String),
    /// It failed, or exceeded its limit, or its machine crashed.
    Failed,
}

/// One test that ran.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// `executable::path::of::test`.
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    pub(crate) seconds: f64,
    /// What it printed.
    pub(crate) output: String,
}

impl Record {
    /// A failure that is not one test's own, such as a crate that does not compile.
    pub(crate) fn failure(name: &str, output: String) -> Self {
        Self {
            name: name.to_owned(),
            verdict: Verdict::Failed,
            seconds: 0.0,
            output,
        }
    }
}

/// What a stage came to, and how long it took.
pub(crate) type Timed = (Duration, anyhow::Result<Vec<Record>>);

/// Runs a stage.
pub(crate) fn timed(work: impl FnOnce() -> anyhow::Result<Vec<Record>>) -> Timed {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

/// All stages so far.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    stages: Vec<Stage>,
}

#[derive(Debug)]
struct Stage {
    name: String,
    elapsed: Duration,
    records: Vec<Record>,
}

impl Summary {
    /// Adds a stage. One that can't run at all counts as one failed test, and the next stage runs all the same.
    pub(crate) fn add(&mut self, name: &str, (elapsed, result): Timed) {
        let records = result.unwrap_or_else(|error| vec![Record::failure(name, format!("{error:#}"))]);
        self.stages.push(Stage {
            name: name.to_owned(),
            elapsed,
            records,
        });
    }

    /// Prints failures, a line for each stage, and the totals alone on the last line; whether nothing failed.
    pub(crate) fn print(&self, elapsed: Duration) -> bool {
        for stage in &self.stages {
            stage.print_failures();
        }
        println!("\nsummary ({} s)", elapsed.as_secs());
        let (mut passed, mut failed) = (0, 0);
        for stage in &self.stages {
            stage.print_line();
            passed += stage.count(|verdict| *verdict == Verdict::Passed);
            failed += stage.count(|verdict| *verdict == Verdict::Failed);
        }
        println!("{passed} passed, {failed} failed");
        failed == 0
    }
}

impl Stage {
    fn print_failures(&self) {
        for record in self.records.iter().filter(|record| record.verdict == Verdict::Failed) {
            println!(
                "\n---- {}: {} ({:.1} s) ----\n{}",
                self.name,
                record.name,
                record.seconds,
                record.output.trim()
            );
        }
        for record in &self.records {
            if let Verdict::Skipped(reason) = &record.verdict {
                println!("skipped: {}: {}: {reason}", self.name, record.name);
            }
        }
    }

    fn print_line(&self) {
        let count = |wanted: fn(&Verdict) -> bool| self.count(wanted);
        println!(
            "  {:<10} {:>5} passed {:>4} failed {:>4} skipped {:>6.1} s",
            self.name,
            count(|verdict| *verdict == Verdict::Passed),
            count(|verdict| *verdict == Verdict::Failed),
            count(|verdict| matches!(verdict, Verdict::Skipped(_))),
            self.elapsed.as_secs_f64(),
        );
    }

    fn count(&self, wanted: impl Fn(&Verdict) -> bool) -> usize {
        self.records.iter().filter(|record| wanted(&record.verdict)).count()
    }
}
