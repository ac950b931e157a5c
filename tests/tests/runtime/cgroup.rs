//! The container's cgroup: where it is, what it limits, what is left of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tests::{Need, cgroup_root, require, require_root};

use crate::bundle::{Bundle, with_bundle};
use crate::hooks::{said, telling};
use crate::peer::{Runtime, with_each};

#[test]
fn a_container_is_born_in_its_cgroup_which_is_the_root_of_what_it_sees() {
    require_root!();
    with_bundle("born", |bundle| {
        bundle.mount(
            "cgroup",
            "cgroup",
            "/sys/fs/cgroup",
            &["nosuid", "noexec", "nodev", "ro"],
        );
        assert_eq!(
            bundle.say("grep ^0: /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs | head -1"),
            "0::/\n1\n"
        );
    });
}

#[test]
fn without_a_cgroup_namespace_it_sees_its_own_cgroup_only() {
    require_root!();
    with_bundle("no-cgroupns", |bundle| {
        let namespaces = json!([{ "type": "mount" }, { "type": "pid" }, { "type": "network" }, { "type": "uts" }]);
        bundle.set("/linux/namespaces", namespaces);
        bundle.mount("cgroup", "cgroup", "/sys/fs/cgroup", &["ro"]);
        assert_eq!(
            bundle.say("cat /sys/fs/cgroup/cgroup.procs | head -1; ls /sys/fs/cgroup | grep -c c1; true"),
            "1\n0\n"
        );
    });
}

#[test]
fn what_outlives_init_is_killed_with_it() {
    require_root!();
    with_bundle("left-behind", |bundle| {
        let namespaces = json!([{ "type": "mount" }, { "type": "network" }, { "type": "uts" }]);
        bundle.set("/linux/namespaces", namespaces);
        assert_eq!(bundle.run("sleep 1000 >/dev/null 2>&1 & exit 3").code, Some(3));
    });
}

#[test]
fn limits_without_their_controller_are_reported() {
    require_root!();
    with_bundle("unenforced", |bundle| {
        // No controller has been turned on for it, so as the root of a hierarchy it has none.
        let bare = bundle.scratch.cgroup().join("bare");
        fs::create_dir(&bare).unwrap();
        bundle.set(
            "/linux/resources",
            json!({ "pids": { "limit": 10 }, "memory": { "limit": 10_000_000 } }),
        );
        bundle.see_only(&bare);
        let finished = bundle.run("echo ran");
        assert_eq!(finished.out, "ran\n", "{finished:?}");
        for field in ["linux.resources.pids.limit", "linux.resources.memory.limit"] {
            assert!(finished.err.contains(field), "{finished:?}");
        }
        fs::remove_dir(&bare).unwrap();
    });
}

#[test]
fn limits_reach_the_kernel() {
    require!(Need::Root, Need::Controllers(&["cpu", "memory", "pids"]));
    with_bundle("limits", |bundle| {
        let resources = json!({
            "cpu": { "shares": 512, "quota": 20000, "period": 100_000 },
            "memory": { "limit": 64 << 20, "reservation": 1 << 20 },
            "pids": { "limit": 20 },
        });
        bundle.set("/linux/resources", resources);
        bundle.mount("cgroup", "cgroup", "/sys/fs/cgroup", &["ro"]);
        let said = bundle.say("cd /sys/fs/cgroup; cat cpu.weight cpu.max memory.max memory.low pids.max");
        assert_eq!(said, "59\n20000 100000\n67108864\n1048576\n20\n");
    });
}

#[test]
fn a_container_over_its_memory_limit_is_killed_by_the_kernel() {
    require!(Need::Root, Need::Controllers(&["memory"]));
    with_bundle("oom", |bundle| {
        bundle.set(
            "/linux/resources",
            json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } }),
        );
        bundle.mount("tmpfs", "tmpfs", "/tmp", &["size=64m"]);
        let finished = bundle.run("dd if=/dev/zero of=/tmp/x bs=1M count=60 2>/dev/null; echo $?");
        assert!(finished.code == Some(137) || finished.out == "137\n", "{finished:?}");
    });
}

