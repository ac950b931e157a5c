//! `cargo xtask build`: the product's programs.

use std::path::PathBuf;

use anyhow::Context;

use crate::{command, setup, workspace};

/// The product's programs.
const PROGRAMS: [&str; 4] = ["orlop", "podshim", "orlop-oci", "orlop-cni"];
/// Built in one go, so that all share one build of each dependency. `tests` makes the image of the demo.
const PACKAGES: [&str; 4] = ["agent", "runtime", "cni", "tests"];

/// The packages whose released programs need no shared library, and they: the shorter their start, the faster a container
/// is there or attached, and nothing of the host's can change what they are.
const STATIC: [Static; 2] = [RUNTIME, PLUGIN];
const RUNTIME: Static = Static {
    package: "runtime",
    programs: &["orlop-oci", "podshim"],
    // At an address of chance, with small relocations.
    flags: "-Ctarget-feature=+crt-static -Clink-arg=-Wl,-z,pack-relative-relocs",
    // What they wait for is the kernel, and what they run they run once: their own code is faster when it is small.
    level: "z",
};
/// It lives for two milliseconds. At a fixed address, as the reference plugins are, it needs no relocations, and a quarter
/// fewer pages.
const PLUGIN: Static = Static {
    package: "cni",
    programs: &["orlop-cni"],
    flags: "-Ctarget-feature=+crt-static -Crelocation-model=static -Clink-arg=-Wl,-z,noseparate-code",
    // A third of what it runs is its own code, half of which small code would spend on calls and copies.
    level: "2",
};

/// How a package's static programs are built.
struct Static {
    package: &'static str,
    programs: &'static [&'static str],
    /// Flags of the compiler, beside those of the user.
    flags: &'static str,
    /// How much the compiler optimises.
    level: &'static str,
}

const WEAKENED: &str = "orlop-oci-weakened";
/// Its feature is called the same.
const FLOOR: &str = "floor";

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
    let are_static: &[Static] = if profile == Profile::Release { &STATIC } else { &[] };
    for package in are_static.iter().filter(|of| names.contains(&of.package)) {
        static_programs(package, &["--bins"], package.programs)?;
    }
    let is_left = |name: &&&str| are_static.iter().all(|of| of.package != **name);
    let mut names = names.iter().filter(is_left).peekable();
    if names.peek().is_none() {
        return Ok(());
    }
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

/// Builds the programs that are static, and puts them beside the others. Only with a target named do Cargo's flags spare
/// the compiler's own plugins, which can't be static. The C library is musl where the compiler has it: its programs start in
/// half the time.
fn static_programs(how: &Static, what: &[&str], programs: &[&str]) -> anyhow::Result<()> {
    let host = host()?;
    let target = setup::musl::find_or_install(&host).unwrap_or(host);
    let mut cargo = workspace::cargo();
    cargo
        .args(["build", "--release", "--package", how.package, "--target", &target])
        .args(what);
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    cargo.env("RUSTFLAGS", format!("{flags} {}", how.flags));
    cargo.envs([
        ("CARGO_PROFILE_RELEASE_OPT_LEVEL", how.level),
        ("CARGO_PROFILE_RELEASE_LTO", "fat"),
        ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ]);
    command::run(&mut cargo)?;
    let built = workspace::target_dir().join(target).join(Profile::Release.dir());
    for program in programs {
        let to = path(Profile::Release, program);
        let parent = to.parent().context("a program is in a directory")?;
        std::fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        // A program that runs can't be written to, but its name can go.
        let _ = std::fs::remove_file(&to);
        std::fs::copy(built.join(program), &to).with_context(|| format!("copy {program} to {}", to.display()))?;
    }
    Ok(())
}

/// What the compiler calls this machine.
fn host() -> anyhow::Result<String> {
    let text = command::output(std::process::Command::new("rustc").arg("-vV"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).context("rustc -vV says no host")
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

/// Builds what only measurements use: the least that a container takes.
pub(crate) fn floor() -> anyhow::Result<()> {
    static_programs(&RUNTIME, &["--features", FLOOR, "--bin", FLOOR], &[FLOOR])
}

/// Where that is.
pub(crate) fn floor_path() -> PathBuf {
    path(Profile::Release, FLOOR)
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
