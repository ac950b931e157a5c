//! `linux.seccomp` on the real kernel.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tests::require_root;

use crate::bundle::{Finished, with_bundle};

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
            finished.err.contains("SCMP_ARCH_X86"),
            "what is stricter is reported: {finished:?}"
        );
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
