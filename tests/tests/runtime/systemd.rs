//! The systemd driver, against a systemd of the test's own.

mod user;

use std::fs;
use std::process::Command;

use serde_json::json;
use tests::{Need, Systemd, cgroup_controllers, eventually, require};

use crate::bundle::{Bundle, PATIENCE, with_bundle};

const PROGRAM: &str = Systemd::PROGRAM;

/// A systemd, which the runtime asks from now on.
fn start(bundle: &mut Bundle<'_>) -> Systemd {
    let systemd = Systemd::start(bundle.scratch);
    bundle.around = (systemd.inside(), vec!["--systemd-cgroup".into()]);
    systemd
}

/// Runs a command where the runtime runs. Returns what it says.
fn beside(bundle: &Bundle<'_>, command: &[&str]) -> String {
    let inside = &bundle.around.0;
    let output = Command::new(&inside[0]).args(&inside[1..]).args(command).output();
    String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
}

fn show(bundle: &Bundle<'_>, property: &str, unit: &str) -> String {
    beside(bundle, &["systemctl", "show", "-P", property, unit])
}

#[test]
fn a_container_is_a_scope_of_its_slice_while_it_lives() {
    require!(Need::Root, Need::Path(PROGRAM), Need::Tool("nsenter"));
    with_bundle("systemd", |bundle| {
        let systemd = start(bundle);
        bundle.set("/linux/cgroupsPath", json!("machine-test.slice:orlop:c1"));
        bundle.set(
            "/linux/resources",
            json!({ "pids": { "limit": 50 }, "memory": { "limit": 64 << 20 } }),
        );
        bundle.set(
            "/annotations",
            json!({
                "org.systemd.property.TimeoutStopUSec": "uint64 7000000",
                "org.systemd.property.After": "['only.target']",
                "org.systemd.property.KillSignal": "37",
            }),
        );
        bundle.create("exec sleep 1000");
        let scope = || systemd.scope("machine.slice/machine-test.slice", "orlop-c1.scope");
        let path = scope().expect("the scope is there");
        let members = fs::read_to_string(path.join("cgroup.procs")).unwrap();
        assert_eq!(members.lines().count(), 1, "the runtime has not gone back: {members}");
        bundle.ok("start", &["c1"]);
        let command = || fs::read_to_string(format!("/proc/{}/cmdline", members.trim())).unwrap_or_default();
        eventually(PATIENCE, "the program runs", || command().starts_with("sleep"));
        let show = |property: &str| show(bundle, property, "orlop-c1.scope");
        assert_eq!(
            (show("ActiveState"), show("Slice")),
            ("active".into(), "machine-test.slice".into())
        );
        assert_eq!(
            (show("TasksMax"), show("MemoryMax")),
            ("50".into(), (64 << 20).to_string())
        );
        assert_eq!(show("Delegate"), "yes");
        assert_eq!(
            (show("TimeoutStopUSec"), show("KillSignal")),
            ("7s".into(), "37".into())
        );
        assert!(show("After").contains("only.target"), "{}", show("After"));
        if cgroup_controllers().iter().any(|name| name == "cpu") {
            bundle.ok("update", &["--cpu-quota", "50000", "--cpu-period", "100000", "c1"]);
            assert_eq!(show("CPUQuotaPerSecUSec"), "500ms");
        }
        bundle.ok("pause", &["c1"]);
        bundle.ok("resume", &["c1"]);
        assert_eq!(
            bundle.ok("exec", &["c1", "grep", "-c", "^0::/$", "/proc/self/cgroup"]),
            "1\n"
        );
        bundle.ok("delete", &["--force", "c1"]);
        assert!(scope().is_none());
        eventually(PATIENCE, "systemd forgets it", || show("ActiveState") == "inactive");
    });
}

#[test]
fn a_container_that_can_not_be_made_leaves_no_scope() {
    require!(Need::Root, Need::Path(PROGRAM), Need::Tool("nsenter"));
    with_bundle("systemd-fail", |bundle| {
        let systemd = start(bundle);
        bundle.set("/linux/cgroupsPath", json!("system.slice:orlop:c1"));
        bundle.set("/process/args", json!(["nothing"]));
        bundle.file("config.json", &bundle.config.to_string());
        let dir = bundle.dir();
        assert!(
            bundle
                .fails("create", &["--bundle", dir.to_str().unwrap(), "c1"])
                .contains("nothing")
        );
        assert!(systemd.scope("system.slice", "orlop-c1.scope").is_none());
        bundle.set("/linux/cgroupsPath", json!("/a/path"));
        bundle.file("config.json", &bundle.config.to_string());
        assert!(
            bundle
                .fails("create", &["--bundle", dir.to_str().unwrap(), "c1"])
                .contains("slice:prefix:name")
        );
        bundle.set("/linux/cgroupsPath", json!("system.slice:orlop:c1"));
        bundle.set("/annotations", json!({ "org.systemd.property.Slice": "'other.slice'" }));
        bundle.file("config.json", &bundle.config.to_string());
        let error = bundle.fails("create", &["--bundle", dir.to_str().unwrap(), "c1"]);
        assert!(error.contains("annotations.org.systemd.property.Slice"), "{error}");
    });
}

/// Who holds the scope until the container's process is there has to find room in it, too.
#[test]
fn a_scope_has_room_for_as_few_processes_as_are_asked_for() {
    require!(
        Need::Root,
        Need::Path(PROGRAM),
        Need::Tool("nsenter"),
        Need::Controllers(&["pids"])
    );
    with_bundle("systemd-pids", |bundle| {
        let systemd = start(bundle);
        bundle.config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
        for limit in ["1", "2"] {
            let most: i64 = limit.parse().unwrap();
            bundle.set("/linux/resources", json!({ "pids": { "limit": most } }));
            bundle.create("exec sleep 1000");
            bundle.ok("start", &["c1"]);
            let scope = systemd.scope("system.slice", "orlop-oci-c1.scope").unwrap();
            let file = fs::read_to_string(scope.join("pids.max")).unwrap();
            assert_eq!(
                (file.trim(), show(bundle, "TasksMax", "orlop-oci-c1.scope").as_str()),
                (limit, limit)
            );
            bundle.ok("delete", &["--force", "c1"]);
        }
    });
}

/// As in a machine within a machine: root there is root of a user namespace only, and its systemd is one of its own.
#[test]
fn root_of_a_user_namespace_asks_the_systemd_in_there() {
    require!(Need::Root, Need::Path(PROGRAM), Need::Tool("nsenter"));
    with_bundle("systemd-own", |bundle| {
        let systemd = Systemd::start_in_user_namespace(bundle.scratch);
        bundle.around = (systemd.inside(), vec!["--systemd-cgroup".into()]);
        bundle.config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
        // Nobody but root is known in there.
        bundle.set(
            "/mounts/2/options",
            json!(["newinstance", "ptmxmode=0666", "mode=0620"]),
        );
        bundle.create("exec sleep 1000");
        let scope = || systemd.scope("system.slice", "orlop-oci-c1.scope");
        assert!(scope().is_some());
        bundle.ok("start", &["c1"]);
        let own = ["c1", "grep", "-c", "^0::/$", "/proc/self/cgroup"];
        assert_eq!(bundle.ok("exec", &own), "1\n");
        bundle.ok("delete", &["--force", "c1"]);
        assert!(scope().is_none());
    });
}
