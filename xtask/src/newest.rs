//! The newest of what Debian has, sid's, each in a root of its own in the cache, fetched once: peers to test and to measure
//! against.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::vm::apt::AptDir;
use crate::{command, workspace};

const SUITE: &str = "sid";
/// crun, and what the shell that starts it needs.
const CRUN: [&str; 3] = ["crun", "dash", "coreutils"];
/// Tells tests where [`plugins`] are.
pub(crate) const PLUGINS_VARIABLE: &str = "ORLOP_NEWEST_PLUGINS";
const PLUGINS: &str = "containernetworking-plugins";

/// The root of crun, with sid's libraries.
pub(crate) fn crun() -> anyhow::Result<PathBuf> {
    obtain("newest-crun", "crun with its libraries (about 25 MB)", |apt, root| {
        apt.unpack(&apt.closure(&CRUN)?, root)?;
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), root.join(name)).with_context(|| format!("link {name}"))?;
        }
        command::output(Command::new("/sbin/ldconfig").arg("-r").arg(root)).map(drop)
    })
}

/// The directory of CNI's reference plugins, which run with the libraries of any release since bookworm.
pub(crate) fn plugins() -> anyhow::Result<PathBuf> {
    let root = obtain("newest-plugins", "CNI plugins (about 10 MB)", |apt, root| {
        apt.unpack(&[PLUGINS.to_owned()], root)
    });
    Ok(root?.join("usr/lib/cni"))
}

/// A root, from the cache or from Debian; it appears under its name when it is whole.
fn obtain(
    name: &str,
    what: &str,
    unpack: impl FnOnce(&AptDir, &Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let dir = workspace::cache_dir().join(name);
    let root = dir.join("root");
    if root.exists() {
        return Ok(root);
    }
    eprintln!("  fetching Debian {SUITE}'s {what}, to test and measure against");
    let unfinished = dir.join("unfinished");
    let _ = std::fs::remove_dir_all(&unfinished);
    unpack(&AptDir::open(&dir.join("apt"), SUITE)?, &unfinished)?;
    std::fs::rename(&unfinished, &root).with_context(|| format!("rename {}", unfinished.display()))?;
    Ok(root)
}
