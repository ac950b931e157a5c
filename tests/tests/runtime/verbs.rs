//! The life of a container verb by verb, as containerd, conmon and CRI-O call them.

use std::fs;

use serde_json::{Value, json};
use tests::{eventually, require_root};

use crate::bundle::{Bundle, Finished, PATIENCE, with_bundle};
use crate::peer::{Runtime, with_each};

impl Bundle<'_> {
    /// A verb with its arguments, to its end. A detached container keeps the streams, so that they are files.
    pub(crate) fn verb(&self, verb: &str, arguments: &[&str]) -> Finished {
        let [out, err] = ["verb.out", "verb.err"].map(|name| self.file(name, ""));
        let open = |path: &std::path::Path| fs::File::options().append(true).open(path).unwrap();
        let mut command = self.oci(verb);
        let status = command
            .args(arguments)
            .stdout(open(&out))
            .stderr(open(&err))
            .status()
            .unwrap();
        let text = |path| fs::read_to_string(path).unwrap();
        Finished {
            code: status.code(),
            out: text(out),
            err: text(err),
        }
    }

    /// As [`Bundle::verb`], and it must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, verb: &str, arguments: &[&str]) -> String {
        let finished = self.verb(verb, arguments);
        assert_eq!(finished.code, Some(0), "{verb} {arguments:?}: {finished:?}");
        finished.out
    }

    /// As [`Bundle::verb`], and it must fail. Returns what it complained about.
    #[track_caller]
    pub(crate) fn fails(&self, verb: &str, arguments: &[&str]) -> String {
        let finished = self.verb(verb, arguments);
        assert!(
            finished.code.is_some_and(|code| code != 0),
            "{verb} {arguments:?}: {finished:?}"
        );
        finished.err
    }

    /// Makes container `c1` of a script. Says what it did to `said` in the root.
    #[track_caller]
    pub(crate) fn create(&mut self, script: &str) {
        self.set("/process/args", json!(["sh", "-c", script]));
        let created = self.create_as_it_is();
        assert_eq!(created.code, Some(0), "create: {created:?}");
    }

    /// Makes container `c1` of the configuration as it is, or is refused.
    pub(crate) fn create_as_it_is(&mut self) -> Finished {
        self.file("config.json", &self.config.to_string());
        let dir = self.dir();
        self.verb("create", &["--bundle", dir.to_str().unwrap(), "c1"])
    }

    pub(crate) fn state_of(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok("state", &[id])).unwrap()
    }

    pub(crate) fn status(&self) -> String {
        self.state_of("c1")["status"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn becomes(&self, status: &str) {
        eventually(PATIENCE, &format!("the container is {status}"), || {
            self.status() == status
        });
    }

    /// Whether a file is in the root.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.rootfs().join(name).exists()
    }
}

const FOR_EVER: &str = "touch /ran; trap 'exit 3' TERM; while :; do sleep 0.1; done";

#[test]
fn a_container_is_created_started_killed_and_deleted() {
    require_root!();
    with_each("life", |bundle, runtime| {
        bundle.set("/annotations", json!({ "a.b": "c" }));
        bundle.create(FOR_EVER);
        let state = bundle.state_of("c1");
        assert_eq!(state["status"], "created");
        assert_eq!(state["id"], "c1");
        assert_eq!(state["bundle"], bundle.dir().to_str().unwrap());
        assert_eq!(state["annotations"], json!({ "a.b": "c" }));
        assert!(state["pid"].as_u64().unwrap() > 1 && state["ociVersion"].as_str().unwrap().starts_with("1."));
        assert!(!bundle.has("ran"), "the program runs before the start");
        bundle.ok("start", &["c1"]);
        assert_eq!(bundle.status(), "running");
        eventually(PATIENCE, "the program runs", || bundle.has("ran"));
        bundle.ok("kill", &["c1", "KILL"]);
        bundle.becomes("stopped");
        bundle.ok("delete", &["c1"]);
        assert!(bundle.fails("state", &["c1"]).contains(runtime.words_for_none()));
    });
}

