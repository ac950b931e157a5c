//! From create to the exit code: success, failure, signals, and nothing left behind.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tests::{Need, require, require_root};

use crate::bundle::{Finished, with_bundle};

#[test]
fn the_exit_code_of_the_program_is_the_runtimes() {
    require_root!();
    with_bundle("exit-code", |bundle| {
        assert_eq!(bundle.run("exit 7").code, Some(7));
        assert_eq!(bundle.run("true").code, Some(0));
        assert_eq!(bundle.run("sh -c 'kill -9 $$'; exit $?").code, Some(137));
    });
}

#[test]
fn streams_are_the_callers() {
    require_root!();
    with_bundle("streams", |bundle| {
        let finished = bundle.run("echo out; echo err >&2");
        assert_eq!((finished.out.as_str(), finished.err.as_str()), ("out\n", "err\n"));
    });
}

#[test]
fn a_signal_to_the_runtime_reaches_the_program() {
    require_root!();
    with_bundle("signals", |bundle| {
        let container = bundle.start("trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done");
        kill(Pid::from_raw(container.runtime_pid()), Signal::SIGTERM).unwrap();
        assert_eq!(container.wait(), Some(9));
    });
}

#[test]
fn a_killed_container_shows_as_128_and_the_signal() {
    require_root!();
    with_bundle("killed", |bundle| {
        let container = bundle.start("echo up; sleep 100");
        kill(Pid::from_raw(container.pid()), Signal::SIGKILL).unwrap();
        assert_eq!(container.wait(), Some(137));
    });
}

#[test]
fn a_program_that_is_not_there_is_127_and_one_that_is_none_126() {
    require_root!();
    with_bundle("exec-errors", |bundle| {
        fs::write(bundle.rootfs().join("text"), "text").unwrap();
        for (program, code) in [("nothing", 127), ("/bin/nothing", 127), ("/text", 126), ("/bin", 126)] {
            bundle.set("/process/args", json!([program]));
            let finished = bundle.run_as_it_is();
            assert_eq!(finished.code, Some(code), "{finished:?}");
            assert!(
                finished
                    .err
                    .contains(&format!("the program {program:?}, for process.args")),
                "{finished:?}"
            );
        }
    });
}

#[test]
fn a_container_id_is_taken_once() {
    require_root!();
    with_bundle("same-id", |bundle| {
        let container = bundle.start("trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done");
        let second = Finished::of(&mut bundle.command("c1"));
        assert_eq!(second.code, Some(1));
        assert!(second.err.contains("already exists"), "{second:?}");
        kill(Pid::from_raw(container.runtime_pid()), Signal::SIGTERM).unwrap();
        assert_eq!(container.wait(), Some(0));
    });
}

#[test]
fn the_bundle_of_runc_spec_runs_as_it_is() {
    require!(Need::Root, Need::Tool("runc"));
    with_bundle("runc-spec", |bundle| {
        let made = Finished::of(std::process::Command::new("runc").arg("spec").current_dir(bundle.dir()));
        assert_eq!(made.code, Some(0), "{made:?}");
        let text = fs::read_to_string(bundle.dir().join("config.json")).unwrap();
        bundle.config = serde_json::from_str(&text).unwrap();
        bundle.set(
            "/linux/cgroupsPath",
            json!(format!("{}/runc", bundle.scratch.cgroup_parent())),
        );
        bundle.set(
            "/process/args",
            json!(["sh", "-c", "id; test -t 0 && test -c /dev/console; exit $((40 + $?))"]),
        );
        let finished = bundle.run_as_it_is();
        assert_eq!(finished.code, Some(40), "{finished:?}");
        assert!(finished.out.contains("uid=0"), "{finished:?}");
    });
}

#[test]
fn a_directory_alone_names_the_bundle() {
    require_root!();
    with_bundle("positional", |bundle| {
        bundle.set("/process/args", json!(["echo", "here"]));
        bundle.command("unused");
        let finished = Finished::of(bundle.oci("run").arg(bundle.dir()));
        assert_eq!(
            (finished.code, finished.out.as_str()),
            (Some(0), "here\n"),
            "{finished:?}"
        );
    });
}

#[test]
fn no_descriptor_of_the_caller_reaches_the_program() {
    require_root!();
    with_bundle("descriptors", |bundle| {
        bundle.set("/process/args", json!(["sh", "-c", "ls /proc/1/fd; true"]));
        let run = format!("exec 7</etc/passwd 9</; exec \"$@\" {}", "");
        let mut command = std::process::Command::new("sh");
        let inner = bundle.command("c1");
        command
            .arg("-c")
            .arg(run)
            .arg("sh")
            .arg(inner.get_program())
            .args(inner.get_args());
        let finished = Finished::of(&mut command);
        assert_eq!(finished.out, "0\n1\n2\n", "{finished:?}");
    });
}
