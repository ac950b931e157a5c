//! `update` and `events`: other limits, and what is used.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::{Value, json};
use tests::{Need, cgroup_controllers, eventually, require, require_root};

use crate::bundle::{PATIENCE, with_bundle};
use crate::peer::{Runtime, with_each};

#[test]
fn limits_are_changed_by_flag_and_from_a_file() {
    require!(Need::Root, Need::Controllers(&["cpu", "cpuset", "memory", "pids"]));
    with_each("update", |bundle, runtime| {
        if runtime == Runtime::Crun {
            return;
        }
        bundle.set(
            "/linux/resources",
            json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 20 } }),
        );
        bundle.create("sleep 1000");
        bundle.ok("start", &["c1"]);
        let file = |name: &str| {
            let text = fs::read_to_string(bundle.scratch.cgroup().join("c1").join(name)).unwrap();
            text.trim().to_owned()
        };
        let flags = [
            "--cpu-share",
            "512",
            "--cpu-quota",
            "20000",
            "--cpu-period",
            "50000",
            "--cpuset-cpus",
            "0",
            "--memory",
            "128m",
            "--memory-reservation",
            "32m",
            "--memory-swap",
            "192m",
            "--pids-limit",
            "30",
            "c1",
        ];
        bundle.ok("update", &flags);
        // runc 1.1 has the older, linear conversion of shares.
        let weight = if runtime == Runtime::Runc { "20" } else { "59" };
        assert_eq!(
            (file("cpu.weight").as_str(), file("cpu.max").as_str()),
            (weight, "20000 50000")
        );
        assert_eq!(
            (file("memory.max"), file("memory.low")),
            ((128 << 20).to_string(), (32 << 20).to_string())
        );
        assert_eq!((file("pids.max").as_str(), file("cpuset.cpus").as_str()), ("30", "0"));
        // Half of a bandwidth leaves the other half as it is.
        bundle.ok("update", &["--cpu-period", "40000", "c1"]);
        assert_eq!(file("cpu.max"), "20000 40000");
        bundle.ok("update", &["--cpu-quota", "30000", "c1"]);
        assert_eq!(file("cpu.max"), "30000 40000");
        let resources = json!({ "pids": { "limit": 40 }, "unified": { "memory.high": "100000000" } });
        let path = bundle.file("resources.json", &resources.to_string());
        bundle.ok("update", &["--resources", path.to_str().unwrap(), "c1"]);
        assert_eq!(file("pids.max"), "40");
        let mut update = bundle.oci("update");
        let mut child = update
            .args(["--resources=-", "c1"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(br#"{"pids":{"limit":50}}"#)
            .unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(
            (file("pids.max").as_str(), file("memory.max")),
            ("50", (128 << 20).to_string())
        );
        bundle.ok("delete", &["-f", "c1"]);
    });
}

#[test]
fn a_memory_limit_below_what_is_used_is_refused_if_asked() {
    require!(Need::Root, Need::Controllers(&["memory"]));
    with_bundle("check-update", |bundle| {
        // Without a limit from the start there is nobody who counts.
        bundle.set("/linux/resources", json!({ "memory": { "limit": 64 << 20 } }));
        bundle.mount("tmpfs", "tmpfs", "/tmp", &["size=64m"]);
        bundle.create("dd if=/dev/zero of=/tmp/x bs=1M count=20 2>/dev/null; sleep 1000 & touch /ran; wait");
        bundle.ok("start", &["c1"]);
        eventually(PATIENCE, "it uses memory", || bundle.has("ran"));
        let resources = json!({ "memory": { "limit": 1 << 20, "checkBeforeUpdate": true } });
        let path = bundle.file("resources.json", &resources.to_string());
        let error = bundle.fails("update", &["-r", path.to_str().unwrap(), "c1"]);
        assert!(
            error.contains("linux.resources.memory.limit") && error.contains("in use"),
            "{error}"
        );
        bundle.ok("delete", &["-f", "c1"]);
    });
}