#[test]
fn a_verb_that_does_not_fit_the_state_is_refused() {
    require_root!();
    with_each("wrong-state", |bundle, runtime| {
        bundle.create(FOR_EVER);
        let dir = bundle.dir();
        assert!(
            bundle
                .fails("create", &["--bundle", dir.to_str().unwrap(), "c1"])
                .contains("exist")
        );
        bundle.ok("start", &["c1"]);
        bundle.fails("start", &["c1"]);
        bundle.fails("delete", &["c1"]);
        // crun 1.8 says that it can't resume only since 1.9.
        if runtime != Runtime::Crun {
            bundle.fails("resume", &["c1"]);
        }
        bundle.ok("kill", &["c1", "9"]);
        bundle.becomes("stopped");
        let refused = bundle.fails("kill", &["c1", "9"]);
        // crun says "kill container: No such process", which containerd knows, too.
        assert!(
            refused.contains("container not running") || runtime == Runtime::Crun,
            "{refused}"
        );
        bundle.fails("exec", &["c1", "true"]);
        bundle.fails("start", &["c1"]);
        bundle.ok("delete", &["c1"]);
        for verb in ["start", "kill", "delete", "state", "ps", "pause", "resume"] {
            assert!(bundle.fails(verb, &["c1"]).contains(runtime.words_for_none()), "{verb}");
        }
    });
}

