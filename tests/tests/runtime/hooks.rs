//! `hooks`: when they run, where, and what becomes of a container whose hooks fail.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};
use tests::{eventually, require_root};

use crate::bundle::{Bundle, PATIENCE, with_bundle};
use crate::peer::{Runtime, with_each};

/// A hook that runs a shell script of the host.
pub(crate) fn hook(script: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] })
}

pub(crate) fn said(bundle: &Bundle<'_>) -> String {
    fs::read_to_string(bundle.dir().join("said")).unwrap_or_default()
}

/// A hook that adds its name and the status that it was told to the file `said` of the bundle.
pub(crate) fn telling(bundle: &Bundle<'_>, name: &str) -> Value {
    let file = bundle.dir().join("said");
    let script = format!(
        "s=$(sed 's/.*\"status\": *\"\\([a-z]*\\)\".*/\\1/' | tr -d '\\n'); echo {name} $s >> {}",
        file.display()
    );
    hook(&script)
}

#[test]
fn hooks_run_in_the_order_of_the_specification_and_are_told_the_state() {
    require_root!();
    with_each("hooks-order", |bundle, runtime| {
        let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
        let mut hooks: serde_json::Map<String, Value> = kinds
            .iter()
            .map(|kind| ((*kind).to_owned(), json!([telling(bundle, kind)])))
            .collect();
        // It is a program of the container's, and sees its files.
        let inside = json!({ "path": "/bin/sh", "args": ["sh", "-c", "cat > /told; echo $$ > /ran-hook"], "env": ["PATH=/bin"] });
        hooks.insert("startContainer".into(), json!([inside]));
        bundle.set("/hooks", hooks.into());
        bundle.create("test -f /ran-hook && touch /after-hook; sleep 1000");
        let created = said(bundle);
        let names: Vec<_> = created.lines().filter_map(|line| line.split(' ').next()).collect();
        // runc 1.1 runs poststart at the end of create (runc#4347).
        let expected: &[&str] = if runtime == Runtime::Runc { &["poststart"] } else { &[] };
        let expected = [&["prestart", "createRuntime", "createContainer"], expected].concat();
        assert_eq!(names, expected, "{created}");
        assert!(!bundle.has("ran-hook"), "startContainer has run before the start");
        bundle.ok("start", &["c1"]);
        // The peers' hooks run when start has returned.
        if runtime == Runtime::Ours {
            assert!(bundle.has("ran-hook"));
        }
        eventually(PATIENCE, "the program knows of the hook", || bundle.has("after-hook"));
        let told: Value = serde_json::from_str(&fs::read_to_string(bundle.rootfs().join("told")).unwrap()).unwrap();
        assert_eq!(told["id"], "c1");
        // crun names the root of the container.
        assert!(
            told["bundle"] == json!(bundle.dir()) || runtime == Runtime::Crun,
            "{told}"
        );
        bundle.ok("delete", &["--force", "c1"]);
        let all = said(bundle);
        if runtime == Runtime::Ours {
            let expected = "prestart created\ncreateRuntime creating\ncreateContainer creating\npoststart running\npoststop stopped\n";
            assert_eq!(all, expected);
        }
        assert_eq!(all.lines().count(), 5, "{all}");
    });
}

