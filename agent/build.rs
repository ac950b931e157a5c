//! Compiles `ebpf/programs` for the kernel, so that the agent carries its programs inside its own binary.
//!
//! The object needs three things of one kind: a rustc, the source of that same rustc's `core`, and a bpf-linker whose
//! LLVM is at least as new. `cargo xtask setup` installs all of them; this file only finds them and installs nothing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use aya_build::{Package, Toolchain};

/// Set in the second run of this build script: the one whose environment is ready for the inner build.
const INNER: &str = "ORLOP_EBPF_BUILD";
const SETUP: &str = "run `cargo xtask setup`, which installs the eBPF toolchain";

fn main() -> anyhow::Result<()> {
    match env::var(INNER) {
        Ok(toolchain) => build(&toolchain),
        Err(_) => run_again(),
    }
}

/// Runs this build script once more in the environment that the inner cargo needs: unstable features on a stable compiler
/// for this build alone, a linker in `PATH`, and a profile of its own. Changing our own environment would be unsafe.
fn run_again() -> anyhow::Result<()> {
    let linker = linker_dir()?;
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(env::split_paths(&path).chain([linker]))?;
    let status = Command::new(env::current_exe()?)
        .env(INNER, toolchain()?)
        .env("PATH", path)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TERM_QUIET", "true")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .status()
        .context("run the build script again for the eBPF programs")?;
    if !status.success() {
        bail!("eBPF programs: the build ended with {status}; if the compiler or the linker is at fault, {SETUP}");
    }
    Ok(())
}

fn build(toolchain: &str) -> anyhow::Result<()> {
    let ebpf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ebpf");
    for input in ["common/src", "common/Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", ebpf.join(input).display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=ORLOP_CACHE");
    let programs = ebpf.join("programs");
    let root_dir = programs.to_str().context("the path of the source tree is not UTF-8")?;
    let package = Package {
        name: "ebpf-programs",
        root_dir,
        ..Default::default()
    };
    aya_build::build_ebpf([package], Toolchain::Custom(toolchain))
}

/// The directory of bpf-linker: one in `PATH`, or the one that `cargo xtask setup` keeps in the cache.
fn linker_dir() -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cached_linkers())
        .find(|dir| dir.join("bpf-linker").is_file())
        .with_context(|| format!("bpf-linker is neither in PATH nor in {}; {SETUP}", cache().display()))
}

/// Newest version first.
fn cached_linkers() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(cache().join("tools")).into_iter().flatten().flatten();
    let is_linker = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("bpf-linker-");
    let mut dirs: Vec<_> = entries
        .filter(|entry| is_linker(&entry.file_name()))
        .map(|entry| entry.path())
        .collect();
    dirs.sort();
    dirs.iter().rev().map(|dir| dir.join("bin")).collect()
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/orlop");
    env::var_os("ORLOP_CACHE").map_or_else(home, PathBuf::from)
}

/// A toolchain, as `rustup run` takes it, that has the source of its own `core`.
fn toolchain() -> anyhow::Result<String> {
    let active = env::var("RUSTUP_TOOLCHAIN").ok();
    ["/usr".to_owned(), "nightly".to_owned()]
        .into_iter()
        .chain(active)
        .find(|toolchain| has_own_source(toolchain).unwrap_or(false))
        .with_context(|| format!("no Rust toolchain here has the source of its own core library; {SETUP}"))
}

fn has_own_source(toolchain: &str) -> Option<bool> {
    let sysroot = if toolchain == "/usr" {
        PathBuf::from(toolchain)
    } else {
        rustup_sysroot(toolchain)?
    };
    let source = sysroot.join("lib/rustlib/src/rust");
    if !source.join("library/core/src/lib.rs").is_file() {
        return Some(false);
    }
    // rustup keeps a component with its compiler; a distribution's packages of the two may differ for a while.
    Some(toolchain != "/usr" || distribution_version(&source)? == compiler_version("/usr/bin/rustc")?)
}

fn rustup_sysroot(toolchain: &str) -> Option<PathBuf> {
    let output = Command::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        .output()
        .ok()?;
    let sysroot = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(sysroot.trim()))
}

/// Debian's source package is a link to a directory named by its version, as `/usr/src/rustc-1.96.0`.
fn distribution_version(source: &Path) -> Option<String> {
    let directory = source.canonicalize().ok()?;
    let name = directory.file_name()?.to_str()?;
    name.strip_prefix("rustc-").map(str::to_owned)
}

fn compiler_version(rustc: &str) -> Option<String> {
    let output = Command::new(rustc).arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    version.split_whitespace().nth(1).map(str::to_owned)
}
