//! `linux.seccomp` on the real kernel.

use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::{Need, eventually, require, require_root};

use crate::bundle::{Bundle, Finished, PATIENCE, with_bundle};
use crate::peer::with_each;

#[test]
fn a_profile_older_than_the_runtimes_own_calls_is_no_hindrance() {
    require_root!();
    with_bundle("seccomp-old", |bundle| {
        let young = [
            "close_range",
            "openat2",
            "open_tree",
            "move_mount",
            "mount_setattr",
            "fsopen",
        ];
        let rules = json!([{ "names": young, "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }]);
        bundle.set(
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules }),
        );
        for no_new_privileges in [true, false] {
            bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
            assert_eq!(bundle.say("echo ran"), "ran\n");
        }
    });
}

#[test]
fn a_forbidden_call_fails_with_the_errno_of_the_profile() {
    require_root!();
    with_bundle("seccomp-errno", |bundle| {
        let rules = json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }]);
        bundle.set(
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules }),
        );
        for no_new_privileges in [true, false] {
            bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
            let said = bundle.say("mkdir /x 2>&1 | grep -c 'No space'; grep Seccomp: /proc/self/status");
            assert_eq!(said, "1\nSeccomp:\t2\n");
        }
    });
}

#[test]
fn an_argument_decides() {
    require_root!();
    with_bundle("seccomp-args", |bundle| {
        let argument = json!({ "index": 1, "value": 10, "op": "SCMP_CMP_EQ" });
        let rules = json!([{ "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [argument] }]);
        bundle.set(
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules }),
        );
        let said = bundle.say("trap : USR1 USR2; kill -12 $$ && echo ok; kill -10 $$ || echo refused");
        assert_eq!(said, "ok\nrefused\n");
    });
}

#[test]
fn two_conditions_on_one_argument_are_alternatives() {
    require_root!();
    with_each("seccomp-alternatives", |bundle, _| {
        let is = |value: u32| json!({ "index": 1, "value": value, "op": "SCMP_CMP_EQ" });
        let rules = json!([{ "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [is(10), is(12)] }]);
        bundle.set(
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules }),
        );
        let said = bundle.say("trap : USR1 USR2 HUP; for s in 10 12 1; do kill -$s $$ && echo ok; done; true");
        assert_eq!(said, "ok\n");
    });
}

#[test]
fn an_added_process_is_filtered_too() {
    require_root!();
    with_bundle("seccomp-exec", |bundle| {
        let rules = json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }]);
        bundle.set(
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules }),
        );
        let container = bundle.start("trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done");
        let script = "mkdir /x 2>&1; grep Seccomp: /proc/self/status";
        let finished = Finished::of(bundle.oci("exec").args(["c1", "sh", "-c", script]));
        assert!(
            finished.out.contains("not permitted") && finished.out.contains("Seccomp:\t2"),
            "{finished:?}"
        );
        kill(Pid::from_raw(container.runtime_pid()), Signal::SIGTERM).unwrap();
        assert_eq!(container.wait(), Some(0));
    });
}

#[test]
fn what_an_allow_list_does_not_name_is_refused() {
    require_root!();
    with_bundle("seccomp-list", |bundle| {
        let rules = json!([{ "names": calls(), "action": "SCMP_ACT_ALLOW" }]);
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": rules,
        });
        bundle.set("/linux/seccomp", profile);
        let finished = bundle.run("mkdir /x || echo refused");
        assert!(finished.out.ends_with("refused\n"), "{finished:?}");
        assert!(
            !finished.err.contains("SCMP_ARCH"),
            "nothing is stricter than the profile: {finished:?}"
        );
    });
}

#[test]
fn each_action_is_what_it_says() {
    require_root!();
    for (action, expected) in [
        (json!({ "action": "SCMP_ACT_ERRNO", "errnoRet": 17 }), "1 exists"),
        (json!({ "action": "SCMP_ACT_KILL" }), "159"),
        (json!({ "action": "SCMP_ACT_KILL_THREAD" }), "159"),
        (json!({ "action": "SCMP_ACT_KILL_PROCESS" }), "159"),
        (json!({ "action": "SCMP_ACT_TRAP" }), "159"),
        // Nobody traces.
        (json!({ "action": "SCMP_ACT_TRACE" }), "1 not implemented"),
        (json!({ "action": "SCMP_ACT_LOG" }), "0"),
        (json!({ "action": "SCMP_ACT_ALLOW" }), "0"),
    ] {
        with_bundle("seccomp-action", |bundle| {
            let mut rule = action.clone();
            rule["names"] = json!(["mkdir", "mkdirat"]);
            let flags = [
                "SECCOMP_FILTER_FLAG_LOG",
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                "SECCOMP_FILTER_FLAG_TSYNC",
            ];
            bundle.set(
                "/linux/seccomp",
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule], "flags": flags }),
            );
            let said =
                bundle.say("sh -c 'mkdir /x; exit $?' 2>/err; echo $? $(grep -oiE 'exists|not implemented' /err)");
            assert_eq!(said.trim().to_lowercase(), expected, "{action}");
        });
    }
}

fn asking(bundle: &mut Bundle<'_>) -> UnixListener {
    let path = bundle.dir().join("listener");
    let _ = fs::remove_file(&path);
    let socket = UnixListener::bind(&path).unwrap();
    let rules = json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }]);
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules, "listenerPath": path, "listenerMetadata": "whatever",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
    });
    bundle.set("/linux/seccomp", profile);
    bundle.set("/annotations", json!({ "a": "b" }));
    socket
}

