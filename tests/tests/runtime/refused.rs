//! What is not honoured is refused with its field, and leaves nothing behind.

use serde_json::{Value, json};
use tests::require_root;

use crate::bundle::with_bundle;

#[test]
fn a_field_that_is_not_honoured_is_refused_by_its_name() {
    require_root!();
    let namespace = |kind: &str| json!({ "type": kind });
    let cases: Vec<(&str, Value, &str)> = vec![
        ("/ociVersion", json!("2.0.0"), "ociVersion"),
        (
            "/hooks",
            json!({ "poststop": [{ "path": "bin/true" }] }),
            "hooks.poststop[0].path",
        ),
        (
            "/hooks",
            json!({ "prestart": [{ "path": "/bin/true", "timeout": 0 }] }),
            "hooks.prestart[0].timeout",
        ),
        ("/process/user/username", json!("me"), "process.user.username"),
        (
            "/process/scheduler",
            json!({ "policy": "SCHED_OTHER", "priority": 3 }),
            "process.scheduler.priority",
        ),
        (
            "/process/selinuxLabel",
            json!("x"),
            "process.selinuxLabel: this host has no SELinux",
        ),
        (
            "/process/ioPriority",
            json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 }),
            "process.ioPriority.priority",
        ),
        ("/process/oomScoreAdj", json!(2000), "process.oomScoreAdj"),
        (
            "/linux/intelRdt",
            json!({ "closID": "info" }),
            "linux.intelRdt.closID: \"info\" is no name of a class",
        ),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/process/args", json!([]), "process.args"),
        ("/process/env", json!(["NOVALUE"]), "process.env[0]"),
        (
            "/process/rlimits",
            json!([{ "type": "RLIMIT_CPU", "soft": 2, "hard": 1 }]),
            "process.rlimits[0]",
        ),
        ("/linux/namespaces/-", namespace("user"), "linux.uidMappings"),
        (
            "/linux/uidMappings",
            json!([{ "containerID": 0, "hostID": 1, "size": 1 }]),
            "linux.uidMappings: there is no user namespace",
        ),
        (
            "/linux/timeOffsets",
            json!({ "boottime": { "secs": 1 } }),
            "linux.timeOffsets: needs a new time namespace",
        ),
        ("/linux/namespaces/-", namespace("pid"), "linux.namespaces[6]"),
        (
            "/linux/namespaces",
            json!([{ "type": "pid" }, { "type": "user" }]),
            "linux.namespaces",
        ),
        (
            "/linux/namespaces/1/path",
            json!("relative"),
            "linux.namespaces[1].path",
        ),
        (
            "/linux/sysctl",
            json!({ "kernel.panic": "1" }),
            "linux.sysctl.kernel.panic",
        ),
        ("/linux/sysctl", json!({ "net.../x": "1" }), "linux.sysctl.net.../x"),
        ("/linux/rootfsPropagation", json!("sideways"), "linux.rootfsPropagation"),
        ("/linux/maskedPaths", json!(["."]), "linux.maskedPaths[0]"),
        (
            "/linux/personality",
            json!({ "domain": "LINUX32", "flags": ["X"] }),
            "linux.personality.flags",
        ),
        (
            "/linux/mountLabel",
            json!("x"),
            "linux.mountLabel: this host has no SELinux",
        ),
        (
            "/linux/resources",
            json!({ "blockIO": { "leafWeight": 10 } }),
            "linux.resources.blockIO.leafWeight",
        ),
        (
            "/linux/devices",
            json!([{ "path": "/dev/x", "type": "c", "major": -1, "minor": 0 }]),
            "linux.devices[0].major",
        ),
        (
            "/mounts/-",
            json!({ "destination": "/", "type": "tmpfs" }),
            "mounts[6].destination",
        ),
        (
            "/mounts/-",
            json!({ "destination": "/x", "type": "bind" }),
            "mounts[6].source",
        ),
        (
            "/mounts/-",
            json!({ "destination": "/x", "source": "/", "options": ["bind", "fast"] }),
            "mounts[6].options",
        ),
        (
            "/mounts/-",
            json!({ "destination": "/x", "type": "sysfs", "options": ["tmpcopyup"] }),
            "mounts[6].options",
        ),
        (
            "/mounts/-",
            json!({ "destination": "/x", "type": "tmpfs", "options": ["idmap"] }),
            "mounts[6].uidMappings",
        ),
        (
            "/mounts/-",
            json!({ "destination": "/x", "source": "/", "options": ["bind", "idmap"] }),
            "mounts[6].uidMappings: an id-mapped mount needs mappings",
        ),
        (
            "/mounts/-",
            json!({ "destination": "/proc", "type": "tmpfs" }),
            "mounts[6].type",
        ),
        (
            "/mounts/-",
            json!({ "destination": "/x", "type": "nofs" }),
            "mount nofs on /x, for mounts[6]",
        ),
        (
            "/mounts/-",
            json!({ "destination": "/x", "source": "/not/there", "options": ["bind"] }),
            "bind /not/there on /x",
        ),
    ];
    for (pointer, value, field) in cases {
        with_bundle("refused", |bundle| {
            bundle.set(pointer, value.clone());
            let finished = if pointer == "/process/args" {
                bundle.run_as_it_is()
            } else {
                bundle.run("true")
            };
            assert_eq!(finished.code, Some(1), "{pointer} {value}: {finished:?}");
            assert!(finished.err.starts_with("orlop-oci: "), "{finished:?}");
            assert!(finished.err.contains(field), "{pointer} {value}: {finished:?}");
        });
    }
}

