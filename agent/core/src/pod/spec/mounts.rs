//! The file systems of a container: containerd's defaults, and the pod's own `/etc` files.

use std::path::Path;

use oci_spec::runtime::Mount;

use super::SpecFacts;
use crate::pod::DesiredContainer;

/// What a container must not read.
pub(super) const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What a container must not write.
pub(super) const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Every mount, in the order in which they are made.
pub(super) fn mounts(container: &DesiredContainer, facts: &SpecFacts<'_>) -> Vec<Mount> {
    let privileged = container.security.privileged;
    let sys = if privileged { "rw" } else { "ro" };
    let etc = if container.security.read_only_root { "ro" } else { "rw" };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        shm(facts),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", sys],
        ),
        bind("/etc/hosts", facts.hosts, etc),
        bind("/etc/hostname", facts.hostname, etc),
        bind("/etc/resolv.conf", facts.resolv_conf, etc),
    ]
}

fn shm(facts: &SpecFacts<'_>) -> Mount {
    match facts.shm {
        Some(shared) => bind("/dev/shm", shared, "rw"),
        None => mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
    }
}

fn bind(target: &str, source: &Path, access: &str) -> Mount {
    let mut bound = mount(target, "bind", "", &["rbind", "rprivate", access]);
    bound.set_source(Some(source.to_owned()));
    bound
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(target.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}
