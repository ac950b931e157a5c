//! Tables of fields and the steps that they become; laws on their order.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::sys::mount::Attributes;
use crate::tree::Flags;

mod namespaces;
mod random;

/// A small container: four namespaces, /proc and /dev.
fn base() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": "rootfs" },
        "process": { "user": { "uid": 0, "gid": 0 }, "args": ["sh"], "env": ["PATH=/bin"], "cwd": "/" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"] },
        ],
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }, { "type": "uts" }, { "type": "network" }] },
    })
}

/// The plan of [`base`] with one thing added at a JSON pointer.
fn plan_with(pointer: &str, value: Value) -> Result<InitPlan, FieldError> {
    let mut spec = base();
    if let Some((parent, name)) = pointer.rsplit_once('/') {
        let parent = spec.pointer_mut(parent).unwrap();
        match parent.as_array_mut() {
            Some(list) => list.push(value),
            None => parent[name] = value,
        }
    }
    plan_of(spec, Terminal::None)
}

fn plan_of(spec: Value, terminal: Terminal) -> Result<InitPlan, FieldError> {
    plan_for(spec, terminal, Privileges::all())
}

fn process_facts(terminal: Terminal, privileges: Privileges) -> ProcessFacts {
    ProcessFacts {
        terminal,
        available: u64::MAX,
        manner: Manner::default(),
        privileges,
        modules: SecurityModules {
            apparmor: true,
            selinux: true,
        },
        groups: Groups::Set,
    }
}

fn plan_for(spec: Value, terminal: Terminal, privileges: Privileges) -> Result<InitPlan, FieldError> {
    let facts = Facts {
        bundle: Path::new("/bundle"),
        rootfs: Rootfs::Directory("/bundle/rootfs".into()),
        cgroup: Some(Path::new("/sys/fs/cgroup/c1")),
        process: process_facts(terminal, privileges),
    };
    container(&serde_json::from_value(spec).unwrap(), facts)
}

/// What a plan does, in words.
fn described(plan: &InitPlan) -> Vec<String> {
    plan.steps.iter().map(|planned| planned.step.describe()).collect()
}

fn position(plan: &InitPlan, words: &str) -> usize {
    let steps = described(plan);
    steps
        .iter()
        .position(|step| step == words)
        .unwrap_or_else(|| panic!("no {words:?} in {steps:#?}"))
}