#[test]
fn delete_force_ends_what_runs_and_does_not_mind_what_is_not_there() {
    require_root!();
    with_each("delete-force", |bundle, runtime| {
        bundle.create("sleep 1000");
        bundle.ok("start", &["c1"]);
        let pid = bundle.state_of("c1")["pid"].as_u64().unwrap();
        bundle.ok("delete", &["--force", "c1"]);
        let lives = fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        // crun does not wait for the end.
        assert!(!lives || runtime == Runtime::Crun);
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn a_container_that_was_never_started_is_deleted_without_force() {
    require_root!();
    with_each("delete-created", |bundle, runtime| {
        bundle.create("sleep 1000");
        // crun wants force for it.
        let arguments: &[&str] = if runtime == Runtime::Crun {
            &["-f", "c1"]
        } else {
            &["c1"]
        };
        bundle.ok("delete", arguments);
    });
}

#[test]
fn signals_have_numbers_and_names() {
    require_root!();
    with_each("signals", |bundle, runtime| {
        let traps = "for s in 1 10 12; do trap \"echo $s >> /got\" $s; done; touch /ran; while :; do sleep 0.1; done";
        bundle.create(traps);
        bundle.ok("start", &["c1"]);
        eventually(PATIENCE, "the program runs", || bundle.has("ran"));
        for (signal, count) in [("1", 1), ("USR1", 2), ("SIGUSR2", 3)] {
            bundle.ok("kill", &["c1", signal]);
            let got = || fs::read_to_string(bundle.rootfs().join("got")).unwrap_or_default();
            eventually(PATIENCE, "the signal arrives", || got().lines().count() == count);
        }
        assert_eq!(fs::read_to_string(bundle.rootfs().join("got")).unwrap(), "1\n10\n12\n");
        // crun 1.8 takes a name that it does not know for signal 0.
        if runtime != Runtime::Crun {
            assert!(!bundle.fails("kill", &["c1", "NOTHING"]).is_empty());
        }
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn a_program_that_is_not_there_is_known_at_create() {
    require_root!();
    with_each("no-program", |bundle, _| {
        bundle.set("/process/args", json!(["nothing"]));
        bundle.file("config.json", &bundle.config.to_string());
        let dir = bundle.dir();
        let error = bundle
            .fails("create", &["--bundle", dir.to_str().unwrap(), "c1"])
            .to_lowercase();
        assert!(error.contains("not found") || error.contains("no such file"), "{error}");
        bundle.verb("delete", &["--force", "c1"]);
    });
}

#[test]
fn containers_are_listed() {
    require_root!();
    with_each("list", |bundle, _| {
        bundle.create("sleep 1000");
        assert_eq!(bundle.ok("list", &["-q"]), "c1\n");
        let json: Value = serde_json::from_str(&bundle.ok("list", &["--format", "json"])).unwrap();
        let [only] = json.as_array().unwrap().as_slice() else {
            panic!("{json}")
        };
        assert_eq!(
            (&only["id"], &only["status"], &only["owner"]),
            (&json!("c1"), &json!("created"), &json!("root"))
        );
        let table = bundle.ok("list", &[]);
        let words: Vec<_> = table.split_whitespace().take(9).collect();
        assert_eq!(words[1..4], ["PID", "STATUS", "BUNDLE"]);
        assert!(table.lines().nth(1).unwrap().starts_with("c1 "), "{table}");
        bundle.ok("delete", &["--force", "c1"]);
        assert_eq!(bundle.ok("list", &["-q"]), "");
    });
}

#[test]
fn processes_are_listed() {
    require_root!();
    with_each("ps", |bundle, runtime| {
        if runtime == Runtime::Crun {
            // Without a cgroup it has nothing to list.
            return;
        }
        bundle.create("sleep 1000 & touch /ran; wait");
        bundle.ok("start", &["c1"]);
        eventually(PATIENCE, "the program runs", || bundle.has("ran"));
        let pids: Vec<u64> = serde_json::from_str(&bundle.ok("ps", &["--format", "json", "c1"])).unwrap();
        assert_eq!(pids.len(), 2);
        assert!(pids.contains(&bundle.state_of("c1")["pid"].as_u64().unwrap()));
        if tests::Need::Tool("ps").missing().is_none() {
            let table = bundle.ok("ps", &["c1"]);
            assert!(table.contains("sleep 1000") && table.lines().count() == 3, "{table}");
        }
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn a_paused_container_stands_still_and_takes_no_exec() {
    require_root!();
    with_each("pause", |bundle, runtime| {
        if runtime == Runtime::Crun {
            return;
        }
        bundle.create("while :; do echo x >> /ticks; done");
        bundle.ok("start", &["c1"]);
        eventually(PATIENCE, "the program runs", || bundle.has("ticks"));
        bundle.ok("pause", &["c1"]);
        assert_eq!(bundle.status(), "paused");
        let size = || fs::metadata(bundle.rootfs().join("ticks")).unwrap().len();
        let before = size();
        let error = bundle.fails("exec", &["c1", "true"]);
        assert!(error.contains("cannot exec in a paused container"), "{error}");
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(size(), before);
        bundle.ok("resume", &["c1"]);
        assert_eq!(bundle.status(), "running");
        eventually(PATIENCE, "it goes on", || size() > before);
        bundle.ok("pause", &["c1"]);
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn kill_all_reaches_every_process() {
    require_root!();
    with_each("kill-all", |bundle, runtime| {
        if runtime == Runtime::Crun {
            return;
        }
        // Each of the two writes its own line when it is told.
        let script = "sh -c 'trap \"echo child >> /got\" USR1; touch /ran; while :; do sleep 0.1; done' & \
                      trap 'echo init >> /got' USR1; while :; do sleep 0.1; done";
        bundle.create(script);
        bundle.ok("start", &["c1"]);
        eventually(PATIENCE, "the program runs", || bundle.has("ran"));
        let got = || fs::read_to_string(bundle.rootfs().join("got")).unwrap_or_default();
        // A sleep that is hit between two rounds ends the round early, and that is all.
        bundle.ok("kill", &["--all", "c1", "USR1"]);
        eventually(PATIENCE, "both are told", || {
            got().contains("init") && got().contains("child")
        });
        bundle.ok("kill", &["-a", "c1", "KILL"]);
        bundle.becomes("stopped");
        bundle.ok("delete", &["c1"]);
    });
}

#[test]
fn what_a_container_without_pids_of_its_own_leaves_behind_is_killed() {
    require_root!();
    with_bundle("kill-rest", |bundle| {
        bundle.set("/linux/namespaces", json!([{ "type": "mount" }, { "type": "uts" }]));
        bundle.create("sleep 1000 & echo $! > /left");
        bundle.ok("start", &["c1"]);
        bundle.becomes("stopped");
        let left = fs::read_to_string(bundle.rootfs().join("left")).unwrap();
        let lives = || {
            let command = fs::read(format!("/proc/{}/cmdline", left.trim())).unwrap_or_default();
            command.starts_with(b"sleep")
        };
        eventually(PATIENCE, "it has become what it is to be", lives);
        assert!(bundle.fails("kill", &["c1", "TERM"]).contains("container not running"));
        bundle.ok("kill", &["c1", "KILL"]);
        eventually(PATIENCE, "nothing of it is left", || !lives());
        // A process leaves its cgroup a moment after its memory.
        eventually(PATIENCE, "its cgroup is empty", || {
            bundle.verb("kill", &["c1", "KILL"]).code != Some(0)
        });
        assert!(bundle.fails("kill", &["c1", "KILL"]).contains("container not running"));
        bundle.ok("delete", &["c1"]);
    });
}

#[test]
fn processes_are_added_to_a_container_that_waits_or_runs() {
    require_root!();
    with_each("exec-verbs", |bundle, _| {
        bundle.create(FOR_EVER);
        assert_eq!(
            bundle.ok("exec", &["c1", "sh", "-c", "echo $$ > /before; echo in"]),
            "in\n"
        );
        assert_eq!(bundle.status(), "created", "an exec has started the container");
        assert!(!bundle.has("ran"));
        bundle.ok("start", &["c1"]);
        let process = json!({
            "args": ["sh", "-c", "echo $A; pwd; id -u; exit 9"], "env": ["A=b", "PATH=/bin"], "cwd": "/bin",
            "user": { "uid": 5, "gid": 6 },
        });
        let file = bundle.file("process.json", &process.to_string());
        let finished = bundle.verb("exec", &["--process", file.to_str().unwrap(), "c1"]);
        assert_eq!(
            (finished.code, finished.out.as_str()),
            (Some(9), "b\n/bin\n5\n"),
            "{finished:?}"
        );
        let pid_file = bundle.dir().join("exec.pid");
        let flags = [
            "--detach",
            "--pid-file",
            pid_file.to_str().unwrap(),
            "c1",
            "sh",
            "-c",
            "touch /execd; sleep 1000",
        ];
        bundle.ok("exec", &flags);
        eventually(PATIENCE, "the detached process runs", || bundle.has("execd"));
        let pid = fs::read_to_string(&pid_file).unwrap();
        let command = || fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        eventually(PATIENCE, "it sleeps", || command().starts_with("sleep"));
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn an_exec_with_a_capability_has_it_as_ambient_where_others_are_inheritable() {
    require_root!();
    with_bundle("exec-ambient", |bundle| {
        let kill = json!(["CAP_KILL"]);
        let both = json!(["CAP_KILL", "CAP_SYS_NICE"]);
        bundle.set(
            "/process/capabilities",
            json!({ "bounding": both, "permitted": kill, "effective": kill, "inheritable": both, "ambient": kill }),
        );
        bundle.create(FOR_EVER);
        bundle.ok("start", &["c1"]);
        for (flags, ambient) in [(&[][..], 1 << 5), (&["--cap", "SYS_NICE"], 1 << 5 | 1 << 23)] {
            let status = bundle.ok(
                "exec",
                &[flags, &["c1", "grep", "CapAmb", "/proc/self/status"]].concat(),
            );
            assert_eq!(status, format!("CapAmb:\t{ambient:016x}\n"), "{flags:?}");
        }
        bundle.ok("delete", &["--force", "c1"]);
    });
}

/// As systemd does in a container, which turns controllers on for cgroups below the container's and goes to one of them.
#[test]
fn an_exec_goes_where_the_containers_cgroup_takes_it_no_more() {
    require_root!();
    with_bundle("exec-follows", |bundle| {
        bundle.create(FOR_EVER);
        bundle.ok("start", &["c1"]);
        let init = bundle.state_of("c1")["pid"].to_string();
        let own = bundle.scratch.cgroup().join("c1");
        let cgroup_of_exec = |bundle: &Bundle<'_>| bundle.ok("exec", &["c1", "cat", "/proc/self/cgroup"]);
        let below = own.join("below");
        fs::create_dir(&below).unwrap();
        fs::write(below.join("cgroup.procs"), &init).unwrap();
        assert!(cgroup_of_exec(bundle).contains("0::/\n"), "it still takes processes");
        let controllers = fs::read_to_string(own.join("cgroup.controllers")).unwrap();
        if let Some(name) = controllers
            .split_whitespace()
            .find(|name| ["memory", "hugetlb"].contains(name))
        {
            let control = own.join("cgroup.subtree_control");
            eventually(PATIENCE, "nobody is left in it", || {
                fs::write(&control, format!("+{name}"))
            });
            assert!(cgroup_of_exec(bundle).contains("0::/below\n"));
            let error = bundle.fails("exec", &["--cgroup", "/", "c1", "true"]);
            assert!(error.contains("busy"), "{error}");
            fs::write(&control, format!("-{name}")).unwrap();
        }
        let beside = bundle.scratch.cgroup().join("beside");
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("cgroup.procs"), &init).unwrap();
        for gone in [&below, &own] {
            eventually(PATIENCE, "the cgroup is empty", || fs::remove_dir(gone).is_ok());
        }
        assert!(cgroup_of_exec(bundle).contains("/beside\n"));
        bundle.ok("delete", &["--force", "c1"]);
        eventually(PATIENCE, "the cgroup is empty", || fs::remove_dir(&beside).is_ok());
    });
}

#[test]
fn an_exec_has_what_its_flags_say() {
    require_root!();
    with_bundle("exec-flags", |bundle| {
        bundle.set("/process/noNewPrivileges", json!(false));
        bundle.set(
            "/process/capabilities",
            json!({ "bounding": ["CAP_KILL"], "permitted": [], "effective": [] }),
        );
        bundle.create(FOR_EVER);
        bundle.ok("start", &["c1"]);
        let status = |flags: &[&str]| bundle.ok("exec", &[flags, &["c1", "cat", "/proc/self/status"]].concat());
        let line = |status: &str, name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let plain = status(&[]);
        assert_eq!(
            (line(&plain, "CapEff:"), line(&plain, "NoNewPrivs:")),
            ("0000000000000020".into(), "0".into())
        );
        let flagged = status(&[
            "--cap",
            "CAP_SYS_NICE",
            "--no-new-privs",
            "-g",
            "7",
            "--additional-gids",
            "8",
        ]);
        assert_eq!(line(&flagged, "CapEff:"), format!("{:016x}", 1 << 23));
        assert_eq!(line(&flagged, "CapInh:"), "0000000000000000", "CVE-2022-29162");
        assert_eq!(line(&flagged, "CapAmb:"), "0000000000000000");
        assert_eq!(
            (line(&flagged, "NoNewPrivs:"), line(&flagged, "Groups:")),
            ("1".into(), "7 8".into())
        );
        let own = bundle.scratch.cgroup().join("c1");
        fs::create_dir(own.join("below")).unwrap();
        let cgroup = bundle.ok("exec", &["--cgroup", "below", "c1", "cat", "/proc/self/cgroup"]);
        assert!(cgroup.contains("0::/below\n"), "{cgroup}");
        for outside in ["../c1", "/../x"] {
            assert!(
                bundle
                    .fails("exec", &["--cgroup", outside, "c1", "true"])
                    .contains("--cgroup")
            );
        }
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn errors_reach_the_log_in_runcs_shape() {
    require_root!();
    with_each("log", |bundle, runtime| {
        let log = bundle.dir().join("log");
        let flags = ["--log", log.to_str().unwrap(), "--log-format", "json"].map(String::from);
        bundle.around.1.extend(flags);
        bundle.fails("state", &["nobody"]);
        let text = fs::read_to_string(&log).unwrap();
        let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(line["level"], "error");
        assert!(
            line["msg"].as_str().unwrap().contains(runtime.words_for_none()),
            "{line}"
        );
        assert!(line["time"].as_str().unwrap().contains('T'), "{line}");
    });
}

#[test]
fn the_version_names_program_and_specification() {
    with_bundle("version", |bundle| {
        let version = bundle.ok("--version", &[]);
        let lines: Vec<_> = version.lines().collect();
        assert!(
            lines[0].starts_with("orlop-oci version ") && lines[1] == "spec: 1.3.0",
            "{version}"
        );
    });
}

#[test]
fn a_process_number_that_is_used_again_is_not_believed() {
    require_root!();
    with_bundle("reused-pid", |bundle| {
        bundle.create("sleep 1000");
        bundle.ok("start", &["c1"]);
        let path = bundle.state().join("c1/state.json");
        let record = fs::read_to_string(&path).unwrap();
        let mut other: Value = serde_json::from_str(&record).unwrap();
        other["init"]["startTime"] = json!(other["init"]["startTime"].as_u64().unwrap() - 1);
        fs::write(&path, other.to_string()).unwrap();
        assert_eq!(bundle.status(), "stopped");
        assert!(bundle.fails("kill", &["c1"]).contains("not running"));
        assert!(bundle.fails("exec", &["c1", "true"]).contains("not running"));
        fs::write(&path, record).unwrap();
        assert_eq!(bundle.status(), "running");
        bundle.ok("delete", &["-f", "c1"]);
    });
}

#[test]
fn a_record_of_another_version_is_refused() {
    require_root!();
    with_bundle("other-version", |bundle| {
        bundle.create("sleep 1000");
        let path = bundle.state().join("c1/state.json");
        let record = fs::read_to_string(&path).unwrap();
        fs::write(&path, record.replace("\"version\":1", "\"version\":9")).unwrap();
        assert!(bundle.fails("state", &["c1"]).contains("version 9"));
        fs::write(&path, record).unwrap();
        bundle.ok("delete", &["c1"]);
    });
}

#[test]
fn a_container_without_a_process_waits_and_is_never_started() {
    require_root!();
    with_bundle("no-process", |bundle| {
        bundle.config.as_object_mut().unwrap().remove("process");
        bundle.file("config.json", &bundle.config.to_string());
        let dir = bundle.dir();
        bundle.ok("create", &["--bundle", dir.to_str().unwrap(), "c1"]);
        let error = bundle.fails("start", &["c1"]);
        assert!(
            error.contains("process: is missing: there is nothing to start"),
            "{error}"
        );
        assert_eq!(bundle.status(), "created");
        let process = json!({ "args": ["cat", "/proc/sys/kernel/hostname"], "env": ["PATH=/bin"], "cwd": "/" });
        let process = bundle.file("process.json", &process.to_string());
        assert_eq!(
            bundle.ok("exec", &["--process", process.to_str().unwrap(), "c1"]),
            "box\n"
        );
        bundle.ok("kill", &["c1", "KILL"]);
        eventually(PATIENCE, "it ends", || bundle.status() == "stopped");
        bundle.ok("delete", &["c1"]);
        let error = bundle.fails("run", &["--bundle", dir.to_str().unwrap(), "c1"]);
        assert!(error.contains("nothing to start"), "{error}");
    });
}
