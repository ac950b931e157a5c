//! The house's own rules that no lint knows: how files open, how long they are, where `unsafe` may live.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, bail};

use crate::{command, tables, workspace};

const LINES_LIMIT: usize = 600;
/// The homes of `unsafe`.
const UNSAFE_HOMES: [&str; 2] = ["runtime/src/sys", "ebpf/"];
/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 5] = ["common.rs", "helpers.rs", "misc.rs", "types.rs", "utils.rs"];
const SKIPS: [&str; 2] = ["#[ignore", "todo!("];

/// Where the guards are, and the table of their attacks.
const GUARDS: [&str; 2] = ["runtime/src/guard.rs", "runtime/FEATURES.md"];

/// Checks every Rust file and every table that git knows; all complaints at once.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut complaints = String::new();
    let mut complain = |path: &str, list: Vec<String>| {
        list.iter()
            .try_for_each(|complaint| writeln!(complaints, "  {path}: {complaint}"))
            .context("a string can be written to")
    };
    let files = texts("*.rs")?;
    for (path, text) in &files {
        complain(path, complaints_about(Path::new(path), text))?;
    }
    for (path, table) in texts("*FEATURES.md")? {
        complain(&path, tables::complaints_about(&table, &files))?;
    }
    let [guards, table] = GUARDS.map(|path| std::fs::read_to_string(workspace::root().join(path)));
    complain(GUARDS[1], tables::guards_without_row(&guards?, &table?))?;
    if complaints.is_empty() {
        Ok(())
    } else {
        bail!("the house's rules are broken:\n{complaints}")
    }
}

/// The files that git knows by this pattern and that are there, with their text.
fn texts(pattern: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut git = std::process::Command::new("git");
    let listing = command::output(git.args(["ls-files", pattern]).current_dir(workspace::root()))?;
    let text = |path: &str| std::fs::read_to_string(workspace::root().join(path)).ok();
    Ok(listing
        .lines()
        .filter_map(|path| Some((path.to_owned(), text(path)?)))
        .collect())
}

fn complaints_about(path: &Path, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_LIMIT {
        complaints.push(format!(
            "has {lines} lines, the limit is {LINES_LIMIT}: which noun is hiding in it?"
        ));
    }
    if !text.starts_with("//!") {
        complaints.push("does not open with what it is (`//!`)".to_owned());
    }
    if path
        .file_name()
        .is_some_and(|name| EMPTY_NAMES.iter().any(|empty| name == *empty))
    {
        complaints.push("has a name that says nothing".to_owned());
    }
    if !UNSAFE_HOMES.iter().any(|home| path.starts_with(home)) {
        complaints.extend(
            code_lines(text)
                .filter(|(_, line)| is_unsafe(line))
                .map(|(number, _)| format!("line {number} is unsafe, outside of {}", UNSAFE_HOMES.join(" and "))),
        );
    }
    let is_tidy = path.ends_with("tidy.rs");
    let skips = code_lines(text).filter(|(_, line)| !is_tidy && SKIPS.iter().any(|skip| line.contains(skip)));
    complaints.extend(skips.map(|(number, line)| format!("line {number} skips something: {line}")));
    complaints
}

/// Lines with their numbers, without comments.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default().trim()))
}

fn is_unsafe(line: &str) -> bool {
    [
        "unsafe {",
        "unsafe fn ",
        "unsafe impl ",
        "unsafe extern ",
        "unsafe trait ",
    ]
    .iter()
    .any(|word| line.contains(word))
        && !line.contains('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_seen_outside_of_its_homes_only() {
        let text = "//! A file.\nfn f() { unsafe { g() } }\n// unsafe { is only said here }\n";
        assert_eq!(complaints_about(Path::new("cni/src/lib.rs"), text).len(), 1);
        assert!(complaints_about(Path::new("runtime/src/sys/clone.rs"), text).is_empty());
    }

    #[test]
    fn a_file_opens_with_what_it_is_and_is_named_for_it() {
        assert_eq!(
            complaints_about(Path::new("agent/src/utils.rs"), "fn f() {}\n").len(),
            2
        );
        let long = format!("//! Long.\n{}", "\n".repeat(LINES_LIMIT));
        assert_eq!(complaints_about(Path::new("agent/src/run.rs"), &long).len(), 1);
    }
}
