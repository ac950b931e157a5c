//! `cargo xtask build`: the product's programs.

use std::path::PathBuf;

use crate::{command, workspace};

/// The product's programs.
const PROGRAMS: [&str; 4] = ["orlop", "podshim", "orlop-oci", "orlop-cni"];
/// Built in one go, so that all share one build of each dependency. `tests` makes the image of the demo.
const PACKAGES: [&str; 4] = ["agent", "runtime", "cni", "tests"];

const WEAKENED: &str = "orlop-oci-weakened";

/// How to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// For tests.
    Debug,
    /// For use and for measuring.
    Release,
}

impl Profile {
    fn dir(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds all programs.
pub(crate) fn binaries(profile: Profile) -> anyhow::Result<()> {
    packages(profile, &PACKAGES)
}

/// Builds the programs of some packages.
pub(crate) fn packages(profile: Profile, names: &[&str]) -> anyhow::Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--bins"]);
    for package in names {
        cargo.args(["--package", package]);
    }
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    command::run(&mut cargo)
}

/// Builds what only tests use: the runtime that can be told to do without one of its guards.
pub(crate) fn weakened() -> anyhow::Result<()> {
    let mut cargo = workspace::cargo();
    command::run(cargo.args([
        "build",
        "--package",
        "runtime",
        "--features",
        "weaken",
        "--bin",
        WEAKENED,
    ]))
}

/// Where the programs are that tests use.
pub(crate) fn tested() -> Vec<PathBuf> {
    let weakened = path(Profile::Debug, WEAKENED);
    paths(Profile::Debug).into_iter().chain([weakened]).collect()
}

/// Where the programs are.
pub(crate) fn paths(profile: Profile) -> Vec<PathBuf> {
    PROGRAMS.iter().map(|program| path(profile, program)).collect()
}

/// Where one program is.
pub(crate) fn path(profile: Profile, program: &str) -> PathBuf {
    workspace::target_dir().join(profile.dir()).join(program)
}
