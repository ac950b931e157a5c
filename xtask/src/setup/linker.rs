//! bpf-linker, at a pinned version, linked against the very LLVM of the compiler that it serves.

use std::path::Path;

use anyhow::Context;

use super::announce;
use super::toolchain::Toolchain;
use crate::{command, workspace};

const VERSION: &str = "0.13.0";

/// Leaves a bpf-linker where `agent/build.rs` finds it, unless there is one already.
pub(super) fn find_or_install(toolchain: &Toolchain) -> anyhow::Result<()> {
    if command::find("bpf-linker").is_some() {
        return Ok(());
    }
    let major = toolchain.llvm_major()?;
    let dir = workspace::cache_dir().join(format!("tools/bpf-linker-{VERSION}-llvm{major}"));
    if dir.join("bin/bpf-linker").is_file() {
        return Ok(());
    }
    announce(
        &format!("bpf-linker {VERSION} in {}", dir.display()),
        "links the eBPF programs (builds for about a minute)",
    );
    link_llvm(toolchain, &dir.join("lib"))?;
    let mut cargo = workspace::cargo();
    cargo.args([
        "install",
        "bpf-linker",
        "--version",
        VERSION,
        "--locked",
        "--no-default-features",
    ]);
    cargo.arg(format!("--features=llvm-{major}")).arg("--root").arg(&dir);
    // Its build looks for LLVM below this prefix, and the program goes on looking there when it runs.
    command::run(cargo.env("LLVM_PREFIX", &dir).env_remove("CARGO_TARGET_DIR"))
}

/// `libLLVM.so` and the name that it has for the loader, in a directory of their own.
fn link_llvm(toolchain: &Toolchain, dir: &Path) -> anyhow::Result<()> {
    let library = toolchain.llvm_library()?;
    let name = library.file_name().context("a library has a name")?;
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    for (link, target) in [
        (dir.join(name), library.as_path()),
        (dir.join("libLLVM.so"), Path::new(name)),
    ] {
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(target, &link).with_context(|| format!("link {}", link.display()))?;
    }
    Ok(())
}
