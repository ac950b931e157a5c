//! `process`: user, capabilities, limits, directory, environment, terminal.

use std::process::Command;

use serde_json::{Value, json};
use tests::require_root;

use crate::bundle::{Finished, with_bundle};
use crate::peer::{Runtime, with_each};

fn status(said: &str, name: &str) -> String {
    let line = said
        .lines()
        .find(|line| line.starts_with(name))
        .unwrap_or_else(|| panic!("no {name} in {said}"));
    line.split_once(':')
        .unwrap()
        .1
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn user_and_groups_are_those_of_the_spec() {
    require_root!();
    with_bundle("user", |bundle| {
        bundle.set(
            "/process/user",
            json!({ "uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o027 }),
        );
        let said = bundle.say("cat /proc/self/status");
        assert_eq!(status(&said, "Uid"), "1000 1000 1000 1000");
        assert_eq!(status(&said, "Gid"), "1001 1001 1001 1001");
        assert_eq!(status(&said, "Groups"), "7 8");
        assert_eq!(status(&said, "Umask"), "0027");
    });
}

#[test]
fn without_capabilities_in_the_spec_there_are_none() {
    require_root!();
    with_bundle("no-caps", |bundle| {
        let said = bundle.say("cat /proc/self/status");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(&said, set), "0000000000000000", "{set}");
        }
        assert_eq!(status(&said, "NoNewPrivs"), "1");
    });
}

fn capabilities() -> Value {
    json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    })
}

#[test]
fn each_capability_set_is_its_own() {
    require_root!();
    with_bundle("caps", |bundle| {
        bundle.set("/process/capabilities", capabilities());
        // As another user than root only the ambient ones survive the exec; the sets are shown by that user's shell.
        bundle.set("/process/user", json!({ "uid": 5, "gid": 5 }));
        let said = bundle.say("cat /proc/self/status");
        assert_eq!(status(&said, "CapBnd"), "0000000000002021");
        assert_eq!(status(&said, "CapPrm"), "0000000000000020");
        assert_eq!(status(&said, "CapEff"), "0000000000000020");
        assert_eq!(status(&said, "CapInh"), "0000000000000020");
        assert_eq!(status(&said, "CapAmb"), "0000000000000020");
    });
}

#[test]
fn a_capability_that_we_do_not_hold_is_left_out_and_reported() {
    require_root!();
    with_bundle("lacking-cap", |bundle| {
        bundle.set(
            "/process/capabilities",
            json!({ "bounding": ["CAP_SYS_RESOURCE", "CAP_KILL"] }),
        );
        bundle.set("/process/args", json!(["cat", "/proc/self/status"]));
        let run = bundle.command("c1");
        let mut lacking = Command::new("setpriv");
        lacking.args(["--bounding-set", "-sys_resource", "--"]);
        let finished = Finished::of(lacking.arg(run.get_program()).args(run.get_args()));
        assert_eq!(status(&finished.out, "CapBnd"), "0000000000000020", "{finished:?}");
        assert!(finished.err.contains("CAP_SYS_RESOURCE"), "{finished:?}");
    });
}

