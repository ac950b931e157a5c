//! `spec`: a configuration to start from, the same as runc's.

use serde_json::{Value, json};

use crate::SPEC_VERSION;

/// The configuration of a container that runs `sh`; for who is not root, with a user namespace in which this user
/// (`uid`, `gid`) is root.
pub fn example(rootless: Option<(u32, u32)>) -> Value {
    let mut spec = for_root();
    if let Some((uid, gid)) = rootless {
        make_rootless(&mut spec, uid, gid);
    }
    spec
}

fn for_root() -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "orlop",
        "mounts": mounts(),
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces(&["pid", "network", "ipc", "uts", "mount", "cgroup"]),
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn namespaces(kinds: &[&str]) -> Value {
    kinds.iter().map(|kind| json!({ "type": kind })).collect()
}

fn mounts() -> Vec<Value> {
    let mount = |kind: &str, destination: &str, options: &[&str]| {
        let source = if destination == "/dev/shm" { "shm" } else { kind };
        json!({ "destination": destination, "type": kind, "source": source, "options": options })
    };
    vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
        mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount(
            "tmpfs",
            "/dev/shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "cgroup",
            "/sys/fs/cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ]
}

/// As runc does it: a user namespace and no network namespace, sysfs bound from the host, no group that isn't mapped,
/// no resources.
fn make_rootless(spec: &mut Value, uid: u32, gid: u32) {
    spec["linux"]["namespaces"] = namespaces(&["pid", "ipc", "uts", "mount", "cgroup", "user"]);
    for (field, id) in [("uidMappings", uid), ("gidMappings", gid)] {
        spec["linux"][field] = json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    }
    if let Some(linux) = spec["linux"].as_object_mut() {
        linux.remove("resources");
    }
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        if mount["destination"] == "/sys" {
            mount["type"] = "none".into();
            mount["source"] = "/sys".into();
            mount["options"] = json!(["rbind", "nosuid", "noexec", "nodev", "ro"]);
        } else if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Manner;
    use crate::container::explain::explain_for;
    use crate::privileges::Privileges;

    #[test]
    fn what_it_says_is_honoured() {
        for rootless in [None, Some((1000, 1000))] {
            let spec = serde_json::from_value(example(rootless)).unwrap();
            let plan = explain_for(
                &spec,
                "/b".as_ref(),
                None,
                Manner::default(),
                Privileges::all(),
                u64::MAX,
            )
            .unwrap();
            assert_eq!(plan.unenforced, [""; 0]);
        }
    }
}