#[test]
fn each_field_becomes_its_step() {
    let cases = [
        ("/hostname", json!("box"), "hostname", "set the hostname box"),
        (
            "/domainname",
            json!("example.net"),
            "domainname",
            "set the domain name example.net",
        ),
        ("/root/readonly", json!(true), "root.readonly", "change the mount at /"),
        (
            "/mounts/-",
            json!({ "destination": "/s", "type": "sysfs" }),
            "mounts[2]",
            "mount sysfs on /s",
        ),
        (
            "/mounts/-",
            json!({ "destination": "/d", "source": "data", "options": ["bind"] }),
            "mounts[2]",
            "bind /bundle/data on /d",
        ),
        (
            "/mounts/-",
            json!({ "destination": "a/../b", "source": "/x", "type": "bind" }),
            "mounts[2]",
            "bind /x on /b",
        ),
        (
            "/mounts/-",
            json!({ "destination": "/c", "type": "cgroup" }),
            "mounts[2]",
            "bind /sys/fs/cgroup/c1 on /c",
        ),
        (
            "/mounts/-",
            json!({ "destination": "/t", "type": "tmpfs", "options": ["ro"] }),
            "mounts[2]",
            "change the mount at /t",
        ),
        (
            "/linux/namespaces/-",
            json!({ "type": "cgroup" }),
            "linux.namespaces",
            "make a cgroup namespace",
        ),
        (
            "/linux/namespaces/-",
            json!({ "type": "ipc", "path": "/n" }),
            "linux.namespaces",
            "join the namespace /n",
        ),
        (
            "/linux/maskedPaths",
            json!(["/proc/keys"]),
            "linux.maskedPaths[0]",
            "mask /proc/keys",
        ),
        (
            "/linux/readonlyPaths",
            json!(["/proc/sys"]),
            "linux.readonlyPaths[0]",
            "make /proc/sys read-only",
        ),
        (
            "/linux/sysctl",
            json!({ "net.core.somaxconn": "9" }),
            "linux.sysctl.net.core.somaxconn",
            "set sysctl net.core.somaxconn to 9",
        ),
        (
            "/linux/rootfsPropagation",
            json!("shared"),
            "linux.rootfsPropagation",
            "change the mount at /",
        ),
        (
            "/linux/devices",
            json!([{ "path": "/dev/x", "type": "c", "major": 1, "minor": 2 }]),
            "linux.devices",
            "make the device /dev/x",
        ),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW" }),
            "linux.seccomp",
            "install the seccomp filter",
        ),
        (
            "/process/cwd",
            json!("/work"),
            "process.cwd",
            "make the directory /work",
        ),
        (
            "/process/cwd",
            json!("/work/.."),
            "process.cwd",
            "change to the directory /",
        ),
        (
            "/process/noNewPrivileges",
            json!(true),
            "process.noNewPrivileges",
            "set no_new_privs",
        ),
        (
            "/process/user",
            json!({ "uid": 5, "gid": 6 }),
            "process.user",
            "become user 5:6",
        ),
        (
            "/process/user",
            json!({ "uid": 5, "gid": 6, "umask": 7 }),
            "process.user.umask",
            "set the umask 0007",
        ),
        (
            "/process/rlimits",
            json!([{ "type": "RLIMIT_CORE", "soft": 1, "hard": 2 }]),
            "process.rlimits[0]",
            "set RLIMIT_CORE to 1:2",
        ),
        ("/process/args", json!(["ls", "-l"]), "process.args", "exec \"ls\""),
        (
            "/linux/namespaces/-",
            json!({ "type": "time" }),
            "linux.namespaces",
            "make a time namespace",
        ),
        (
            "/linux/personality",
            json!({ "domain": "LINUX32" }),
            "linux.personality",
            "set the personality 0x8",
        ),
        (
            "/linux/memoryPolicy",
            json!({ "mode": "MPOL_INTERLEAVE", "nodes": "0" }),
            "linux.memoryPolicy",
            "set the memory policy 0x3",
        ),
        (
            "/process/scheduler",
            json!({ "policy": "SCHED_IDLE" }),
            "process.scheduler",
            "set the scheduling policy 5",
        ),
        (
            "/process/ioPriority",
            json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 4 }),
            "process.ioPriority",
            "set the I/O priority 0x6004",
        ),
        (
            "/process/apparmorProfile",
            json!("docker-default"),
            "process.apparmorProfile",
            "set the label \"exec docker-default\"",
        ),
        (
            "/process/selinuxLabel",
            json!("system_u:system_r:container_t:s0"),
            "process.selinuxLabel",
            "set the label \"system_u:system_r:container_t:s0\"",
        ),
        (
            "/mounts/-",
            json!({ "destination": "/r", "type": "tmpfs", "options": ["remount", "size=1m"] }),
            "mounts[2]",
            "remount the filesystem at /r",
        ),
    ];
    for (pointer, value, field, words) in cases {
        let plan = plan_with(pointer, value).unwrap();
        let found = plan
            .steps
            .iter()
            .any(|planned| planned.field == field && planned.step.describe() == words);
        assert!(found, "{field}: {words} is not in {:#?}", described(&plan));
    }
}

#[test]
fn without_the_field_there_is_no_step() {
    let steps = described(&plan_with("", json!(null)).unwrap()).join("\n");
    for words in [
        "hostname",
        "read-only",
        "mask /",
        "sysctl",
        "RLIMIT",
        "no_new_privs",
        "seccomp",
        "cgroup",
        "terminal",
        "the host's /dev/null",
    ] {
        assert!(!steps.contains(words), "{words} in {steps}");
    }
}

#[test]
fn namespaces_are_cloned_joined_or_left() {
    let plan = plan_with("/linux/namespaces/-", json!({ "type": "cgroup" })).unwrap();
    assert_eq!(
        plan.namespaces,
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWNET
    );
    let mut spec = base();
    spec["linux"]["namespaces"] =
        json!([{ "type": "mount" }, { "type": "pid", "path": "/pid" }, { "type": "uts", "path": "" }]);
    let plan = plan_of(spec, Terminal::None).unwrap();
    assert_eq!(plan.namespaces, libc::CLONE_NEWNS | libc::CLONE_NEWUTS);
    assert_eq!(plan.pid_namespace.as_deref(), Some(Path::new("/pid")));
    assert!(
        !described(&plan).join("\n").contains("join the namespace"),
        "the parent joins a pid namespace"
    );
}

