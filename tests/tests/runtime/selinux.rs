//! SELinux: labels of processes, of mounts and of keys, under the policy of the test VM (`tests/vm/policy.cil`).
//!
//! A kernel has SELinux or AppArmor: `cargo xtask test vm` boots a machine of its own for these.

use std::fs;
use std::process::Stdio;

use serde_json::json;
use tests::{Need, eventually, require};

use crate::bundle::{Bundle, Finished, PATIENCE, with_bundle};
use crate::exec::{exec, with_running};
use crate::peer::{Runtime, with_each};
use crate::user::{FIRST, map};

const POLICY: Need<'_> = Need::Path("/sys/fs/selinux/booleans/orlop_tests");

const CONTAINER: &str = "system_u:system_r:container_t:s0:c1,c2";
const HELPER: &str = "system_u:system_r:helper_t:s0:c1,c2";
const FORBIDDEN: &str = "system_u:system_r:forbidden_t:s0";
const UNKNOWN: &str = "system_u:system_r:nobody_knows_t:s0";
const FILES: &str = "system_u:object_r:container_file_t:s0:c1,c2";
/// What the policy gives a filesystem that nobody labels.
const UNLABELLED: &str = "system_u:object_r:filesystem_t:s0";

fn label(bundle: &mut Bundle<'_>) {
    bundle.set("/process/selinuxLabel", json!(CONTAINER));
    bundle.set("/linux/mountLabel", json!(FILES));
}

/// A container that waits, with labels, of each runtime; the test gets the pid of its init.
fn with_each_running(name: &str, test: impl Fn(&Bundle<'_>, i32, Runtime)) {
    with_each(name, |bundle, runtime| {
        label(bundle);
        bundle.set("/linux/maskedPaths", json!(["/sys/firmware", "/proc/timer_list"]));
        bundle.set("/process/args", json!(["sleep", "1000"]));
        bundle.file("config.json", &bundle.config.to_string());
        let pid_file = bundle.dir().join("pid");
        let mut create = bundle.oci("create");
        create
            .arg("--bundle")
            .arg(bundle.dir())
            .arg("--pid-file")
            .arg(&pid_file);
        for command in [&mut create, &mut bundle.oci("start")] {
            // Not a pipe that the container would hold open.
            let status = command.arg("c1").stdout(Stdio::null()).status().unwrap();
            assert!(status.success(), "{runtime:?} {command:?}: {status}");
        }
        let pid = fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        test(bundle, pid, runtime);
        let deleted = Finished::of(bundle.oci("delete").args(["--force", "c1"]));
        assert_eq!(deleted.code, Some(0), "{runtime:?} {deleted:?}");
    });
}

/// The label of a file of the container that this process is in.
fn label_at(pid: i32, path: &str) -> String {
    let mut value = [0; 256];
    let length = rustix::fs::getxattr(format!("/proc/{pid}/root{path}"), "security.selinux", &mut value).unwrap();
    without_end(&String::from_utf8_lossy(&value[..length]))
}

/// The kernel ends labels with a zero.
fn without_end(label: &str) -> String {
    label.trim_end_matches(['\0', '\n']).to_owned()
}

#[test]
fn a_process_has_the_label_of_its_spec_and_an_added_one_that_or_its_own() {
    require!(Need::Root, POLICY);
    with_each_running("selinux-process", |bundle, pid, runtime| {
        eventually(PATIENCE, "the first process has its label", || {
            without_end(&fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap()) == CONTAINER
        });
        let mut process = bundle.config["process"].clone();
        process["args"] = json!(["cat", "/proc/self/attr/current"]);
        process.as_object_mut().unwrap().remove("selinuxLabel");
        let file = bundle.file("process.json", &process.to_string());
        let show = ["c1", "cat", "/proc/self/attr/current"];
        for (flags, command, expected) in [
            (&[][..], &show[..], CONTAINER),
            (&["--process-label", HELPER], &show, HELPER),
            // A file that says nothing of it.
            (&["--process", file.to_str().unwrap()], &show[..1], CONTAINER),
        ] {
            let added = exec(bundle, &[flags, command].concat());
            assert_eq!(without_end(&added.out), expected, "{runtime:?} {flags:?} {added:?}");
        }
    });
}

#[test]
fn a_label_that_can_not_be_had_is_an_error_that_names_it() {
    require!(Need::Root, POLICY);
    for (field, label) in [
        ("/process/selinuxLabel", UNKNOWN),
        ("/process/selinuxLabel", FORBIDDEN),
        ("/linux/mountLabel", UNKNOWN),
    ] {
        with_bundle("selinux-refused", |bundle| {
            bundle.set(field, json!(label));
            let finished = bundle.run("echo up");
            assert_eq!((finished.code, finished.out.as_str()), (Some(1), ""), "{finished:?}");
            assert!(finished.err.contains(label), "{finished:?}");
        });
    }
    with_running("selinux-refused-added", label, |bundle, _| {
        for label in [UNKNOWN, FORBIDDEN] {
            let added = exec(bundle, &["--process-label", label, "c1", "echo", "up"]);
            assert_eq!((added.code, added.out.as_str()), (Some(255), ""), "{added:?}");
            assert!(added.err.contains(label), "{added:?}");
        }
    });
}

/// The policy decides when the program is executed; nothing has asked it before.
#[test]
fn a_program_that_the_policy_refuses_is_an_error_that_names_its_label() {
    require!(Need::Root, POLICY);
    with_bundle("selinux-forbidden", |bundle| {
        bundle.set("/process/selinuxLabel", json!(FORBIDDEN));
        bundle.set("/process/args", json!(["echo", "up"]));
        let finished = Finished::of(bundle.command("c1").arg("--no-new-keyring"));
        assert_eq!((finished.code, finished.out.as_str()), (Some(126), ""), "{finished:?}");
        assert!(finished.err.contains(FORBIDDEN), "{finished:?}");
    });
}

#[test]
fn filesystems_have_the_mount_label_but_for_those_that_the_kernel_labels() {
    require!(Need::Root, POLICY);
    with_each_running("selinux-mounts", |_, pid, runtime| {
        for path in [
            "/dev",
            "/dev/null",
            "/dev/shm",
            "/dev/pts",
            "/dev/mqueue",
            "/sys/firmware",
        ] {
            assert_eq!(label_at(pid, path), FILES, "{runtime:?} {path}");
        }
        for path in ["/sys/kernel", "/proc/sys"] {
            assert_eq!(label_at(pid, path), UNLABELLED, "{runtime:?} {path}");
        }
    });
}

/// Its root is nobody's in there, and can't be labelled.
#[test]
fn who_has_a_user_namespace_has_queues_of_its_own() {
    require!(Need::Root, POLICY);
    with_bundle("selinux-queues", |bundle| {
        label(bundle);
        map(bundle, FIRST, 65536);
        assert_eq!(bundle.say("touch /dev/mqueue/one && echo made"), "made\n");
    });
}

/// The policy shows nobody the keys of others: a keyring with the label of who made the container would be lost to it.
#[test]
fn the_session_keyring_is_the_containers_own() {
    require!(Need::Root, POLICY);
    with_each_running("selinux-keys", |bundle, _, runtime| {
        for flags in [&[][..], &["--process-label", CONTAINER]] {
            let keys = exec(bundle, &[flags, &["c1", "cat", "/proc/keys"]].concat());
            assert!(keys.out.contains(" keyring "), "{runtime:?} {keys:?}");
        }
    });
}
