//! The process that enters a user namespace to make another one in there, and is killed meanwhile.

use std::fs;
use std::process::Command;

use serde_json::json;
use tests::{Need, eventually, require};

use crate::bundle::{Bundle, Finished, PATIENCE};
use crate::exec::with_running;
use crate::user::{FIRST, map};

/// A command in which the first process that does this system call is killed at it.
fn killed_at(call: &str, command: &Command) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
    strace.args([
        &format!("trace={call}"),
        "-e",
        &format!("inject={call}:signal=KILL:when=1"),
    ]);
    strace.arg(command.get_program()).args(command.get_args());
    strace
}

const WORDS: &str = "the process that enters the namespaces for it was killed";

#[test]
fn when_it_is_killed_nothing_is_left() {
    require!(Need::Root, Need::Tool("strace"));
    let prepare = |bundle: &mut Bundle<'_>| map(bundle, FIRST, 65536);
    with_running("door-killed", prepare, |bundle, container| {
        let mut second = Bundle::of_state(bundle.scratch);
        let join =
            |kind: &str, file: &str| json!({ "type": kind, "path": format!("/proc/{}/ns/{file}", container.pid()) });
        second.config["linux"]["namespaces"] =
            json!([join("user", "user"), join("network", "net"), { "type": "pid" }, { "type": "mount" }]);
        second.config.as_object_mut().unwrap().remove("hostname");
        let cgroup = format!("{}/c2", bundle.scratch.cgroup_parent());
        second.set("/linux/cgroupsPath", json!(cgroup));
        let members = || {
            let members = fs::read_to_string(bundle.scratch.cgroup().join("c1/cgroup.procs")).unwrap();
            let names = members
                .lines()
                .map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")));
            names.flatten().filter(|name| !name.starts_with("sleep")).count()
        };
        // Before it has made the other one, and when that one is there and nobody knows of it.
        for call in ["setns", "sendmsg"] {
            let added = Finished::of(&mut killed_at(call, bundle.oci("exec").args(["c1", "true"])));
            assert!(
                added.code == Some(255) && added.err.contains(WORDS),
                "{call}: {added:?}"
            );
            eventually(PATIENCE, "the other one ends, too", || members() == 1);
            let made = Finished::of(&mut killed_at(call, &second.command("c2")));
            assert!(made.code == Some(1) && made.err.contains(WORDS), "{call}: {made:?}");
            assert!(!bundle.scratch.cgroup().join("c2").exists(), "{call}");
            second.fails("state", &["c2"]);
        }
        bundle.ok("exec", &["c1", "true"]);
    });
}
