//! `cargo xtask check`: what can be said about the source without running it.

use std::time::Instant;

use crate::{command, setup, tidy, workspace};

type Check = (&'static str, fn() -> anyhow::Result<()>);
const CHECKS: [Check; 4] = [
    ("format", format),
    ("clippy", clippy),
    ("tidy", tidy::run),
    ("deny", deny),
];

/// Runs one check or all: formatting, lints, the house's own rules, and dependencies; whether all is well.
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

fn deny() -> anyhow::Result<()> {
    let mut deny = std::process::Command::new(setup::deny::find_or_install()?);
    workspace::prepare(&mut deny);
    deny.args([
        "--log-level=warn",
        "--config=.cargo/deny.toml",
        "check",
        "bans",
        "licenses",
        "sources",
    ]);
    command::run(&mut deny)
}
