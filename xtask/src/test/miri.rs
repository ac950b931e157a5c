//! Unit tests in Miri: of the crates that have `unsafe` code, and of what reads bytes of others in them.
//!
//! It knows few system calls beyond files and memory: tests that make processes, pass descriptors or ask the kernel are the
//! root tests'. It takes hundreds of times as long as the processor: tests of many random inputs are the unit tests'.

use std::process::{Command, Stdio};

use anyhow::Context;

use super::summary::Record;
use super::unit::records;
use crate::{setup, workspace};

/// What of a package is run, by parts of names: all if none is given, and not those that are left out.
struct Scope {
    package: &'static str,
    only: &'static [&'static str],
    without: &'static [&'static str],
}

const SCOPES: [Scope; 2] = [
    Scope {
        package: "ebpf-common",
        only: &[],
        // Each counts what becomes of thousands.
        without: &[
            "a_changed_word_changes_the_checksum",
            "flows_spread_over_a_table",
            "masks_have_ports_of_their_own",
            "no_more_departs_than_the_limit_allows",
            "what_is_paced_is_not_policed",
            "a_chosen_backend_is_one_of_the_region",
            "every_number_falls_inside_the_region",
            "every_slot_of_a_region_is_reached",
            "sockets_that_come_at_any_distance",
            "sockets_find_what_was_kept_for_them",
        ],
    },
    Scope {
        package: "runtime",
        only: &RUNTIME,
        without: &["no_message_panics", "random_"],
    },
];

/// Strings for the kernel, and bytes to it and from it. Not the allocator: dlmalloc keeps pointers into itself, which the rules of
/// borrowing that Miri tries out do not have.
const RUNTIME: [&str; 6] = [
    "container_path::",
    "cgroup::dbus::",
    "netlink::",
    "prepare::",
    "report::",
    "sys::seal::",
];

/// As long as this it may take: what hangs is killed.
const LIMIT_SECONDS: &str = "900";

/// Runs the tests.
pub(crate) fn run(filter: Option<&str>) -> anyhow::Result<Vec<Record>> {
    let mut all = Vec::new();
    for scope in &SCOPES {
        all.extend(scope.run(filter)?);
    }
    println!("miri: {} tests", all.len());
    Ok(all)
}

impl Scope {
    fn run(&self, filter: Option<&str>) -> anyhow::Result<Vec<Record>> {
        let mut command = self.command()?;
        let output = command
            .args(self.only)
            .stdin(Stdio::null())
            .output()
            .context("start Miri")?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (said, complaints) = (text(&output.stdout), text(&output.stderr));
        let mut records = records(&said);
        let is_run = |name: &&&str| records.iter().any(|record| record.name.contains(**name));
        let missing = self.only.iter().filter(|name| !is_run(name));
        let missing: Vec<_> = missing
            .map(|name| Record::failure(name, "Miri has run no such test".into()))
            .collect();
        records.retain(|record| filter.is_none_or(|filter| record.name.contains(filter)));
        // What is undefined ends the whole of it, in the middle of a test, of which nothing more is said.
        if !output.status.success() {
            let name = format!("miri of {}", self.package);
            let text = format!("ended with {}\n{complaints}", output.status);
            records.push(Record::failure(&name, text));
        } else {
            records.extend(missing);
        }
        Ok(records)
    }

    /// Behind the other steps, whose processes have limits of time.
    fn command(&self) -> anyhow::Result<Command> {
        let cargo = setup::miri::find_or_install()?;
        let mut command = Command::new("nice");
        workspace::prepare(&mut command);
        command.args(["timeout", "--kill-after=5", LIMIT_SECONDS]);
        command.arg(cargo.get_program()).args(cargo.get_args());
        command.args([
            "miri",
            "test",
            "--package",
            self.package,
            "--lib",
            "--color=never",
            "--",
        ]);
        command.args(self.without.iter().flat_map(|name| ["--skip", name]));
        // Its own clock and random numbers would do, but proptest looks for the directory that it is in.
        command.env("MIRIFLAGS", "-Zmiri-disable-isolation");
        command.env("PROPTEST_CASES", "4");
        Ok(command)
    }
}