#[test]
fn a_new_limit_that_nothing_enforces_is_an_error() {
    require_root!();
    with_bundle("update-none", |bundle| {
        let bare = bundle.scratch.cgroup().join("bare");
        fs::create_dir(&bare).unwrap();
        bundle.see_only(&bare);
        bundle.create("sleep 1000");
        let error = bundle.fails("update", &["--pids-limit", "5", "c1"]);
        assert!(
            error.contains("linux.resources.pids.limit: this host has no pids controller"),
            "{error}"
        );
        bundle.ok("delete", &["-f", "c1"]);
        fs::remove_dir(&bare).unwrap();
    });
}

#[test]
fn statistics_have_runcs_shape() {
    require_root!();
    with_each("stats", |bundle, runtime| {
        if runtime == Runtime::Crun {
            // It has no events at all (crun#1273).
            return;
        }
        bundle.create("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000 & touch /ran; wait");
        bundle.ok("start", &["c1"]);
        eventually(PATIENCE, "it has worked", || bundle.has("ran"));
        // runc 1.1 fails where controllers are missing.
        let all = ["cpu", "memory", "pids"]
            .iter()
            .all(|name| cgroup_controllers().iter().any(|have| have == name));
        if runtime == Runtime::Ours || all {
            let line: Value = serde_json::from_str(&bundle.ok("events", &["--stats", "c1"])).unwrap();
            assert_eq!((&line["type"], &line["id"]), (&json!("stats"), &json!("c1")));
            let used = line
                .pointer("/data/cpu/usage/total")
                .and_then(Value::as_u64)
                .unwrap_or(0);
            assert!(used > 0, "{line}");
            for field in ["/data/memory/usage", "/data/pids", "/data/blkio", "/data/hugetlb"] {
                assert!(line.pointer(field).is_some_and(Value::is_object), "{field}: {line}");
            }
            if all {
                assert!(
                    line.pointer("/data/memory/usage/usage")
                        .and_then(Value::as_u64)
                        .unwrap()
                        > 0,
                    "{line}"
                );
                assert_eq!(line.pointer("/data/pids/current"), Some(&json!(2)), "{line}");
            }
        }
        bundle.ok("delete", &["-f", "c1"]);
    });
}

#[test]
fn events_go_on_until_the_container_ends() {
    require_root!();
    with_bundle("events", |bundle| {
        bundle.create("sleep 1000");
        bundle.ok("start", &["c1"]);
        let mut events = bundle.oci("events");
        let mut child = events
            .args(["--interval", "20ms", "c1"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..3 {
            let line = lines.next().unwrap().unwrap();
            assert!(
                line.starts_with(r#"{"type":"stats","id":"c1","data":{"#),
                "in runc's order: {line}"
            );
            serde_json::from_str::<Value>(&line).unwrap();
        }
        bundle.ok("kill", &["c1", "KILL"]);
        assert!(lines.all(|line| line.is_ok()));
        assert_eq!(child.wait().unwrap().code(), Some(0));
        bundle.ok("delete", &["c1"]);
        assert!(bundle.fails("events", &["--stats", "c1"]).contains("does not exist"));
    });
}

#[test]
fn a_kill_for_want_of_memory_is_told() {
    require!(Need::Root, Need::Controllers(&["memory"]));
    with_bundle("oom-event", |bundle| {
        bundle.set(
            "/linux/resources",
            json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } }),
        );
        bundle.mount("tmpfs", "tmpfs", "/tmp", &["size=64m"]);
        bundle.create("while ! test -f /go; do sleep 0.05; done; dd if=/dev/zero of=/tmp/x bs=1M count=60; sleep 1000");
        bundle.ok("start", &["c1"]);
        let mut events = bundle.oci("events");
        let mut child = events
            .args(["--interval", "50ms", "c1"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // It watches once it has said something.
        let first = lines.next().unwrap().unwrap();
        fs::write(bundle.rootfs().join("go"), "").unwrap();
        let told = lines
            .map_while(Result::ok)
            .any(|line| line == "{\"type\":\"oom\",\"id\":\"c1\"}");
        assert!(told, "{first}");
        let _ = child.kill();
        let _ = child.wait();
        bundle.ok("delete", &["-f", "c1"]);
    });
}
