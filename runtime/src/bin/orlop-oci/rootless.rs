//! Whether this process may do what root may, and where it keeps its state when it may not.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// How many ids the user namespace of the machine has: all of them.
const ALL_IDS: &str = "4294967295";

/// Whether this process is no root, or root of a user namespace only.
pub(crate) fn is_rootless() -> bool {
    !nix::unistd::geteuid().is_root() || is_in_user_namespace()
}

fn is_in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let words: Vec<_> = map.split_whitespace().collect();
    !map.is_empty() && words != ["0", "0", ALL_IDS]
}

/// Where the state of containers is kept unless `--root` says otherwise.
pub(crate) fn state_directory(is_rootless: bool) -> Result<PathBuf> {
    if !is_rootless {
        return Ok("/run/orlop-oci".into());
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    let runtime = runtime.context("who is not root needs --root, or XDG_RUNTIME_DIR in the environment")?;
    Ok(PathBuf::from(runtime).join("orlop-oci"))
}
