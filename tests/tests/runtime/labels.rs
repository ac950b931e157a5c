//! AppArmor profiles; SELinux labels, where the host has none.

use std::fs;
use std::path::Path;

use serde_json::json;
use tests::{Need, require, require_root};

use crate::bundle::{Bundle, Finished, with_bundle};
use crate::exec::{exec, with_running};

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";

fn has_apparmor() -> bool {
    fs::read_to_string(ENABLED).is_ok_and(|word| word.trim() == "Y")
}

#[test]
fn a_profile_is_refused_where_there_is_no_apparmor_or_no_such_profile() {
    require_root!();
    with_bundle("no-profile", |bundle| {
        bundle.set("/process/apparmorProfile", json!("orlop-no-such-profile"));
        let finished = bundle.run("true");
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let reason = if has_apparmor() {
            "set the label \"exec orlop-no-such-profile\", for process.apparmorProfile: No such file"
        } else {
            "process.apparmorProfile: this host has no AppArmor"
        };
        assert!(finished.err.contains(reason), "{finished:?}");
    });
}

/// The kernel has one profile without a policy: the one that confines nothing. What counts is who wrote it, and how.
#[test]
fn a_profile_is_given_by_the_exec_in_init_and_in_added_processes() {
    require!(Need::Root, Need::Path(ENABLED));
    let prepare = |bundle: &mut Bundle<'_>| {
        bundle.set("/process/apparmorProfile", json!("unconfined"));
    };
    with_running("profile", prepare, |bundle, container| {
        let of = |pid: i32| fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap();
        assert_eq!(of(container.pid()).trim(), "unconfined");
        let finished = exec(bundle, &["c1", "cat", "/proc/self/attr/current"]);
        assert_eq!(
            (finished.code, finished.out.trim()),
            (Some(0), "unconfined"),
            "{finished:?}"
        );
        let finished = exec(bundle, &["--apparmor", "orlop-no-such-profile", "c1", "true"]);
        assert!(finished.err.contains("orlop-no-such-profile"), "{finished:?}");
    });
}

/// CVE-2019-16884 and its kin: an image or a volume at /proc takes the label and nobody is confined.
#[test]
fn a_label_does_not_go_into_a_false_proc() {
    require!(Need::Root, Need::Path(ENABLED));
    with_bundle("false-proc", |bundle| {
        let attributes = bundle.file("proc/thread-self/attr/apparmor/exec", "");
        bundle.set("/process/apparmorProfile", json!("orlop-no-such-profile"));
        bundle.set(
            "/mounts/0",
            json!({ "destination": "/proc", "type": "bind", "source": "proc", "options": ["bind"] }),
        );
        let finished = Finished::of(&mut bundle.command("c1"));
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.err.contains("orlop-no-such-profile"), "{finished:?}");
        assert_eq!(fs::read_to_string(attributes).unwrap(), "");
    });
}

#[test]
fn labels_of_selinux_are_refused_where_there_is_none() {
    require_root!();
    assert!(
        !Path::new("/sys/fs/selinux/enforce").exists(),
        "no machine of these tests has SELinux"
    );
    with_bundle("no-selinux", |bundle| {
        bundle.set("/process/selinuxLabel", json!("system_u:system_r:container_t:s0"));
        let finished = bundle.run("true");
        assert!(
            finished.err.contains("process.selinuxLabel: this host has no SELinux"),
            "{finished:?}"
        );
    });
}
