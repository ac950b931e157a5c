//! cargo-deny, at a pinned version: it judges the dependencies' licences, sources and duplicates.

use std::path::PathBuf;

use super::announce;
use crate::{command, workspace};

const VERSION: &str = "0.20.2";

/// The program: the one on the path, or the one in the cache, which is built once.
pub(crate) fn find_or_install() -> anyhow::Result<PathBuf> {
    if let Some(program) = command::find("cargo-deny") {
        return Ok(program);
    }
    let dir = workspace::cache_dir().join(format!("tools/cargo-deny-{VERSION}"));
    let program = dir.join("bin/cargo-deny");
    if !program.is_file() {
        announce(
            &format!("cargo-deny {VERSION} in {}", dir.display()),
            "judges licences and sources of dependencies (builds for some minutes, once)",
        );
        let mut cargo = workspace::cargo();
        cargo.args(["install", "cargo-deny", "--version", VERSION, "--locked"]);
        cargo.args(["--no-default-features", "--root"]).arg(&dir);
        command::run(cargo.env_remove("CARGO_TARGET_DIR"))?;
    }
    Ok(program)
}
