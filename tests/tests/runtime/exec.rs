//! `exec`: one more process, in everything like the container's first one.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tests::{eventually, require_root};

use crate::bundle::{Background, Bundle, Finished, PATIENCE, with_bundle};

pub(crate) fn exec(bundle: &Bundle<'_>, arguments: &[&str]) -> Finished {
    Finished::of(bundle.oci("exec").args(arguments))
}

pub(crate) fn with_running(
    name: &str,
    prepare: impl FnOnce(&mut Bundle<'_>),
    test: impl FnOnce(&Bundle<'_>, &Background),
) {
    with_bundle(name, |bundle| {
        prepare(bundle);
        let container = bundle.start("trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done");
        test(bundle, &container);
        kill(Pid::from_raw(container.runtime_pid()), Signal::SIGTERM).unwrap();
        assert_eq!(container.wait(), Some(0));
    });
}

#[test]
fn a_process_is_in_the_containers_namespaces_root_and_cgroup() {
    require_root!();
    with_running(
        "exec-inside",
        |_| {},
        |bundle, container| {
            let script =
                "cd /proc/self/ns; for n in pid net ipc uts mnt cgroup; do readlink $n; done; cat /proc/self/cgroup";
            let inside = exec(bundle, &["c1", "sh", "-c", script]);
            let link = |name| fs::read_link(format!("/proc/{}/ns/{name}", container.pid())).unwrap();
            for (name, line) in ["pid", "net", "ipc", "uts", "mnt", "cgroup"]
                .iter()
                .zip(inside.out.lines())
            {
                assert_eq!(link(name).to_str(), Some(line), "{inside:?}");
            }
            assert!(inside.out.ends_with("0::/\n"), "{inside:?}");
        },
    );
}

#[test]
fn a_process_that_nobody_can_be_told_of_is_ended() {
    require_root!();
    with_running(
        "exec-untold",
        |_| {},
        |bundle, _| {
            let quietly = "exec sleep 1000 > /dev/null 2>&1";
            let flags = ["--detach", "--pid-file", "/not/there/pid"];
            let added = exec(bundle, &[&flags[..], &["c1", "sh", "-c", quietly]].concat());
            assert_eq!(added.code, Some(255), "{added:?}");
            assert!(added.err.contains("/not/there/pid"), "{added:?}");
            eventually(PATIENCE, "it has ended", || {
                !exec(bundle, &["c1", "ps"]).out.contains("sleep 1000")
            });
        },
    );
}

#[test]
fn it_is_confined_as_the_first_process_is() {
    require_root!();
    let prepare = |bundle: &mut Bundle<'_>| {
        bundle.set("/process/user", json!({ "uid": 5, "gid": 6, "additionalGids": [7] }));
        bundle.set(
            "/process/rlimits",
            json!([{ "type": "RLIMIT_NOFILE", "soft": 99, "hard": 99 }]),
        );
        let capabilities = json!({ "bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"] });
        bundle.set("/process/capabilities", capabilities);
    };
    with_running("exec-confined", prepare, |bundle, container| {
        let keep = |status: &str| -> Vec<String> {
            let names = [
                "Uid",
                "Gid",
                "Groups",
                "Umask",
                "Cap",
                "NoNewPrivs",
                "Seccomp",
                "SigBlk",
                "Max open",
            ];
            let kept = status
                .lines()
                .filter(|line| names.iter().any(|name| line.starts_with(name)));
            kept.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect()
        };
        let first =
            ["status", "limits"].map(|file| fs::read_to_string(format!("/proc/{}/{file}", container.pid())).unwrap());
        let second = exec(bundle, &["c1", "cat", "/proc/self/status", "/proc/self/limits"]);
        assert_eq!(keep(&first.concat()), keep(&second.out), "{second:?}");
    });
}

#[test]
fn code_directory_environment_and_user_are_its_own() {
    require_root!();
    with_running(
        "exec-own",
        |_| {},
        |bundle, _| {
            let script = "pwd; echo $A; id -u; id -g; exit 5";
            let finished = exec(
                bundle,
                &["--cwd", "/bin", "-e", "A=b", "-u", "7:8", "c1", "sh", "-c", script],
            );
            assert_eq!(
                (finished.code, finished.out.as_str()),
                (Some(5), "/bin\nb\n7\n8\n"),
                "{finished:?}"
            );
        },
    );
}

#[test]
fn what_can_not_be_added_is_255() {
    require_root!();
    with_running(
        "exec-errors",
        |_| {},
        |bundle, _| {
            for what in [&["c1", "nothing"][..], &["--pid-file", "/none/pid", "c1", "true"]] {
                assert_eq!(exec(bundle, what).code, Some(255), "{what:?}");
            }
            for fd in 0..12 {
                let refused = exec(bundle, &["--cwd", &format!("/proc/self/fd/{fd}"), "c1", "pwd"]);
                assert_eq!(refused.code, Some(255), "{refused:?}");
            }
            let gone = exec(bundle, &["c2", "true"]);
            assert!(
                gone.code == Some(255) && gone.err.contains("container \"c2\": container does not exist"),
                "{gone:?}"
            );
        },
    );
}

#[test]
fn it_may_have_a_terminal() {
    require_root!();
    with_running(
        "exec-terminal",
        |_| {},
        |bundle, _| {
            let finished = exec(
                bundle,
                &["-t", "c1", "sh", "-c", "test -t 0 && readlink /proc/self/fd/0"],
            );
            assert_eq!(
                (finished.code, finished.out.trim()),
                (Some(0), "/dev/pts/0"),
                "{finished:?}"
            );
        },
    );
}

#[test]
fn it_gets_no_descriptor_but_its_streams() {
    require_root!();
    with_running(
        "exec-fds",
        |_| {},
        |bundle, _| {
            let finished = exec(bundle, &["c1", "sh", "-c", "ls /proc/$$/fd; true"]);
            assert_eq!(finished.out, "0\n1\n2\n", "{finished:?}");
        },
    );
}