#[test]
fn of_starts_at_once_one_runs_the_hooks_and_the_others_are_refused() {
    require_root!();
    with_bundle("hooks-starts", |bundle| {
        let inside =
            json!({ "path": "/bin/sh", "args": ["sh", "-c", "sleep 0.5; echo >> /ran"], "env": ["PATH=/bin"] });
        let hooks = json!({ "startContainer": [inside], "poststart": [telling(bundle, "poststart")] });
        bundle.set("/hooks", hooks);
        bundle.create("sleep 1000");
        let start = || bundle.oci("start").arg("c1").stderr(Stdio::piped()).spawn().unwrap();
        let ended = [start(), start(), start()].map(|child| child.wait_with_output().unwrap());
        assert_eq!(
            ended.iter().filter(|output| output.status.success()).count(),
            1,
            "{ended:?}"
        );
        for refused in ended.iter().filter(|output| !output.status.success()) {
            let error = String::from_utf8_lossy(&refused.stderr);
            assert!(error.contains("running"), "{error}");
        }
        assert_eq!(fs::read_to_string(bundle.rootfs().join("ran")).unwrap(), "\n");
        assert_eq!(said(bundle), "poststart running\n");
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn hooks_before_the_change_of_root_see_the_mounts_and_change_them() {
    require_root!();
    with_each("hooks-mounts", |bundle, _| {
        bundle.set("/root/readonly", json!(true));
        let (root, kept) = (bundle.rootfs(), bundle.file("kept", "from the host\n"));
        fs::write(root.join("file"), "").unwrap();
        let root = root.display();
        // As the GPU vendors' hooks do it: into the container's /dev, from its own mount namespace.
        let script = format!(
            "grep -q ' {root}/dev ' /proc/self/mountinfo && touch {root}/dev/gpu && mount --bind {} {root}/file",
            kept.display()
        );
        bundle.set("/hooks", json!({ "createContainer": [hook(&script)] }));
        bundle.set(
            "/process/args",
            json!([
                "sh",
                "-c",
                "ls /dev/gpu; cat /file; touch /x 2>/dev/null || echo read-only; ls / | wc -l"
            ]),
        );
        let finished = bundle.run_as_it_is();
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(
            finished.out.starts_with("/dev/gpu\nfrom the host\nread-only\n"),
            "{finished:?}"
        );
    });
}

#[test]
fn hooks_before_the_start_begin_in_the_bundle_and_in_the_root() {
    require_root!();
    with_each("hooks-cwd", |bundle, runtime| {
        if runtime == Runtime::Crun {
            // 1.8 has the second in another place.
            return;
        }
        let file = bundle.dir().join("said");
        let telling = hook(&format!("pwd -P >> {}", file.display()));
        // As it stands in a test of runc's: by a path from the root to be.
        let making = hook("touch ./bin/made");
        bundle.set(
            "/hooks",
            json!({ "prestart": [telling], "createRuntime": [telling], "createContainer": [telling, making] }),
        );
        bundle.create("sleep 1000");
        let (directory, root) = (bundle.dir(), bundle.rootfs());
        let (directory, root) = (directory.display(), root.display());
        assert_eq!(said(bundle), format!("{directory}\n{directory}\n{root}\n"));
        assert!(bundle.rootfs().join("bin/made").exists());
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn a_container_whose_hook_fails_before_the_start_is_not_there() {
    require_root!();
    for kind in ["prestart", "createRuntime", "createContainer"] {
        with_each("hooks-fail", |bundle, runtime| {
            bundle.set(
                "/hooks",
                json!({ kind: [hook("echo so sad >&2; exit 3")], "poststop": [telling(bundle, "poststop")] }),
            );
            bundle.set("/process/args", json!(["true"]));
            bundle.file("config.json", &bundle.config.to_string());
            let dir = bundle.dir();
            let error = bundle.fails("create", &["--bundle", dir.to_str().unwrap(), "c1"]);
            bundle.fails("state", &["c1"]);
            if runtime == Runtime::Ours {
                assert!(
                    error.contains(&format!("error running {kind} hook #0:")) && error.contains("so sad"),
                    "{error}"
                );
                assert!(!bundle.scratch.cgroup().join("c1").exists());
                assert_eq!(said(bundle), "poststop stopped\n");
            }
            bundle.verb("delete", &["--force", "c1"]);
        });
    }
}

#[test]
fn a_hook_that_fails_at_the_start_or_after_it_ends_the_container() {
    require_root!();
    with_bundle("hooks-start", |bundle| {
        let failing = json!({ "path": "/bin/sh", "args": ["sh", "-c", "exit 4"] });
        bundle.set("/hooks", json!({ "startContainer": [failing] }));
        bundle.create("touch /ran; sleep 1000");
        assert!(
            bundle
                .fails("start", &["c1"])
                .contains("error running startContainer hook #0: /bin/sh: it ended with 4")
        );
        bundle.becomes("stopped");
        assert!(!bundle.has("ran"));
        bundle.ok("delete", &["c1"]);
        bundle.set(
            "/hooks",
            json!({ "poststart": [hook("exit 5"), telling(bundle, "second")], "poststop": [hook("exit 6")] }),
        );
        bundle.create("touch /ran; sleep 1000");
        let error = bundle.fails("start", &["c1"]);
        assert!(
            error.contains("error running poststart hook #0: /bin/sh: it ended with 5"),
            "{error}"
        );
        bundle.becomes("stopped");
        assert_eq!(said(bundle), "", "the first that fails is the last");
        let deleted = bundle.verb("delete", &["-f", "c1"]);
        assert!(
            deleted.code == Some(0)
                && deleted
                    .err
                    .contains("error running poststop hook #0: /bin/sh: it ended with 6"),
            "{deleted:?}"
        );
    });
}

#[test]
fn a_hook_that_takes_too_long_is_ended_with_what_it_started() {
    require_root!();
    // runc and crun leave what the hook has started to itself; runc 1.1 even waits for it.
    with_bundle("hooks-late", |bundle| {
        let mark = format!("{}77", std::process::id());
        let mut late = hook(&format!("sleep {mark} & wait"));
        late["timeout"] = json!(1);
        bundle.set("/hooks", json!({ "createRuntime": [late] }));
        bundle.set("/process/args", json!(["true"]));
        bundle.file("config.json", &bundle.config.to_string());
        let dir = bundle.dir();
        let error = bundle.fails("create", &["--bundle", dir.to_str().unwrap(), "c1"]);
        assert!(error.contains("time-out"), "{error}");
        let left: Vec<_> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| {
                let command = fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()?;
                command.contains(&mark).then_some(command)
            })
            .collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn a_hook_in_the_container_is_confined_as_the_program_is() {
    require_root!();
    with_bundle("hooks-confined", |bundle| {
        bundle.set("/process/user", json!({ "uid": 5, "gid": 6 }));
        bundle.set(
            "/process/capabilities",
            json!({ "bounding": ["CAP_KILL"], "permitted": [], "effective": [] }),
        );
        bundle.set("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW" }));
        bundle.mount("tmpfs", "tmpfs", "/tmp", &["mode=1777"]);
        let path = "/proc/self/status";
        let script = format!("grep -E '^(Uid|Gid|Cap|Seccomp:|NoNew)' {path} > /tmp/hook");
        bundle.set(
            "/hooks",
            json!({ "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"] }] }),
        );
        let out = bundle.say(&format!(
            "grep -E '^(Uid|Gid|Cap|Seccomp:|NoNew)' {path} > /tmp/own; cat /tmp/hook; echo -; cat /tmp/own"
        ));
        let (hook, own) = out.split_once("-\n").unwrap();
        assert!(hook.contains("Uid:\t5") && hook.contains("Seccomp:\t2"), "{hook}");
        assert_eq!(hook, own);
    });
}

#[test]
fn a_hook_in_the_container_is_called_as_its_arguments_say() {
    require_root!();
    with_each("hooks-called", |bundle, _| {
        let hook = json!({ "path": "/bin/busybox", "args": ["touch", "/called"] });
        bundle.set("/hooks", json!({ "startContainer": [hook] }));
        bundle.set("/process/args", json!(["ls", "/called"]));
        let finished = bundle.run_as_it_is();
        assert_eq!(finished.out, "/called\n", "{finished:?}");
    });
}
