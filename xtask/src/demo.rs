//! `cargo xtask up` and `down`: a node on this machine that runs the example manifests, and its removal.
//!
//! The agent runs as a user would run it, in the host's network namespace and with its default directories, so that
//! `target/release/orlop get pods` works without any flag.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::{build, command, setup, workspace};

mod agent;
mod leftover;
mod show;

/// What the demo itself writes; all else is the agent's.
const DIR: &str = "/run/orlop-demo";
const PROFILE: build::Profile = build::Profile::Release;
const READY_LIMIT: Duration = Duration::from_secs(120);

/// Builds and starts everything that is not there yet, waits until the Service answers, and shows it.
pub(crate) fn up() -> anyhow::Result<()> {
    let start = Instant::now();
    stage("set-up", || setup::tools(setup::Purpose::Build))?;
    stage("build", || build::binaries(PROFILE))?;
    stage("agent", agent::start)?;
    stage("image", load_image)?;
    stage("manifests", apply_manifests)?;
    stage("pods", || {
        show::wait_for_pods(READY_LIMIT, &mut |text| println!("  {text}"))
    })?;
    let address = show::objects()?;
    stage("answers", || show::answers(&address))?;
    println!(
        "\nup after {:.1} s; try `{} get pods -o wide`",
        start.elapsed().as_secs_f64(),
        program("orlop").display()
    );
    println!("the agent's log is {DIR}/agent.log; `cargo xtask down` removes everything");
    Ok(())
}

/// Removes all that `up` made, and makes sure of it; whether nothing is left.
pub(crate) fn down() -> anyhow::Result<bool> {
    stage("agent", agent::stop)?;
    if program("orlop").is_file() {
        stage("clean-up", || {
            command::run(command::as_root(program("orlop")).arg("cleanup"))
        })?;
    }
    command::run(command::as_root("rm").args(["-rf", DIR]))?;
    let left = leftover::find();
    for thing in &left {
        println!("left behind: {thing}");
    }
    if left.is_empty() {
        println!("nothing is left");
    }
    Ok(left.is_empty())
}

/// Whether the demo's agent runs.
pub(crate) fn is_up() -> bool {
    agent::is_running()
}

/// The directory that the demo's agent watches.
pub(crate) fn manifest_dir() -> PathBuf {
    Path::new(DIR).join("manifests")
}

/// The demo's node with its pods ready, without a word on standard output.
pub(crate) fn up_quietly() -> anyhow::Result<()> {
    agent::start()?;
    load_image()?;
    apply_manifests()?;
    show::wait_for_pods(READY_LIMIT, &mut |_| {})
}

/// Removes the demo without a word on standard output.
pub(crate) fn down_quietly() -> anyhow::Result<()> {
    agent::stop()?;
    command::output(command::as_root(program("orlop")).arg("cleanup"))?;
    command::run(command::as_root("rm").args(["-rf", DIR]))
}

fn stage<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    println!("{name} ...");
    let start = Instant::now();
    let result = work().with_context(|| name.to_owned())?;
    println!("{name} ... done ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(result)
}

fn program(name: &str) -> PathBuf {
    build::path(PROFILE, name)
}

/// The command line that talks to the demo's agent.
fn orlop(arguments: &[&str]) -> Command {
    let mut command = command::as_root(program("orlop"));
    command.args(arguments);
    command
}

fn load_image() -> anyhow::Result<()> {
    let images = command::output(&mut orlop(&["get", "images", "-o", "name"]))?;
    if images.contains("localhost/busybox:demo") {
        return Ok(());
    }
    let layout = format!("{DIR}/image");
    command::run(command::as_root(program("demo-image")).arg(&layout))?;
    command::output(&mut orlop(&["load", &layout])).map(drop)
}

/// Copies the manifests into the directory that the agent watches.
fn apply_manifests() -> anyhow::Result<()> {
    let mut copy = command::as_root("cp");
    for entry in std::fs::read_dir(workspace::root().join("tests/fixtures/demo")).context("list the manifests")? {
        copy.arg(entry.context("list the manifests")?.path());
    }
    command::run(copy.arg(format!("{DIR}/manifests/")))
}
