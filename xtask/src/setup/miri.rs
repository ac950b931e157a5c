//! Miri, at a pinned nightly: it interprets programs, and what the language leaves undefined is an error to it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use super::announce;
use crate::command;

/// A nightly that has it; not every one does.
const TOOLCHAIN: &str = "nightly-2026-05-20";

/// A cargo of that nightly, which is installed if it is not there.
pub(crate) fn find_or_install() -> anyhow::Result<Command> {
    if !is_there() {
        install()?;
    }
    Ok(cargo())
}

fn cargo() -> Command {
    let mut rustup = Command::new("rustup");
    rustup.args(["run", TOOLCHAIN, "cargo"]);
    rustup
}

fn install() -> anyhow::Result<()> {
    if command::find("rustup").is_none() {
        bail!("there is no rustup here, which is what brings Miri: install it and try again");
    }
    announce(
        &format!("Rust {TOOLCHAIN} with miri and rust-src"),
        "interprets unit tests and sees what the language leaves undefined (500 MB)",
    );
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", TOOLCHAIN, "--profile=minimal"]);
    command::run(rustup.args(["--component=miri", "--component=rust-src"])).context("install Miri")?;
    // Tests have a limit of time.
    command::run(cargo().args(["miri", "setup"])).context("build the standard library for Miri")
}

fn is_there() -> bool {
    let has_miri = command::output(cargo().args(["miri", "--version"])).is_ok();
    let sysroot = command::output(Command::new("rustup").args(["run", TOOLCHAIN, "rustc", "--print", "sysroot"]));
    let source = |sysroot: String| PathBuf::from(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    has_miri && sysroot.is_ok_and(|sysroot| source(sysroot).is_file())
}
