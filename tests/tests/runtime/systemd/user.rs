//! A user's own systemd, as a service of the test's: it may do no more than any process of the user, and has the machine's
//! bring processes from the user's session, which is a cgroup outside of its own.

use std::fs;
use std::path::Path;

use serde_json::json;
use tests::{Need, Systemd, cgroup_controllers, require};

use super::PROGRAM;
use crate::bundle::{Bundle, Finished, with_bundle};
use crate::user::{NOBODY, rootless};

const NEEDS: [Need<'_>; 4] = [
    Need::Root,
    Need::Path(PROGRAM),
    Need::Tool("nsenter"),
    Need::Tool("dbus-daemon"),
];

/// A systemd of the user; the runtime and whatever runs beside it are the user's, too, in the user's session.
fn start(bundle: &mut Bundle<'_>) -> Systemd {
    rootless(bundle);
    let systemd = Systemd::start_with_users(bundle.scratch, NOBODY);
    bundle.around = (systemd.inside_as(NOBODY), vec!["--systemd-cgroup".into()]);
    systemd
}

/// Runs a command where the runtime runs.
fn beside(bundle: &Bundle<'_>, command: &[&str]) -> Finished {
    let around = &bundle.around.0;
    Finished::of(std::process::Command::new(&around[0]).args(&around[1..]).args(command))
}

fn show(bundle: &Bundle<'_>, property: &str) -> String {
    let command = ["systemctl", "--user", "show", "-P", property, "orlop-oci-c1.scope"];
    beside(bundle, &command).out.trim().to_owned()
}

fn members(scope: &Path) -> usize {
    let members = fs::read_to_string(scope.join("cgroup.procs")).unwrap();
    members.lines().count()
}

#[test]
fn a_users_container_is_a_scope_of_the_users_systemd() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    with_bundle("systemd-user", |bundle| {
        let systemd = start(bundle);
        let limits = json!({ "pids": { "limit": 50 }, "memory": { "limit": 64 << 20 } });
        bundle.set("/linux/resources", limits);
        bundle.create("exec sleep 1000");
        let slice = format!("{}/user.slice", Systemd::USERS);
        let scope = || systemd.scope(&slice, "orlop-oci-c1.scope");
        let path = scope().expect("the scope is there");
        assert_eq!(members(&path), 1, "somebody else is in it");
        assert_eq!(
            (show(bundle, "ActiveState"), show(bundle, "Slice")),
            ("active".into(), "user.slice".into())
        );
        assert_eq!(
            (show(bundle, "Delegate"), show(bundle, "TasksMax")),
            ("yes".into(), "50".into())
        );
        bundle.ok("start", &["c1"]);
        let own = ["c1", "grep", "-c", "^0::/$", "/proc/self/cgroup"];
        assert_eq!(bundle.ok("exec", &own), "1\n");
        bundle.ok("exec", &["--detach", "c1", "sleep", "1000"]);
        assert_eq!(members(&path), 2);
        bundle.ok("pause", &["c1"]);
        bundle.ok("resume", &["c1"]);
        if cgroup_controllers().iter().any(|name| name == "pids") {
            let limit = || fs::read_to_string(path.join("pids.max")).unwrap();
            assert_eq!(limit(), "50\n");
            bundle.ok("update", &["--pids-limit", "60", "c1"]);
            assert_eq!((limit(), show(bundle, "TasksMax")), ("60\n".into(), "60".into()));
        }
        bundle.ok("delete", &["--force", "c1"]);
        assert!(scope().is_none());
    });
}

#[test]
fn a_users_systemd_is_found_without_a_bus_and_missed_by_name() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    with_bundle("systemd-user-bus", |bundle| {
        let systemd = start(bundle);
        // systemd does not know it.
        let huge_pages = json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 0 }] });
        bundle.set("/linux/resources", huge_pages);
        let finished = bundle.run("grep -c '^0::/$' /proc/self/cgroup");
        assert_eq!((finished.code, finished.out.as_str()), (Some(0), "1\n"), "{finished:?}");
        assert!(
            finished.err.contains("linux.resources.devices: only root"),
            "{finished:?}"
        );
        if cgroup_controllers().iter().any(|name| name == "hugetlb") {
            assert!(
                finished.err.contains("was not given the hugetlb controller"),
                "{finished:?}"
            );
        }
        fs::remove_file(systemd.path(&format!("/run/user/{NOBODY}/bus"))).unwrap();
        assert_eq!(bundle.say("grep -c '^0::/$' /proc/self/cgroup"), "1\n");
        let scope = || systemd.scope(&format!("{}/user.slice", Systemd::USERS), "orlop-oci-c1.scope");
        assert!(scope().is_none());
        bundle.around.0.pop();
        let finished = bundle.run("true");
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.err.contains("nor XDG_RUNTIME_DIR says where"), "{finished:?}");
    });
}

/// As podman runs the runtime for who is not root: the bus knows it by another number than it does itself.
#[test]
fn root_of_a_user_namespace_asks_the_systemd_of_the_user_outside() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    with_bundle("systemd-userns", |bundle| {
        let systemd = start(bundle);
        let namespaces = ["pid", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({ "type": kind }));
        bundle.set("/linux/namespaces", json!(namespaces));
        for list in ["uidMappings", "gidMappings"] {
            bundle.config["linux"].as_object_mut().unwrap().remove(list);
        }
        let inside = ["unshare", "--user", "--map-root-user", "--mount"];
        bundle.around.0.extend(inside.map(String::from));
        assert_eq!(bundle.say("grep -c '^0::/$' /proc/self/cgroup"), "1\n");
        let scope = systemd.scope(&format!("{}/user.slice", Systemd::USERS), "orlop-oci-c1.scope");
        assert!(scope.is_none());
    });
}