#[test]
fn a_fork_bomb_stays_within_its_limit() {
    require!(Need::Root, Need::Controllers(&["pids"]));
    with_bundle("pids", |bundle| {
        bundle.set("/linux/resources", json!({ "pids": { "limit": 8 } }));
        let finished = bundle.run("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done; exit 0");
        assert!(finished.err.contains("fork"), "{finished:?}");
    });
}

#[test]
fn a_limit_of_no_processes_is_one_and_no_limit_is_none() {
    require!(Need::Root, Need::Controllers(&["pids"]));
    with_bundle("pids-zero", |bundle| {
        bundle.mount("cgroup", "cgroup", "/sys/fs/cgroup", &["ro"]);
        let mut said = |pids: serde_json::Value| {
            bundle.set("/linux/resources", json!({ "pids": pids }));
            bundle.say("read LIMIT < /sys/fs/cgroup/pids.max; echo limit $LIMIT")
        };
        assert_eq!(said(json!({ "limit": 0 })), "limit 1\n");
        assert_eq!(said(json!({})), "limit max\n");
        assert_eq!(said(json!({ "limit": -1 })), "limit max\n");
    });
}

#[test]
fn a_cgroup_outside_the_hierarchy_can_not_be_named() {
    require_root!();
    with_bundle("cgroup-path", |bundle| {
        bundle.set("/linux/cgroupsPath", json!("../../etc"));
        let finished = bundle.run("true");
        assert_eq!(finished.code, Some(1));
        assert!(finished.err.contains("cgroupsPath"), "{finished:?}");
        assert!(fs::metadata(cgroup_root().join("../../etc")).is_err() || !cgroup_root().join("etc").exists());
    });
}

/// The directory of a container's cgroup, before there is one.
fn made_before(bundle: &Bundle<'_>) -> PathBuf {
    let own = bundle.scratch.cgroup().join("c1");
    fs::create_dir(&own).unwrap();
    own
}

/// They would be limited, stopped and killed with the container.
#[test]
fn a_cgroup_with_others_in_it_is_refused_and_left_alone() {
    require_root!();
    with_bundle("cgroup-occupied", |bundle| {
        let own = made_before(bundle);
        let below = own.join("below");
        fs::create_dir(&below).unwrap();
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(below.join("cgroup.procs"), other.id().to_string()).unwrap();
        bundle.set("/hooks", json!({ "poststop": [telling(bundle, "poststop")] }));
        for run in [Bundle::run_as_it_is, Bundle::create_as_it_is] {
            let finished = run(bundle);
            let words = "container's cgroup is not empty: 1 process(es) found";
            assert!(finished.err.contains(words) && finished.code == Some(1), "{finished:?}");
            bundle.fails("state", &["c1"]);
            assert_eq!(other.try_wait().unwrap(), None, "it was ended");
        }
        assert_eq!(said(bundle), "", "nothing was there that hooks could be told of");
        bundle.set("/hooks", json!({}));
        // Who is about to go is waited for.
        let kill = format!("sleep 0.3; kill -9 {}", other.id());
        let mut killer = Command::new("sh").args(["-c", &kill]).spawn().unwrap();
        assert_eq!(bundle.say("echo ran"), "ran\n");
        killer.wait().unwrap();
        other.wait().unwrap();
    });
}

/// Its process would never do anything, and its maker wait for it.
#[test]
fn a_cgroup_that_stands_still_is_refused() {
    require_root!();
    with_each("cgroup-frozen", |bundle, runtime| {
        if runtime == Runtime::Crun {
            return;
        }
        let own = made_before(bundle);
        let refused = |bundle: &mut Bundle<'_>, frozen: &Path| {
            fs::write(frozen.join("cgroup.freeze"), "1").unwrap();
            let finished = bundle.create_as_it_is();
            assert!(
                finished.err.contains("container's cgroup unexpectedly frozen") && finished.code == Some(1),
                "{finished:?}"
            );
            assert_eq!(fs::read_to_string(frozen.join("cgroup.freeze")).unwrap(), "1\n");
        };
        refused(bundle, &own);
        fs::remove_dir(&own).unwrap();
        if runtime == Runtime::Ours {
            let above = bundle.scratch.cgroup();
            refused(bundle, &above);
            assert!(!own.exists());
            fs::write(above.join("cgroup.freeze"), "0").unwrap();
        }
    });
}
