//! Who waits for something uses no processor meanwhile.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tests::{eventually, require_root, rests};

use crate::bundle::{Bundle, PATIENCE, with_bundle};
use crate::hooks::hook;

/// A process of the runtime that ends when the test says so.
struct Waiting<'a> {
    child: Child,
    bundle: &'a Bundle<'a>,
}

impl<'a> Waiting<'a> {
    fn start(bundle: &'a Bundle<'a>, command: &mut Command) -> Self {
        let out = File::create(bundle.dir().join("out")).unwrap();
        let child = command.stdout(out).stderr(Stdio::inherit()).spawn().unwrap();
        Self { child, bundle }
    }

    /// When what it waits for has begun, which makes a file `begun` in the root.
    fn rests(&self) {
        eventually(PATIENCE, "what is waited for has begun", || self.bundle.has("begun"));
        eventually(PATIENCE, "the runtime rests", || rests(self.child.id()));
    }

    /// Lets it go on. Returns what it has said.
    fn end(mut self) -> String {
        self.bundle.file("rootfs/go", "");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        fs::read_to_string(self.bundle.dir().join("out")).unwrap()
    }
}

/// Only a test that has failed leaves it running.
impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.bundle.file("rootfs/go", "");
            let _ = self.child.wait();
        }
    }
}

/// A script that is waited for.
fn long(root: &str) -> String {
    format!("touch {root}/begun; while ! test -e {root}/go; do sleep 0.1; done")
}

#[test]
fn a_container_is_waited_for() {
    require_root!();
    with_bundle("rest-run", |bundle| {
        bundle.set("/process/args", json!(["sh", "-c", long("")]));
        let waiting = Waiting::start(bundle, &mut bundle.command("c1"));
        waiting.rests();
        waiting.end();
    });
}

/// One that closes its terminal may open it again.
#[test]
fn a_container_that_has_closed_its_terminal_is_waited_for() {
    require_root!();
    with_bundle("rest-terminal", |bundle| {
        bundle.set("/process/terminal", json!(true));
        let script = format!(
            "exec < /dev/null > /dev/null 2>&1; {}; echo again > /dev/console",
            long("")
        );
        bundle.set("/process/args", json!(["sh", "-c", script]));
        let waiting = Waiting::start(bundle, &mut bundle.command("c1"));
        waiting.rests();
        assert_eq!(waiting.end(), "again\n");
    });
}

#[test]
fn a_hook_that_has_closed_its_streams_is_waited_for() {
    require_root!();
    with_bundle("rest-hook", |bundle| {
        let script = format!("exec 2>&-; {}", long(&bundle.rootfs().display().to_string()));
        bundle.set("/hooks", json!({ "createRuntime": [hook(&script)] }));
        bundle.set("/process/args", json!(["true"]));
        let waiting = Waiting::start(bundle, &mut bundle.command("c1"));
        waiting.rests();
        waiting.end();
    });
}

/// The kernel tells of kills for want of memory in a file that is looked at then, and only then.
#[test]
fn events_are_waited_for() {
    require_root!();
    with_bundle("rest-events", |bundle| {
        bundle.create(&long(""));
        bundle.ok("start", &["c1"]);
        let mut events = bundle.oci("events");
        let waiting = Waiting::start(bundle, events.args(["--interval", "1h", "c1"]));
        waiting.rests();
        waiting.end();
        bundle.ok("delete", &["c1"]);
    });
}

/// Those of a container that was there before are about to leave its cgroup.
#[test]
fn who_is_about_to_leave_a_cgroup_is_waited_for() {
    require_root!();
    with_bundle("rest-cgroup", |bundle| {
        let own = bundle.scratch.cgroup().join("c1");
        fs::create_dir(&own).unwrap();
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(own.join("cgroup.procs"), other.id().to_string()).unwrap();
        bundle.set("/process/args", json!(["true"]));
        // It waits for a second at most, of which a busy machine may leave us nothing to look at.
        eventually(PATIENCE, "the runtime rests", || {
            let mut refused = bundle.command("c1").stderr(Stdio::null()).spawn().unwrap();
            let mut has_rested = false;
            while refused.try_wait().unwrap().is_none() {
                has_rested |= rests(refused.id());
            }
            has_rested
        });
        other.kill().unwrap();
        other.wait().unwrap();
        fs::remove_dir(own).unwrap();
    });
}
