//! Makes the bare kernel a machine: file systems, modules, loopback.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use nix::kmod::ModuleInitFlags;
use nix::mount::MsFlags;

/// Mounts what a Debian host has.
pub(crate) fn mount_all() -> anyhow::Result<()> {
    leave_initial_root()?;
    mount("proc", "/proc", "proc")?;
    mount("sysfs", "/sys", "sysfs")?;
    mount("devtmpfs", "/dev", "devtmpfs")?;
    mount("devpts", "/dev/pts", "devpts")?;
    mount("tmpfs", "/dev/shm", "tmpfs")?;
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2")?;
    mount("bpf", "/sys/fs/bpf", "bpf")?;
    mount("securityfs", "/sys/kernel/security", "securityfs")?;
    for dir in ["/run", "/tmp", "/var"] {
        mount("tmpfs", dir, "tmpfs")?;
    }
    for dir in ["/var/lib", "/var/log", "/var/tmp", "/run/netns"] {
        std::fs::create_dir_all(dir).with_context(|| format!("make {dir}"))?;
    }
    let everybody = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions("/var/tmp", everybody).context("open /var/tmp to everybody")?;
    std::os::unix::fs::symlink("/proc/self/fd", "/dev/fd").context("link /dev/fd")
}

/// The initial root is the bottom of the mount tree, where `pivot_root` is refused. A bind mount of it, moved onto the
/// root, has a parent like any other mount.
fn leave_initial_root() -> anyhow::Result<()> {
    std::fs::create_dir_all("/.root").context("make /.root")?;
    let none = None::<&str>;
    nix::mount::mount(Some("/"), "/.root", none, MsFlags::MS_BIND, none).context("bind / to /.root")?;
    nix::unistd::chdir("/.root").context("enter /.root")?;
    nix::mount::mount(Some("."), "/", none, MsFlags::MS_MOVE, none).context("move /.root to /")?;
    nix::unistd::chroot(".").context("change the root")?;
    nix::unistd::chdir("/").context("enter /")?;
    // systemd makes every mount shared, and code that forgets to make its own private must fail here as on a host.
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).context("make / shared")
}

/// Mounts a filesystem of the kernel's own, on a directory that is made if it is missing.
pub(crate) fn mount(source: &str, target: &str, kind: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(target).with_context(|| format!("make {target}"))?;
    nix::mount::mount(Some(source), target, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount {kind} on {target}"))
}

/// Loads `/modules/*.ko` in the order that the file names have.
pub(crate) fn load_modules() -> anyhow::Result<()> {
    let entries = std::fs::read_dir("/modules").context("list /modules")?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().try_for_each(|path| load_module(path))
}

fn load_module(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let parameters = CString::default();
    match nix::kmod::finit_module(&file, &parameters, ModuleInitFlags::empty()) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        // A driver for hardware that this machine does not have.
        Err(nix::errno::Errno::ENODEV) => Ok(()),
        Err(errno) => Err(errno).with_context(|| format!("load {}", path.display())),
    }
}

/// Puts the disk of peers below our own files, ours first: its programs are found in `/usr`, their settings in `/etc`.
fn mount_peers() -> anyhow::Result<()> {
    let none = None::<&str>;
    std::fs::create_dir_all("/peers").context("make /peers")?;
    nix::mount::mount(Some("/dev/vda"), "/peers", Some("ext4"), MsFlags::MS_RDONLY, none)
        .context("mount the disk of peers")?;
    for dir in ["usr", "etc"] {
        let changes = |kind: &str| format!("/run/peers/{dir}/{kind}");
        for kind in ["upper", "work"] {
            std::fs::create_dir_all(changes(kind)).with_context(|| format!("make {}", changes(kind)))?;
        }
        let (upper, work) = (changes("upper"), changes("work"));
        let options = format!("lowerdir=/{dir}:/peers/{dir},upperdir={upper},workdir={work}");
        let target = format!("/{dir}");
        nix::mount::mount(
            Some("overlay"),
            target.as_str(),
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .with_context(|| format!("mount peers on {target}"))?;
    }
    Ok(())
}

/// What needs modules or `/proc`.
pub(crate) fn finish() -> anyhow::Result<()> {
    mount_peers()?;
    nix::unistd::sethostname("orlop-vm").context("set the host name")?;
    let status = Command::new("/bin/busybox")
        .args(["ip", "link", "set", "lo", "up"])
        .status();
    let status = status.context("run /bin/busybox")?;
    anyhow::ensure!(status.success(), "busybox ip link set lo up: {status}");
    Ok(())
}

/// Seconds since the kernel started.
pub(crate) fn uptime_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or_default()
}
