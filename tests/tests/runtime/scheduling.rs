//! Scheduler, I/O priority, CPU affinity, memory policy, personality.

use std::fs;

use serde_json::{Value, json};
use tests::{Need, require, require_root};

use crate::bundle::{Bundle, with_bundle};
use crate::exec::{exec, with_running};

/// Fields of /proc/PID/stat behind the command: the first is the third of proc_pid_stat(5).
fn stat(said: &str, field: usize) -> i64 {
    let (_, fields) = said.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(field - 3).unwrap().parse().unwrap()
}

const NICE: usize = 19;
const PRIORITY: usize = 40;
const POLICY: usize = 41;

#[test]
fn each_policy_and_its_parameters_reach_the_program() {
    require_root!();
    let deadline = json!({ "policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 10_000_000,
                           "period": 10_000_000, "flags": ["SCHED_FLAG_RESET_ON_FORK"] });
    let cases: Vec<(Value, [i64; 3])> = vec![
        (json!({ "policy": "SCHED_OTHER", "nice": 7 }), [7, 0, 0]),
        (json!({ "policy": "SCHED_BATCH", "nice": 3 }), [3, 0, 3]),
        (json!({ "policy": "SCHED_IDLE" }), [0, 0, 5]),
        (json!({ "policy": "SCHED_FIFO", "priority": 10 }), [0, 10, 1]),
        (json!({ "policy": "SCHED_RR", "priority": 11 }), [0, 11, 2]),
        (deadline, [0, 0, 6]),
    ];
    for (scheduler, expected) in cases {
        with_bundle("scheduler", |bundle| {
            bundle.set("/process/scheduler", scheduler.clone());
            // Not by a shell: SCHED_DEADLINE does not let it start anybody.
            bundle.set("/process/args", json!(["cat", "/proc/self/stat"]));
            let finished = bundle.run_as_it_is();
            let is_real_time = expected[2] != 0 && expected[2] != 3 && expected[2] != 5;
            if is_real_time && finished.err.contains("process.scheduler") {
                // A kernel that shares out real time among cgroups gives none to a new one.
                assert!(finished.err.contains("not permitted"), "{finished:?}");
                eprintln!("this kernel refuses {scheduler}: {}", finished.err);
                return;
            }
            assert_eq!(finished.code, Some(0), "{finished:?}");
            let found = [NICE, PRIORITY, POLICY].map(|field| stat(&finished.out, field));
            assert_eq!(found, expected, "{scheduler}");
        });
    }
}

#[test]
fn the_io_priority_reaches_the_program() {
    require_root!();
    with_bundle("ioprio", |bundle| {
        for (class, expected) in [
            ("IOPRIO_CLASS_BE", "best-effort: prio 3"),
            ("IOPRIO_CLASS_RT", "realtime: prio 3"),
            ("IOPRIO_CLASS_IDLE", "idle"),
        ] {
            bundle.set("/process/ioPriority", json!({ "class": class, "priority": 3 }));
            assert_eq!(bundle.say("busybox ionice -p $$").trim(), expected, "{class}");
        }
    });
}

#[test]
fn the_personality_is_that_of_a_machine_with_32_bits() {
    require_root!();
    with_bundle("personality", |bundle| {
        let usual = bundle.say("busybox uname -m");
        bundle.set("/linux/personality", json!({ "domain": "LINUX32" }));
        let narrow = bundle.say("busybox uname -m");
        assert_eq!((usual.trim(), narrow.trim()), ("x86_64", "i686"));
        bundle.set("/linux/personality", json!({ "domain": "LINUX" }));
        assert_eq!(bundle.say("busybox uname -m"), usual);
    });
}

#[test]
fn an_added_process_is_born_on_its_cpus_and_goes_on_with_others() {
    require_root!();
    let prepare = |bundle: &mut Bundle<'_>| {
        bundle.set("/process/execCPUAffinity", json!({ "initial": "0" }));
        bundle.set("/linux/personality", json!({ "domain": "LINUX32" }));
    };
    with_running("affinity", prepare, |bundle, container| {
        let list = |status: &str| {
            let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list"));
            line.unwrap().split_whitespace().last().unwrap().to_owned()
        };
        let init = list(&fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap());
        let ours = list(&fs::read_to_string("/proc/self/status").unwrap());
        assert_eq!(init, ours, "it is for added processes only");
        let added = exec(bundle, &["c1", "cat", "/proc/self/status"]);
        assert_eq!(list(&added.out), ours, "it is begun with them only: {added:?}");
        let mut process = bundle.config["process"].clone();
        process["execCPUAffinity"] = json!({ "initial": "0", "final": ours });
        process["args"] = json!(["cat", "/proc/self/status"]);
        let file = bundle.file("process.json", &process.to_string());
        let added = exec(bundle, &["-p", file.to_str().unwrap(), "c1"]);
        assert_eq!(list(&added.out), ours, "{added:?}");
        let added = exec(bundle, &["c1", "busybox", "uname", "-m"]);
        assert_eq!(added.out.trim(), "i686", "{added:?}");
    });
}

/// A service manager may have given its own to few; a container has what its cgroup has.
#[test]
fn the_cpus_of_who_makes_a_process_are_not_the_processs() {
    require!(Need::Root, Need::Tool("taskset"));
    with_bundle("affinity-reset", |bundle| {
        let script = "grep Cpus_allowed_list /proc/self/status";
        let expected = bundle.say(script);
        bundle.around.0 = ["taskset", "-c", "0"].map(String::from).into();
        assert_eq!(bundle.say(script), expected);
        bundle.create("sleep 1000");
        bundle.ok("start", &["c1"]);
        assert_eq!(bundle.ok("exec", &["c1", "sh", "-c", script]), expected);
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn the_memory_policy_reaches_the_program_or_its_refusal_is_said() {
    require_root!();
    with_bundle("mempolicy", |bundle| {
        bundle.set("/linux/memoryPolicy", json!({ "mode": "MPOL_BIND", "nodes": "0" }));
        let finished = bundle.run("grep -m1 -o bind:0 /proc/self/numa_maps");
        if std::path::Path::new("/proc/self/numa_maps").exists() {
            assert_eq!(finished.out, "bind:0\n", "{finished:?}");
        } else {
            eprintln!("this kernel has no NUMA: only the refusal is seen");
            assert!(finished.err.contains("linux.memoryPolicy"), "{finished:?}");
        }
        bundle.set("/linux/memoryPolicy", json!({ "mode": "MPOL_BIND", "nodes": "1023" }));
        let finished = bundle.run("true");
        assert!(finished.err.contains("linux.memoryPolicy"), "{finished:?}");
    });
}

#[test]
fn an_added_process_has_the_scheduler_of_its_file() {
    require_root!();
    with_running(
        "exec-scheduler",
        |_| {},
        |bundle, _| {
            let mut process = bundle.config["process"].clone();
            process["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"] });
            process["args"] = json!(["cat", "/proc/self/stat"]);
            let file = bundle.file("process.json", &process.to_string());
            let added = exec(bundle, &["-p", file.to_str().unwrap(), "c1"]);
            assert_eq!(added.code, Some(0), "{added:?}");
            assert_eq!([NICE, POLICY].map(|field| stat(&added.out, field)), [3, 3]);
        },
    );
}