#[test]
fn the_hosts_root_is_left_before_any_path_inside_is_touched() {
    let plan = plan_with("/linux/maskedPaths", json!(["/proc/keys"])).unwrap();
    let pivot = position(&plan, "pivot to the root filesystem");
    for words in [
        "mount proc on /proc",
        "mount tmpfs on /dev",
        "make the device /dev/null",
        "mask /proc/keys",
    ] {
        assert!(position(&plan, words) > pivot, "{words}");
    }
    assert!(position(&plan, "open the host's /dev/null") < pivot);
}

#[test]
fn devices_come_into_a_fresh_dev_and_before_what_is_mounted_below_it() {
    let plan = plan_with("/mounts/-", json!({ "destination": "/dev/pts", "type": "devpts" })).unwrap();
    assert!(position(&plan, "mount tmpfs on /dev") < position(&plan, "make the device /dev/null"));
    assert!(position(&plan, "link /dev/fd to /proc/self/fd") < position(&plan, "mount devpts on /dev/pts"));

    let mut spec = base();
    spec["mounts"] = json!([]);
    let plan = plan_of(spec, Terminal::None).unwrap();
    assert!(position(&plan, "mount tmpfs on /dev") < position(&plan, "make the device /dev/null"));

    let mut spec = base();
    spec["mounts"] = json!([{ "destination": "/dev", "type": "bind", "source": "/dev" }]);
    let plan = plan_of(spec, Terminal::None).unwrap();
    assert!(
        !described(&plan).join("\n").contains("make the device"),
        "what is bound there is the spec's own affair"
    );
}

