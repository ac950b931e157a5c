//! The newest crun that Debian has: sid's, in a root of its own with sid's libraries, fetched once.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::Context;

use crate::vm::apt::AptDir;
use crate::{command, workspace};

const SUITE: &str = "sid";
/// It, and what the shell that starts it needs.
const PACKAGES: [&str; 3] = ["crun", "dash", "coreutils"];

/// The root, from the cache or from Debian.
pub(super) fn obtain() -> anyhow::Result<PathBuf> {
    let dir = workspace::cache_dir().join("newest-crun");
    let root = dir.join("root");
    if root.exists() {
        return Ok(root);
    }
    eprintln!("  fetching crun of Debian {SUITE} with its libraries (about 25 MB), to measure against");
    let unfinished = dir.join("unfinished");
    let _ = std::fs::remove_dir_all(&unfinished);
    let apt = AptDir::open(&dir.join("apt"), SUITE)?;
    let packages = apt.closure(&PACKAGES)?;
    apt.unpack(&packages, &unfinished)?;
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), unfinished.join(name)).with_context(|| format!("link {name}"))?;
    }
    command::output(std::process::Command::new("/sbin/ldconfig").arg("-r").arg(&unfinished))?;
    std::fs::rename(&unfinished, &root).with_context(|| format!("rename {}", unfinished.display()))?;
    Ok(root)
}
