//! Packages of the distribution. Debian and its children are served; elsewhere the user is told what to install.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::bail;

use super::{Purpose, announce};
use crate::command;

/// A package, recognised by a program or file that it brings.
struct Package {
    name: &'static str,
    proof: &'static str,
    purpose: Purpose,
    why: &'static str,
}

const fn package(name: &'static str, proof: &'static str, purpose: Purpose, why: &'static str) -> Package {
    Package {
        name,
        proof,
        purpose,
        why,
    }
}

const PACKAGES: [Package; 20] = [
    package("gcc", "cc", Purpose::Build, "links Rust programs"),
    package(
        "libc6-dev",
        "/usr/include/stdlib.h",
        Purpose::Build,
        "links Rust programs",
    ),
    package(
        "busybox-static",
        "busybox",
        Purpose::Build,
        "is the image of the demo and the tests",
    ),
    package("iproute2", "ip", Purpose::Test, "looks at networks in tests"),
    package(
        "runc",
        "runc",
        Purpose::Test,
        "makes the bundles that orlop-oci is tested with",
    ),
    package(
        "containernetworking-plugins",
        "/usr/lib/cni/ptp",
        Purpose::Test,
        "is what orlop-cni is compared with",
    ),
    package(
        "dnsmasq-base",
        "dnsmasq",
        Purpose::Test,
        "answers by the names of pods in a test",
    ),
    package(
        "skopeo",
        "skopeo",
        Purpose::Test,
        "writes images that orlop loads in tests",
    ),
    package(
        "umoci",
        "umoci",
        Purpose::Test,
        "writes images that orlop loads in tests",
    ),
    package("crun", "crun", Purpose::Vm, "is a peer in benchmarks"),
    package(
        "iptables",
        "iptables",
        Purpose::Vm,
        "is a peer in benchmarks, and what another one needs",
    ),
    package("nftables", "nft", Purpose::Vm, "is a peer in benchmarks"),
    package("qemu-system-x86", "qemu-system-x86_64", Purpose::Vm, "runs the test VM"),
    package(
        "debian-archive-keyring",
        KEYRING,
        Purpose::Vm,
        "vouches for the test VM's kernels",
    ),
    package("binutils", "strip", Purpose::Vm, "shrinks programs for the test VM"),
    package("xz-utils", "xz", Purpose::Vm, "unpacks kernel modules"),
    package("zstd", "zstd", Purpose::Vm, "unpacks kernels"),
    package("lz4", "lz4", Purpose::Vm, "unpacks kernels"),
    package(
        "strace",
        "strace",
        Purpose::Vm,
        "stops programs at chosen system calls in tests",
    ),
    package(
        "secilc",
        "secilc",
        Purpose::Vm,
        "compiles the SELinux policy of the test VM",
    ),
];
/// Debian's own keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Lists older than this name packages that mirrors have dropped.
const LISTS_AGE: Duration = Duration::from_secs(24 * 3600);

/// Installs the packages for `purpose` whose proof is not on this machine.
pub(super) fn install(purpose: Purpose) -> anyhow::Result<()> {
    let missing: Vec<_> = PACKAGES
        .iter()
        .filter(|package| package.purpose <= purpose && !is_there(package.proof))
        .collect();
    for package in &missing {
        announce(package.name, package.why);
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    install_by_name(&names)
}

/// Installs packages through apt, with fresh lists when the present ones are old or don't do.
pub(super) fn install_by_name(names: &[&str]) -> anyhow::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    if command::find("apt-get").is_none() {
        bail!(
            "there is no apt-get here: install what Debian calls {} and try again",
            names.join(", ")
        );
    }
    let mut is_fresh = false;
    if !has_fresh_lists() {
        apt_get(&["update"])?;
        is_fresh = true;
    }
    let install = [&["install", "--yes", "--no-install-recommends"], names].concat();
    match apt_get(&install) {
        Err(_) if !is_fresh => apt_get(&["update"]).and_then(|()| apt_get(&install)),
        result => result,
    }
}

/// Whether apt knows a package that can be installed.
pub(super) fn is_available(name: &str) -> bool {
    if command::find("apt-cache").is_none() {
        return false;
    }
    if !has_fresh_lists() && apt_get(&["update"]).is_err() {
        return false;
    }
    let policy = command::output(Command::new("apt-cache").args(["policy", name])).unwrap_or_default();
    policy
        .lines()
        .any(|line| line.trim().starts_with("Candidate:") && !line.contains("(none)"))
}

fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = command::as_root("env");
    command.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-qq",
        "-o",
        "Acquire::Retries=3",
    ]);
    command::run(
        command
            .args(["-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"])
            .args(arguments),
    )
}

fn has_fresh_lists() -> bool {
    let entries = std::fs::read_dir("/var/lib/apt/lists").into_iter().flatten().flatten();
    let packages = entries.filter(|entry| entry.file_name().to_string_lossy().contains("_Packages"));
    // Their own times are those of the mirror; the directory's is that of the last update.
    let age = || {
        std::fs::metadata("/var/lib/apt/lists/partial")
            .ok()?
            .modified()
            .ok()?
            .elapsed()
            .ok()
    };
    packages.count() > 0 && age().is_some_and(|age| age < LISTS_AGE)
}

/// A proof is a path or the name of a program.
fn is_there(proof: &str) -> bool {
    if proof.starts_with('/') {
        Path::new(proof).exists()
    } else {
        command::find(proof).is_some()
    }
}