/// On a host that has classes it runs in one of its own, which goes with it.
#[test]
fn a_class_of_caches_takes_a_host_that_has_them() {
    require_root!();
    with_bundle("class", |bundle| {
        bundle.set("/linux/intelRdt", json!({}));
        let finished = bundle.run("true");
        if std::path::Path::new("/sys/fs/resctrl/info").exists() {
            assert_eq!(finished.code, Some(0), "{finished:?}");
        } else {
            assert_eq!(finished.code, Some(1), "{finished:?}");
            let words = "linux.intelRdt takes the resctrl filesystem, and ";
            assert!(finished.err.contains(words), "{finished:?}");
        }
    });
}

#[test]
fn the_class_of_a_container_without_one_is_not_changed() {
    require_root!();
    with_bundle("class-update", |bundle| {
        bundle.create("exec sleep 1000");
        for (flag, words) in [
            (
                "--l3-cache-schema=L3:0=f",
                "linux.intelRdt: is not in the container's configuration",
            ),
            (
                "--mem-bw-schema=20",
                "linux.intelRdt.memBwSchema: \"20\" does not begin with MB:",
            ),
        ] {
            let error = bundle.fails("update", &[flag, "c1"]);
            assert!(error.contains(words), "{error}");
        }
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn a_hostname_without_a_uts_namespace_is_refused() {
    require_root!();
    with_bundle("no-uts", |bundle| {
        bundle.set("/linux/namespaces", json!([{ "type": "mount" }, { "type": "pid" }]));
        let finished = bundle.run("true");
        assert!(finished.err.contains("hostname: needs a uts namespace"), "{finished:?}");
    });
}

#[test]
fn a_missing_or_malformed_bundle_is_refused_by_its_file() {
    require_root!();
    with_bundle("no-bundle", |bundle| {
        let missing = crate::bundle::Finished::of(bundle.oci("run").args(["-b", "/not/there", "c1"]));
        assert!(
            missing.code == Some(1) && missing.err.contains("/not/there"),
            "{missing:?}"
        );
        let mut command = bundle.command("c1");
        bundle.file("config.json", "{ not json");
        let malformed = crate::bundle::Finished::of(&mut command);
        assert!(
            malformed.code == Some(1) && malformed.err.contains("config.json"),
            "{malformed:?}"
        );
    });
}
