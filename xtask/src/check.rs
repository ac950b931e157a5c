//! `cargo xtask check`: what can be said about the source without running it.

use std::time::Instant;

use crate::{command, tidy, workspace};

type Check = (&'static str, fn() -> anyhow::Result<()>);
const CHECKS: [Check; 4] = [
    ("format", format),
    ("clippy", clippy),
    ("tidy", tidy::run),
    ("deny", deny),
];

/// Runs one check or all: formatting, lints, the house's own rules, and dependencies where cargo-deny is installed;
/// whether all is well.
pub(crate) fn run(only: Option<&str>) -> anyhow::Result<bool> {
    let names = CHECKS.map(|(name, _)| name);
    anyhow::ensure!(
        only.is_none_or(|only| names.contains(&only)),
        "the checks are {}",
        names.join(", ")
    );
    let wanted = CHECKS
        .into_iter()
        .filter(|(name, _)| only.is_none_or(|only| only == *name));
    Ok(wanted.fold(true, |is_well, (name, work)| check(name, work) && is_well))
}

fn check(name: &str, work: fn() -> anyhow::Result<()>) -> bool {
    let start = Instant::now();
    let result = work();
    let seconds = start.elapsed().as_secs_f64();
    match &result {
        Ok(()) => println!("check: {name} ... ok ({seconds:.1} s)"),
        Err(error) => println!("check: {name} ... FAILED ({seconds:.1} s)\n{error:#}"),
    }
    result.is_ok()
}

fn format() -> anyhow::Result<()> {
    command::run(workspace::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> anyhow::Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "--deny",
        "warnings",
    ]);
    command::run(&mut cargo)
}

/// Building cargo-deny takes longer than all other set-up together, so it is used where it is, and missed aloud.
fn deny() -> anyhow::Result<()> {
    if command::find("cargo-deny").is_none() {
        println!("check: cargo-deny is not here; `cargo install cargo-deny --version 0.20.2 --locked` brings it");
        return Ok(());
    }
    let mut cargo = workspace::cargo();
    cargo.args([
        "deny",
        "--log-level=warn",
        "check",
        "--config",
        ".cargo/deny.toml",
        "bans",
        "licenses",
        "sources",
    ]);
    command::run(&mut cargo)
}
