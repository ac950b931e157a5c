//! Packs the files of a test VM: busybox, tools with their libraries, programs, fixtures and the job.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::cpio::Archive;
use crate::{command, workspace};

/// Tools of this machine that tests call, taken along when they are installed. The shell among them: that of busybox
/// would run busybox's own `find` and `unshare` whatever `PATH` says.
const TOOLS: &[&str] = &[
    "bash", "bpftool", "crun", "dnsmasq", "find", "ip", "mount", "nft", "nsenter", "runc", "secilc", "setpriv", "sh",
    "ss", "strace", "tc", "unshare", "umount",
];
/// Programs outside of `PATH`, taken along likewise.
const OTHER_TOOLS: [&str; 2] = ["/usr/lib/cni/ptp", "/usr/lib/cni/host-local"];
/// Where the product's programs are in the VM; `ORLOP_BIN_DIR` says so to tests.
pub(crate) const BIN_DIR: &str = "/opt/orlop/bin";
/// Where the test executables are in the VM.
pub(crate) const TEST_DIR: &str = "/opt/orlop/tests";

/// What one VM carries besides the base.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    /// Becomes `/init`.
    pub(crate) init: &'a Path,
    /// The product's programs.
    pub(crate) binaries: &'a [PathBuf],
    /// The test executables.
    pub(crate) tests: &'a [PathBuf],
}

/// Writes the archive. Programs are stripped of their debug information on the way, which is most of their size.
pub(crate) fn pack(contents: &Contents<'_>, target: &Path) -> anyhow::Result<()> {
    let file = File::create(target).with_context(|| format!("create {}", target.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    add_base(&mut archive)?;
    let others = OTHER_TOOLS.iter().map(PathBuf::from).filter(|path| path.is_file());
    for tool in TOOLS.iter().filter_map(|tool| command::find(tool)).chain(others) {
        add_program(&mut archive, &tool, &tool)?;
    }
    if archive.has(Path::new("/usr/bin/sh")) {
        archive.link("/bin/sh", "/usr/bin/sh")?;
    }
    add_program(&mut archive, Path::new("/init"), &stripped(contents.init)?)?;
    for (dir, programs) in [(BIN_DIR, contents.binaries), (TEST_DIR, contents.tests)] {
        for program in programs {
            let name = program.file_name().context("a program has a name")?;
            add_program(&mut archive, &Path::new(dir).join(name), &stripped(program)?)?;
        }
    }
    // Tests find fixtures by the path that the crate had when it was compiled.
    add_tree(&mut archive, &workspace::root().join("tests/fixtures"))?;
    // Last: a link of busybox gives way to the real tool.
    add_applets(&mut archive)?;
    archive.finish()
}

/// Writes the job as an archive of its own, so that the big one can be used again.
pub(crate) fn pack_job(job: &serde_json::Value, target: &Path) -> anyhow::Result<()> {
    let file = File::create(target).with_context(|| format!("create {}", target.display()))?;
    let mut archive = Archive::new(file);
    archive.file("/job.json", job.to_string().as_bytes())?;
    archive.finish()
}

fn add_base<W: Write>(archive: &mut Archive<W>) -> anyhow::Result<()> {
    for dir in [
        "/proc",
        "/sys",
        "/dev",
        "/tmp",
        "/run",
        "/var",
        "/root",
        "/etc/ssl/certs",
    ] {
        archive.directory(dir)?;
    }
    archive.file(
        "/etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n\
          nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    )?;
    archive.file("/etc/group", b"root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n")?;
    for file in ["/etc/subuid", "/etc/subgid"] {
        archive.file(file, b"user:100000:65536\n")?;
    }
    archive.file("/etc/hosts", b"127.0.0.1 localhost orlop-vm\n::1 localhost\n")?;
    archive.file("/etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")?;
    archive.file("/etc/resolv.conf", b"")?;
    archive.link("/etc/mtab", "/proc/self/mounts")
}

fn add_applets<W: Write>(archive: &mut Archive<W>) -> anyhow::Result<()> {
    let busybox = command::find("busybox").context("busybox is not installed: run `cargo xtask setup`")?;
    archive.copy("/bin/busybox", &busybox)?;
    archive.link("/usr/bin/busybox", "/bin/busybox")?;
    let applets = command::output(Command::new(&busybox).arg("--list"))?;
    for applet in applets.lines() {
        let dirs = ["/bin", "/sbin", "/usr/bin", "/usr/sbin"];
        if !dirs.iter().any(|dir| archive.has(&Path::new(dir).join(applet))) {
            archive.link(Path::new("/bin").join(applet), "/bin/busybox")?;
        }
    }
    Ok(())
}

/// Adds a program at `path` and the shared libraries that it loads at theirs.
fn add_program<W: Write>(archive: &mut Archive<W>, path: &Path, source: &Path) -> anyhow::Result<()> {
    archive.copy(path, source)?;
    for library in libraries(source)? {
        if !archive.has(&library) {
            archive.copy(&library, &library)?;
        }
    }
    Ok(())
}

/// Absolute paths in the output of `ldd`; a static program has none and `ldd` fails on it.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listing = command::raw_output(Command::new("ldd").arg(program))?;
    let text = String::from_utf8_lossy(&listing.stdout).into_owned();
    let words = text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}

fn add_tree<W: Write>(archive: &mut Archive<W>, dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            add_tree(archive, &path)?;
        } else {
            archive.copy(&path, &path)?;
        }
    }
    Ok(())
}

/// A copy without debug information in the build directory, made again when the program is newer.
fn stripped(program: &Path) -> anyhow::Result<PathBuf> {
    let dir = workspace::target_dir().join("xtask/stripped");
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let target = dir.join(program.file_name().context("a program has a name")?);
    let modified = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified());
    let is_fresh = modified(&target).is_ok_and(|copy| modified(program).is_ok_and(|original| copy >= original));
    if !is_fresh {
        command::output(Command::new("strip").arg("-o").arg(&target).arg(program))?;
    }
    Ok(target)
}