#[test]
fn limits_are_set_exactly() {
    require_root!();
    with_bundle("rlimits", |bundle| {
        let limits = json!([
            { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
        ]);
        bundle.set("/process/rlimits", limits);
        let said = bundle.say("sed -n 's/  */ /g; /open files/p; /core/p' /proc/self/limits");
        assert_eq!(said, "Max core file size 0 0 bytes \nMax open files 100 200 files \n");
    });
}

#[test]
fn the_working_directory_is_made() {
    require_root!();
    with_bundle("cwd", |bundle| {
        bundle.set("/process/cwd", json!("/not/there/yet"));
        assert_eq!(bundle.say("pwd"), "/not/there/yet\n");
    });
}

#[test]
fn the_environment_is_that_of_the_spec() {
    require_root!();
    with_bundle("environment", |bundle| {
        bundle.set("/process/env", json!(["PATH=/nowhere:/bin", "A=b c"]));
        bundle.set("/process/args", json!(["env"]));
        let finished = bundle.run_as_it_is();
        assert_eq!(
            finished.out.lines().collect::<Vec<_>>(),
            ["PATH=/nowhere:/bin", "A=b c", "HOME=/"]
        );
    });
}

#[test]
fn home_is_looked_up_in_the_containers_own_passwd() {
    require_root!();
    with_bundle("home", |bundle| {
        let etc = bundle.rootfs().join("etc");
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(
            etc.join("passwd"),
            "root:x:0:0::/root:/bin/sh\nme:x:5:5::/home/me:/bin/sh\n",
        )
        .unwrap();
        assert_eq!(bundle.say("echo $HOME"), "/root\n");
        bundle.set("/process/user", json!({ "uid": 5, "gid": 5 }));
        assert_eq!(bundle.say("echo $HOME"), "/home/me\n");
        bundle.set("/process/user", json!({ "uid": 6, "gid": 5 }));
        assert_eq!(bundle.say("echo $HOME"), "/\n");
    });
}

#[test]
fn signals_start_with_their_default_action() {
    require_root!();
    with_bundle("signal-state", |bundle| {
        // Not by a shell, which ignores some itself.
        bundle.set("/process/args", json!(["cat", "/proc/self/status"]));
        let said = bundle.run_as_it_is();
        for set in ["SigBlk", "SigIgn", "SigCgt"] {
            assert_eq!(status(&said.out, set), "0000000000000000", "{set}");
        }
    });
}

#[test]
fn the_oom_score_is_raised_or_its_refusal_reported() {
    require_root!();
    with_bundle("oom-score", |bundle| {
        bundle.set("/process/oomScoreAdj", json!(500));
        assert_eq!(bundle.say("cat /proc/self/oom_score_adj"), "500\n");
        bundle.set("/process/oomScoreAdj", json!(-500));
        let finished = bundle.run("cat /proc/self/oom_score_adj");
        assert_eq!(finished.code, Some(0));
        assert!(
            finished.out == "-500\n" || finished.err.contains("oomScoreAdj: -500"),
            "{finished:?}"
        );
    });
}

#[test]
fn a_terminal_is_the_containers_own_and_its_console() {
    require_root!();
    with_bundle("terminal", |bundle| {
        bundle.set("/process/terminal", json!(true));
        bundle.set("/process/consoleSize", json!({ "height": 33, "width": 77 }));
        bundle.set("/process/user", json!({ "uid": 5, "gid": 5 }));
        let said = bundle.say("readlink /proc/self/fd/0; test -t 1 && test -t 2 && stat -c %u /dev/pts/0; busybox stty size; echo hello > /dev/tty; test -c /dev/console");
        assert_eq!(said.replace('\r', ""), "/dev/pts/0\n5\n33 77\nhello\n");
    });
}

#[test]
fn lines_of_a_terminal_in_the_foreground_end_as_the_program_ends_them() {
    require_root!();
    // Only ours: runc wants a terminal itself, crun leaves the lines as the container's terminal makes them.
    with_bundle("terminal-lines", |bundle| {
        bundle.set("/process/terminal", json!(true));
        bundle.set("/process/args", json!(["echo", "a"]));
        for _ in 0..5 {
            assert_eq!(bundle.run_as_it_is().out, "a\n");
        }
    });
}

#[test]
fn a_capability_that_nobody_knows_is_left_out_and_reported() {
    require_root!();
    with_each("unknown-cap", |bundle, runtime| {
        let names = json!(["CAP_KILL", "CAP_FLY"]);
        bundle.set(
            "/process/capabilities",
            json!({ "bounding": names, "permitted": names }),
        );
        bundle.set("/process/args", json!(["cat", "/proc/self/status"]));
        let finished = bundle.run_as_it_is();
        assert_eq!(status(&finished.out, "CapBnd"), "0000000000000020", "{finished:?}");
        assert!(
            runtime == Runtime::Crun
                || finished
                    .err
                    .contains("ignoring unknown or unavailable capabilities: [CAP_FLY]"),
            "{finished:?}"
        );
    });
}
