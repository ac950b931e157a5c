//! The Rust toolchain for the eBPF programs: a compiler with the source of its own `core`.
//!
//! Two recipes, chosen by what the machine has. A rustup nightly with `rust-src` does where it is installed. Debian's
//! packages for its browser, a new compiler and its source of one version, do elsewhere; they stand in `/usr`, behind
//! rustup in `PATH`, and change nothing for other builds. `agent/build.rs` looks for the same two.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::{announce, packages};
use crate::command;

const DEBIAN: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// A compiler for eBPF.
#[derive(Debug)]
pub(super) struct Toolchain {
    /// Its rustc and the arguments before any of its own.
    command: Vec<String>,
    /// Directories where its `libLLVM` may be.
    library_dirs: Vec<PathBuf>,
}

/// Finds one or installs one.
pub(super) fn find_or_install() -> anyhow::Result<Toolchain> {
    if let Some(toolchain) = find() {
        return Ok(toolchain);
    }
    if packages::is_available(DEBIAN[0]) {
        announce(
            &DEBIAN.join(", "),
            "compile the eBPF programs (145 MB, in /usr behind your own Rust)",
        );
        packages::install_by_name(&DEBIAN)?;
    } else if command::find("rustup").is_some() {
        announce("Rust nightly with rust-src", "compiles the eBPF programs");
        let mut rustup = Command::new("rustup");
        command::run(rustup.args([
            "toolchain",
            "install",
            "nightly",
            "--profile=minimal",
            "--component=rust-src",
        ]))?;
    } else {
        bail!(
            "there is neither apt's rustc-web nor rustup here: install rustup, and `cargo xtask setup` does the rest"
        );
    }
    find().context("the toolchain that was installed lacks the source of its core library")
}

fn find() -> Option<Toolchain> {
    debian().or_else(nightly)
}

fn debian() -> Option<Toolchain> {
    let has_source = Path::new("/usr/lib/rustlib/src/rust/library/core/src/lib.rs").is_file();
    let library_dirs = vec![
        PathBuf::from("/usr/lib/x86_64-linux-gnu"),
        PathBuf::from("/usr/lib/aarch64-linux-gnu"),
    ];
    let is_there = has_source && Path::new("/usr/bin/rustc").is_file();
    is_there.then(|| Toolchain {
        command: vec!["/usr/bin/rustc".to_owned()],
        library_dirs,
    })
}

fn nightly() -> Option<Toolchain> {
    let command: Vec<_> = ["rustup", "run", "nightly", "rustc"].map(str::to_owned).into();
    let toolchain = Toolchain {
        command,
        library_dirs: Vec::new(),
    };
    let sysroot = PathBuf::from(toolchain.rustc(&["--print", "sysroot"]).ok()?.trim());
    let has_source = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file();
    has_source.then(|| Toolchain {
        library_dirs: vec![sysroot.join("lib")],
        ..toolchain
    })
}

impl Toolchain {
    /// The major version of the compiler's LLVM.
    pub(super) fn llvm_major(&self) -> anyhow::Result<u32> {
        let text = self.rustc(&["-vV"])?;
        let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "));
        let major = version
            .and_then(|version| version.split('.').next())
            .and_then(|major| major.parse().ok());
        major.with_context(|| format!("no version of LLVM in {text:?}"))
    }

    /// The compiler's own libLLVM, `libLLVM.so.MAJOR…`; not the linker script beside it.
    pub(super) fn llvm_library(&self) -> anyhow::Result<PathBuf> {
        let prefix = format!("libLLVM.so.{}", self.llvm_major()?);
        let entries = self
            .library_dirs
            .iter()
            .flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten());
        let mut found = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        let entry = found
            .next()
            .with_context(|| format!("no {prefix}* in {:?}", self.library_dirs))?;
        Ok(entry.path())
    }

    fn rustc(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let (program, first) = self.command.split_first().context("a toolchain has a command")?;
        command::output(Command::new(program).args(first).args(arguments))
    }
}
