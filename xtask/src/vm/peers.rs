//! The disk of peers: Debian's own clients and tools that tests drive, with the libraries they need. It is made once and
//! kept in the cache; every VM sees it read-only, below its own files.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::apt::AptDir;
use crate::{command, workspace};

/// Their release; kernels of all releases run them.
const SUITE: &str = "bookworm";
const PACKAGES: [&str; 18] = [
    "apparmor",
    "podman",
    "conmon",
    "containerd",
    "docker.io",
    "runc",
    "crun",
    "criu",
    "skopeo",
    "umoci",
    "docker-registry",
    "containernetworking-plugins",
    "iptables",
    "slirp4netns",
    "systemd",
    "dbus-daemon",
    "uidmap",
    "ca-certificates",
];
/// What `update-alternatives` would have made, had the packages been installed.
const ALTERNATIVES: [(&str, &str); 4] = [
    ("iptables", "/usr/sbin/iptables-nft"),
    ("ip6tables", "/usr/sbin/ip6tables-nft"),
    ("iptables-save", "/usr/sbin/iptables-nft-save"),
    ("iptables-restore", "/usr/sbin/iptables-nft-restore"),
];
/// A sparse file: the disk takes what its files take.
const SIZE: &str = "2G";

/// The disk's image, an ext4 file system, from the cache or from Debian.
pub(crate) fn obtain() -> anyhow::Result<PathBuf> {
    let dir = workspace::cache_dir().join("peers").join(list_id());
    let disk = dir.join("disk.ext4");
    if !disk.exists() {
        eprintln!(
            "  fetching podman, containerd, Docker and other peers of Debian {SUITE} (about 150 MB), for the test VM"
        );
        make(&dir, &disk).context("make the disk of peers for the test VM")?;
    }
    Ok(disk)
}

/// A short id of the list of packages.
fn list_id() -> String {
    let mut hasher = DefaultHasher::new();
    (SUITE, PACKAGES, ALTERNATIVES).hash(&mut hasher);
    format!("{:08x}", hasher.finish() & 0xffff_ffff)
}

/// The disk appears under its name when it is whole.
fn make(dir: &Path, disk: &Path) -> anyhow::Result<()> {
    let _ = std::fs::remove_dir_all(dir);
    let root = dir.join("root");
    let apt = AptDir::open(&dir.join("apt"), SUITE)?;
    let packages = apt.closure(&PACKAGES)?;
    apt.unpack(&packages, &root)?;
    merge_usr(&root)?;
    for (name, target) in ALTERNATIVES {
        let link = root.join("etc/alternatives").join(name);
        std::fs::create_dir_all(root.join("etc/alternatives")).context("make etc/alternatives")?;
        symlink(target, &link).with_context(|| format!("make the link {}", link.display()))?;
    }
    for unneeded in ["usr/share/doc", "usr/share/man", "usr/share/locale"] {
        let _ = std::fs::remove_dir_all(root.join(unneeded));
    }
    let unfinished = dir.join("unfinished");
    File::create(&unfinished).with_context(|| format!("create {}", unfinished.display()))?;
    let mut format = Command::new("/sbin/mke2fs");
    format.args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"]);
    command::output(format.arg(&root).arg(&unfinished).arg(SIZE))?;
    for leftover in [dir.join("apt"), root] {
        std::fs::remove_dir_all(&leftover).with_context(|| format!("remove {}", leftover.display()))?;
    }
    std::fs::rename(&unfinished, disk).with_context(|| format!("rename {}", unfinished.display()))
}

/// Packages of this release still hold files in `/bin`, `/sbin` and `/lib`; a machine has them in `/usr`.
fn merge_usr(root: &Path) -> anyhow::Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let (from, to) = (root.join(name), root.join("usr").join(name));
        std::fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
        let mut copy = Command::new("cp");
        copy.args(["--archive", "--no-clobber"]).arg(from.join(".")).arg(&to);
        if from.is_dir() {
            command::output(&mut copy)?;
            std::fs::remove_dir_all(&from).with_context(|| format!("remove {}", from.display()))?;
        }
    }
    Ok(())
}