#[test]
fn masks_come_after_what_is_made_read_only() {
    let mut spec = base();
    spec["linux"]["maskedPaths"] = json!(["/proc/sys/secret"]);
    spec["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    let plan = plan_of(spec, Terminal::None).unwrap();
    assert!(position(&plan, "make /proc/sys read-only") < position(&plan, "mask /proc/sys/secret"));
}

#[test]
fn privileges_go_in_an_order_that_lets_each_step_work() {
    for (no_new_privileges, order) in [
        (
            true,
            [
                "change to the directory /",
                "limit the capability bounding set",
                "become user 0:0",
                "set capabilities",
                "set no_new_privs",
                "close inherited descriptors",
                "wait for the start",
                "install the seccomp filter",
                "exec \"sh\"",
            ]
            .as_slice(),
        ),
        (
            false,
            [
                "change to the directory /",
                "close inherited descriptors",
                "install the seccomp filter",
                "limit the capability bounding set",
                "become user 0:0",
                "set capabilities",
                "wait for the start",
                "exec \"sh\"",
            ]
            .as_slice(),
        ),
    ] {
        let mut spec = base();
        spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
        spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        let plan = plan_of(spec, Terminal::None).unwrap();
        let positions: Vec<_> = order.iter().map(|words| position(&plan, words)).collect();
        assert!(positions.is_sorted(), "{order:?} at {positions:?}");
        assert_eq!(positions.last(), Some(&(plan.steps.len() - 1)), "the exec is last");
    }
}

#[test]
fn a_terminal_has_to_be_wanted_by_both_sides() {
    let mut spec = base();
    assert_eq!(
        plan_of(spec.clone(), Terminal::NEW).unwrap_err().field,
        "process.terminal"
    );
    spec["process"]["terminal"] = json!(true);
    assert_eq!(
        plan_of(spec.clone(), Terminal::None).unwrap_err().field,
        "process.terminal"
    );
    let plan = plan_of(spec, Terminal::NEW).unwrap();
    assert!(position(&plan, "open a terminal") < position(&plan, "bind the terminal on /dev/console"));
}

#[test]
fn options_of_a_mount_go_where_they_belong() {
    let own = |set, all, named| {
        let [all, named] = [all, named].map(|clear| Attributes {
            set,
            clear,
            propagation: 0,
        });
        (Flags { all, named }, Attributes::propagating(libc::MS_SLAVE))
    };
    let (ro, nosuid, symlinks) = (
        libc::MOUNT_ATTR_RDONLY,
        libc::MOUNT_ATTR_NOSUID,
        libc::MOUNT_ATTR_NOSYMFOLLOW,
    );
    let others = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC | symlinks;
    let every = ro | nosuid | others;
    let atime = libc::MOUNT_ATTR__ATIME | libc::MOUNT_ATTR_NODIRATIME;
    let cases = [
        (vec!["bind"], own(0, 0, 0)),
        (vec!["bind", "ro", "nosuid"], own(ro | nosuid, others, symlinks)),
        (vec!["bind", "ro", "rw"], own(0, every, ro | symlinks)),
        (vec!["bind", "rw", "ro"], own(ro, nosuid | others, symlinks)),
        (
            vec!["bind", "noatime"],
            own(libc::MOUNT_ATTR_NOATIME, every | atime, symlinks | atime),
        ),
        (vec!["bind", "relatime"], own(0, every | atime, symlinks | atime)),
        (vec!["bind", "noatime", "atime"], own(0, every, symlinks)),
        (vec!["bind", "relatime", "norelatime"], own(0, every, symlinks)),
        (
            vec!["rbind", "rro", "rprivate"],
            (
                Flags::default(),
                Attributes {
                    set: libc::MOUNT_ATTR_RDONLY,
                    clear: 0,
                    propagation: libc::MS_PRIVATE,
                },
            ),
        ),
        (
            vec!["bind", "shared"],
            (
                Flags::both(Attributes::propagating(libc::MS_SHARED)),
                Attributes::default(),
            ),
        ),
    ];
    for (options, expected) in cases {
        let plan = plan_with(
            "/mounts/-",
            json!({ "destination": "/x", "source": "/y", "options": options }),
        )
        .unwrap();
        let bind = plan.steps.iter().find_map(|planned| {
            if let InitStep::Bind(bind) = &planned.step {
                Some(bind)
            } else {
                None
            }
        });
        let bind = bind.unwrap();
        assert_eq!(
            (bind.tree.flags, bind.tree.recursive_attributes),
            expected,
            "{options:?}"
        );
        assert_eq!(bind.tree.recursive, options.contains(&"rbind"));
    }
}

#[test]
fn options_of_a_new_filesystem_reach_it_in_order() {
    let options = json!(["nosuid", "size=1m", "mode=755", "sync"]);
    let mount = json!({ "destination": "/x", "type": "tmpfs", "source": "src", "options": options });
    let plan = plan_with("/mounts/-", mount).unwrap();
    let all = plan.steps.iter();
    let mut new = all.filter_map(|planned| {
        if let InitStep::Mount(new) = &planned.step {
            Some(new)
        } else {
            None
        }
    });
    let new = new.find(|new| new.target.is("/x")).unwrap();
    let words: Vec<_> = new
        .options
        .iter()
        .map(|(key, value)| (key.to_str().unwrap(), value.as_ref().map(|v| v.to_str().unwrap())))
        .collect();
    assert_eq!(
        words,
        [
            ("source", Some("src")),
            ("size", Some("1m")),
            ("mode", Some("755")),
            ("sync", None)
        ]
    );
    assert_eq!(new.attributes.set, libc::MOUNT_ATTR_NOSUID);
}

fn facts_of_exec() -> ProcessFacts {
    ProcessFacts {
        terminal: Terminal::None,
        available: u64::MAX,
        manner: Manner::default(),
        privileges: Privileges::all(),
        modules: SecurityModules::default(),
        groups: Groups::Set,
    }
}

#[test]
fn an_added_process_enters_the_container_and_mounts_nothing() {
    let spec: Spec = serde_json::from_value(base()).unwrap();
    let process = spec.process().as_ref().unwrap();
    let facts = facts_of_exec();
    let init = std::fs::File::open("/dev/null").unwrap().into();
    let plan = exec(&spec, process, (init, None), facts).unwrap();
    assert_eq!(plan.namespaces, 0, "it makes no namespace");
    let steps = described(&plan);
    assert!(position(&plan, "join the container's namespaces") < position(&plan, "open the container's root"));
    assert!(
        steps
            .iter()
            .all(|step| !step.starts_with("mount") && !step.starts_with("bind")),
        "{steps:?}"
    );
}

proptest! {
    #[test]
    fn whatever_the_paths_a_plan_never_looks_outside(paths in proptest::collection::vec("[./a-c]{0,12}", 1..6)) {
        let mounts: Vec<_> = paths.iter().map(|path| json!({ "destination": path, "type": "tmpfs" })).collect();
        let mut spec = base();
        spec["mounts"] = json!(mounts);
        match plan_of(spec, Terminal::None) {
            Err(error) => prop_assert!(error.field.ends_with(".destination") || error.field.ends_with(".type")),
            Ok(plan) => {
                for planned in &plan.steps {
                    if let InitStep::Mount(mount) = &planned.step {
                        let path = mount.target.relative().to_str().unwrap();
                        let is_clean = path.split('/').all(|name| !matches!(name, "" | "." | ".."));
                        prop_assert!(is_clean, "{:?}", path);
                    }
                }
            }
        }
    }
}