/// What a listener is told, and the number of the descriptor by which it decides.
fn told(socket: &UnixListener) -> (Value, RawFd) {
    let (connection, _) = socket.accept().unwrap();
    let (mut text, mut listener) = (Vec::new(), None);
    loop {
        let mut buffer = [0; 4096];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let mut control = nix::cmsg_space!([RawFd; 1]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(connection.as_raw_fd(), &mut slices, Some(&mut control), flags).unwrap();
        for part in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(numbers) = part {
                listener = numbers.first().copied();
            }
        }
        let length = message.bytes;
        if length == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..length]);
    }
    let number = listener.unwrap();
    let name = fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
    assert_eq!(name.to_str(), Some("anon_inode:seccomp notify"));
    (serde_json::from_slice(&text).unwrap(), number)
}

/// Whoever decides goes away here without an answer: then the kernel answers that there is no such call.
#[test]
fn a_listener_decides_about_init_and_added_processes() {
    require_root!();
    for no_new_privileges in [true, false] {
        with_bundle("seccomp-notify", |bundle| {
            let socket = asking(bundle);
            bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
            let script = "trap 'exit 0' TERM; echo up; mkdir /x 2>&1; echo done; while :; do sleep 0.1; done";
            let container = bundle.start(script);
            let (state, number) = told(&socket);
            let pid = container.pid();
            assert_eq!(state["fds"], json!(["seccompFd"]));
            assert_eq!((&state["metadata"], &state["pid"]), (&json!("whatever"), &json!(pid)));
            let inner = &state["state"];
            assert_eq!(
                (&inner["id"], &inner["status"], &inner["pid"]),
                (&json!("c1"), &json!("creating"), &json!(pid))
            );
            assert_eq!(
                (&inner["bundle"], &inner["annotations"]["a"]),
                (&json!(bundle.dir()), &json!("b"))
            );
            assert!(!container.said().contains("done"), "the call waits for an answer");
            nix::unistd::close(number).unwrap();
            eventually(PATIENCE, "the call is answered", || container.said().contains("done\n"));
            assert!(container.said().contains("not implemented"), "{}", container.said());

            let added = bundle
                .oci("exec")
                .args(["c1", "mkdir", "/x"])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let (state, number) = told(&socket);
            assert_eq!(
                (&state["state"]["status"], &state["state"]["pid"]),
                (&json!("running"), &json!(pid))
            );
            assert_ne!(state["pid"], json!(pid));
            nix::unistd::close(number).unwrap();
            let added = added.wait_with_output().unwrap();
            assert!(
                String::from_utf8_lossy(&added.stderr).contains("not implemented"),
                "{added:?}"
            );
            kill(Pid::from_raw(container.runtime_pid()), Signal::SIGTERM).unwrap();
            assert_eq!(container.wait(), Some(0));
        });
    }
}

#[test]
fn a_listener_that_is_not_there_is_an_error() {
    require_root!();
    with_bundle("seccomp-nobody", |bundle| {
        drop(asking(bundle));
        let finished = bundle.run("true");
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.err.contains("for linux.seccomp.listenerPath"), "{finished:?}");
    });
}

/// As the newest runc has it; crun tells whoever listens there of a filter that never asks.
#[test]
fn a_listener_that_nobody_asks_is_reported_and_told_of_nothing() {
    require_root!();
    with_bundle("seccomp-unasked", |bundle| {
        bundle.set(
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/not/there", "listenerMetadata": "x" }),
        );
        let finished = bundle.run("echo ran");
        assert_eq!(
            (finished.code, finished.out.as_str()),
            (Some(0), "ran\n"),
            "{finished:?}"
        );
        assert!(
            finished.err.contains("linux.seccomp.listenerPath: no rule"),
            "{finished:?}"
        );
    });
}

/// Programs of 32 bits have numbers of their own, which a filter for this machine alone would misread.
#[test]
fn the_peer_filters_the_same() {
    require!(Need::Root, Need::Tool("runc"));
    with_bundle("seccomp-peer", |bundle| {
        let argument =
            |op: &str, value: u64, two: u64| json!({ "index": 1, "value": value, "valueTwo": two, "op": op });
        let rule = |names: &[&str], errno: u32, args: Value| json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args });
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                rule(&["mkdir", "mkdirat"], 28, json!([])),
                rule(&["kill"], 3, json!([argument("SCMP_CMP_EQ", 10, 0)])),
                rule(&["kill"], 22, json!([argument("SCMP_CMP_MASKED_EQ", 0xff, 12)])),
                rule(&["kill"], 1, json!([argument("SCMP_CMP_GT", 28, 0)])),
            ],
        });
        bundle.set("/linux/seccomp", profile);
        let script = "trap : USR1 USR2 CONT; for s in 10 12 18 29 31; do kill -$s $$ 2>&1 || echo $s; done; mkdir /x 2>&1; grep Seccomp: /proc/self/status";
        let ours = bundle.run(script).out;
        bundle.program = "runc".into();
        assert_eq!(bundle.run(script).out, ours);
    });
}

/// What a static busybox needs.
fn calls() -> Vec<String> {
    let calls = "read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask \
                 rt_sigreturn ioctl access dup2 getpid fork vfork clone execve exit wait4 uname fcntl getcwd readlink \
                 getuid getgid geteuid getegid setpgid getppid getpgrp arch_prctl set_tid_address exit_group openat \
                 newfstatat readlinkat set_robust_list prlimit64 getrandom rseq clone3 statx faccessat dup writev";
    calls.split_whitespace().map(str::to_owned).collect()
}
