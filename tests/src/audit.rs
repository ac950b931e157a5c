//! The leak audit: what a test found before, what it left behind after, and the difference.
//!
//! Two scopes. *Own* is the rule on a machine that other tests use at the same time: it counts what carries the id of
//! the test's [`Scratch`] in its path, command line, working directory or cgroup, and what is in the network namespaces
//! that the test handed over. *Machine* (`ORLOP_ALONE=1`, set where tests run one at a time in a VM) counts everything
//! on the machine besides. The audit judges; gathering the facts is `audit::facts`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::{NetworkNamespace, Scratch};

mod facts;
mod network;
mod process;

/// The kernel tears namespaces, cgroups and BPF objects down behind our back; this is how long it may take.
const SETTLE: Duration = Duration::from_secs(10);

/// What was there before the test. [`LeakAudit::finish`] must be called on it.
#[derive(Debug)]
#[must_use = "call finish() when the test has cleaned up"]
pub struct LeakAudit<'a> {
    scope: Scope<'a>,
    before: BTreeSet<String>,
    is_finished: bool,
}

/// What to look at.
#[derive(Debug)]
struct Scope<'a> {
    scratch: &'a Scratch,
    namespaces: Vec<&'a NetworkNamespace>,
    ignored: Vec<String>,
    is_machine: bool,
}

impl<'a> LeakAudit<'a> {
    /// Looks at the world of `scratch` and at `namespaces` before the test changes it.
    pub fn begin(scratch: &'a Scratch, namespaces: &[&'a NetworkNamespace]) -> Self {
        let is_machine = std::env::var_os("ORLOP_ALONE").is_some_and(|value| value == "1");
        let scope = Scope {
            scratch,
            namespaces: namespaces.to_vec(),
            ignored: Vec::new(),
            is_machine,
        };
        let before = scope.facts();
        Self {
            scope,
            before,
            is_finished: false,
        }
    }

    /// Files at or below `relative` (to the scratch directory) may stay, for instance an image store that outlives pods.
    pub fn ignoring(mut self, relative: &str) -> Self {
        self.scope.ignored.push(relative.to_owned());
        self
    }

    /// What differs now, as lines of `left behind:` and `gone:`; `None` when nothing does.
    pub fn difference(&self) -> Option<String> {
        report(&self.before, &self.scope.facts())
    }

    /// Looks again, and once more until the kernel has had time to settle.
    ///
    /// # Panics
    /// With the list of what is left behind or missing.
    #[track_caller]
    pub fn finish(mut self) {
        self.is_finished = true;
        let start = Instant::now();
        loop {
            let Some(report) = self.difference() else { return };
            assert!(
                start.elapsed() < crate::stretched(SETTLE),
                "the test changed the machine:\n{report}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for LeakAudit<'_> {
    fn drop(&mut self) {
        assert!(
            self.is_finished || std::thread::panicking(),
            "a leak audit was begun but never finished"
        );
    }
}

/// The difference as lines of `left behind:` and `gone:`; `None` when there is none.
fn report(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Option<String> {
    let mut text = String::new();
    for fact in after.difference(before) {
        writeln!(text, "  left behind: {fact}").expect("a string can be written to");
    }
    for fact in before.difference(after) {
        writeln!(text, "  gone: {fact}").expect("a string can be written to");
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_both_directions() {
        let before = BTreeSet::from(["link lo".to_owned(), "link eth0".to_owned()]);
        let after = BTreeSet::from(["link lo".to_owned(), "link veth1".to_owned()]);
        assert_eq!(
            report(&before, &after).unwrap(),
            "  left behind: link veth1\n  gone: link eth0\n"
        );
        assert_eq!(report(&before, &before), None);
    }

    #[test]
    fn a_file_left_in_the_scratch_directory_is_seen_and_input_is_not() {
        let scratch = Scratch::new("audit-files");
        let audit = LeakAudit::begin(&scratch, &[]).ignoring("kept");
        std::fs::write(scratch.input().join("manifest.yaml"), "").unwrap();
        std::fs::create_dir(scratch.path("kept")).unwrap();
        std::fs::write(scratch.path("left"), "").unwrap();
        let seen = audit.difference().unwrap();
        assert_eq!(seen.trim(), "left behind: file left");
        std::fs::remove_file(scratch.path("left")).unwrap();
        audit.finish();
    }

    #[test]
    fn a_process_that_carries_the_id_is_seen() {
        let scratch = Scratch::new("audit-process");
        let audit = LeakAudit::begin(&scratch, &[]);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .current_dir(scratch.dir())
            .spawn()
            .unwrap();
        crate::eventually(Duration::from_secs(5), "the audit sees the process", || {
            audit.difference().is_some_and(|seen| seen.contains("sleep 60"))
        });
        child.kill().unwrap();
        child.wait().unwrap();
        audit.finish();
    }
}
