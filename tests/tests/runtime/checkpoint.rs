//! `checkpoint` and `restore`, with the machine's own CRIU.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tests::{Need, eventually, require, require_root};

use crate::bundle::{Bundle, Finished, PATIENCE, link, with_bundle};
use crate::hooks::{hook, said, telling};

/// CRIU asks the kernel for what it needs; a release that is older than the kernel may find it wanting.
pub(crate) const CRIU: Need<'_> = Need::Success(&["criu", "check"]);

/// The host's network: older CRIUs can't write newer kernels' network namespaces down.
pub(crate) fn share_network(bundle: &mut Bundle<'_>) {
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "network");
}

/// Counts in the container's memory, and shows it in a file of its own.
pub(crate) const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.1; done";

pub(crate) fn count(bundle: &Bundle<'_>) -> u64 {
    let text = fs::read_to_string(bundle.rootfs().join("count")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn detach(command: &mut Command) {
    let status = command
        .arg("--detach")
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .status();
    assert!(status.unwrap().success(), "{command:?}");
}

fn run(bundle: &mut Bundle<'_>) {
    share_network(bundle);
    bundle.set("/process/args", json!(["sh", "-c", COUNT]));
    detach(&mut bundle.command("c1"));
    eventually(PATIENCE, "it counts", || count(bundle) > 2);
}

fn images(bundle: &Bundle<'_>) -> PathBuf {
    bundle.dir().join("images")
}

fn checkpoint(bundle: &Bundle<'_>, flags: &[&str]) -> Finished {
    let (images, work) = (images(bundle), bundle.dir().join("work"));
    let paths = [
        "--image-path",
        images.to_str().unwrap(),
        "--work-path",
        work.to_str().unwrap(),
    ];
    let finished = bundle.verb("checkpoint", &[&paths, flags, &["c1"]].concat());
    if finished.code != Some(0) {
        show_log(&work.join("dump.log"));
    }
    finished
}

/// Its end, for whoever reads of the failure.
fn show_log(log: &Path) {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    eprintln!("{}", lines[lines.len().saturating_sub(30)..].join("\n"));
}

fn restore(bundle: &Bundle<'_>) -> Command {
    let mut command = bundle.oci("restore");
    command
        .arg("--image-path")
        .arg(images(bundle))
        .arg("--bundle")
        .arg(bundle.dir())
        .arg("c1");
    command
}

#[test]
fn a_container_goes_on_where_it_was() {
    require!(Need::Root, CRIU);
    with_bundle("checkpoint", |bundle| {
        bundle.file("data/file", "bound");
        bundle.file("rootfs/key", "secret");
        bundle.mount("bind", "data", "/data", &["bind"]);
        fs::create_dir(bundle.rootfs().join("real")).unwrap();
        link(&bundle.rootfs(), "link", "/real");
        bundle.mount("bind", "data", "/link", &["bind"]);
        bundle.set("/linux/maskedPaths", json!(["/proc/keys", "/proc/acpi", "/key"]));
        run(bundle);
        let finished = checkpoint(bundle, &["--manage-cgroups-mode", "soft"]);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        bundle.fails("state", &["c1"]);
        let before = count(bundle);
        fs::write(bundle.rootfs().join("count"), "0").unwrap();
        let pid = bundle.dir().join("pid");
        detach(restore(bundle).arg("--pid-file").arg(&pid));
        eventually(PATIENCE, "it goes on", || count(bundle) > before);
        assert_eq!(bundle.status(), "running");
        assert_eq!(
            fs::read_to_string(&pid).unwrap(),
            bundle.state_of("c1")["pid"].to_string()
        );
        let seen = bundle.ok(
            "exec",
            &["c1", "sh", "-c", "cat /data/file /real/file /key; cat /proc/1/cgroup"],
        );
        assert!(
            seen.starts_with("boundbound") && seen.contains("0::/") && !seen.contains("secret"),
            "{seen}"
        );
        let procs = fs::read_to_string(bundle.scratch.cgroup().join("c1/cgroup.procs")).unwrap();
        assert!(
            procs.lines().any(|line| line == fs::read_to_string(&pid).unwrap()),
            "{procs}"
        );
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn what_was_added_to_a_restored_container_is_written_down_with_it() {
    require!(Need::Root, CRIU);
    with_bundle("checkpoint-again", |bundle| {
        run(bundle);
        for round in 0..2 {
            let finished = checkpoint(bundle, &[]);
            assert_eq!(finished.code, Some(0), "{round}: {finished:?}");
            detach(&mut restore(bundle));
            let added =
                "sleep 4242 < /dev/null > /dev/null 2>&1 & for of in self 1; do readlink /proc/$of/ns/time; done";
            let clocks = bundle.ok("exec", &["c1", "sh", "-c", added]);
            let (own, inits) = clocks.split_once('\n').unwrap();
            assert_eq!(own, inits.trim_end(), "{round}");
            let there = bundle.ok("exec", &["c1", "sh", "-c", "ps | grep -c 'sleep [4]242'"]);
            assert_eq!(there.trim(), (round + 1).to_string());
        }
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn a_container_that_is_left_running_is_as_before() {
    require!(Need::Root, CRIU);
    with_bundle("checkpoint-leave", |bundle| {
        run(bundle);
        let finished = checkpoint(bundle, &["--leave-running", "--file-locks", "--tcp-established"]);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let before = count(bundle);
        eventually(PATIENCE, "it goes on", || count(bundle) > before);
        // The memory alone, for a later checkpoint to continue; or a kernel that can't, and is named.
        let first = checkpoint(bundle, &["--pre-dump"]);
        assert!(
            first.code == Some(0) || first.err.contains("does not track changes of memory"),
            "{first:?}"
        );
        assert_eq!(bundle.status(), "running");
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn a_restored_container_has_the_streams_of_who_restores_it() {
    require!(Need::Root, CRIU);
    with_bundle("checkpoint-streams", |bundle| {
        share_network(bundle);
        let container =
            bundle.start("echo up; trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done");
        eventually(PATIENCE, "it counts", || container.said().contains("\n3\n"));
        let finished = checkpoint(bundle, &[]);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let before = container.said().lines().count();
        container.wait();
        let open = || File::options().append(true).open(bundle.dir().join("out")).unwrap();
        let mut restored = restore(bundle).stdout(open()).stderr(Stdio::inherit()).spawn().unwrap();
        let said = || fs::read_to_string(bundle.dir().join("out")).unwrap();
        eventually(PATIENCE, "it goes on", || said().lines().count() > before + 2);
        let numbers: Vec<u64> = said().lines().skip(1).map(|line| line.parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
        kill(Pid::from_raw(restored.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        assert_eq!(restored.wait().unwrap().code(), Some(7));
    });
}

#[test]
fn a_checkpoint_that_can_not_be_made_or_restored_leaves_nothing() {
    require_root!();
    with_bundle("checkpoint-none", |bundle| {
        bundle.create(COUNT);
        assert!(
            checkpoint(bundle, &[])
                .err
                .contains("cannot checkpoint a container in the created state")
        );
        bundle.ok("delete", &["--force", "c1"]);
        for (flags, word) in [
            (&["--lazy-pages"][..], "--lazy-pages is not supported"),
            (&["--page-server", "127.0.0.1:1"], "--page-server is not supported"),
            (&["--manage-cgroups-mode", "some"], "\"some\" is no mode"),
            (&["--parent-path", "/p"], "must be relative"),
            (&["--empty-ns", "uts"], "only network"),
        ] {
            let finished = checkpoint(bundle, flags);
            assert!(finished.err.contains(word), "{finished:?}");
        }
        bundle.file("config.json", &bundle.config.to_string());
        bundle.file("images/descriptors.json", "[]");
        let without = Finished::of(restore(bundle).env("PATH", "/nowhere"));
        assert!(without.err.contains("start criu(8)"), "{without:?}");
        let finished = Finished::of(&mut restore(bundle));
        assert_eq!(finished.code, Some(1), "{finished:?}");
        bundle.fails("state", &["c1"]);
        assert!(bundle.has("bin/busybox"), "the root filesystem is as it was");
    });
}

/// At its last steps: when all is there but the processes, when they run, and when their maker is to tell of them.
#[test]
fn a_restore_that_fails_late_takes_back_what_it_has_made() {
    require!(Need::Root, CRIU);
    with_bundle("restore-late", |bundle| {
        share_network(bundle);
        bundle.set("/process/args", json!(["sh", "-c", COUNT]));
        // For CRIU a pipe is like any other.
        let mut made = bundle.command("c1");
        let mut made = detached(&mut made).spawn().unwrap();
        assert!(made.wait().unwrap().success());
        eventually(PATIENCE, "it counts", || count(bundle) > 2);
        let finished = checkpoint(bundle, &[]);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let nowhere = bundle.dir().join("nowhere/pid");
        let pid_file = ["--pid-file", nowhere.to_str().unwrap()];
        let last = || telling(bundle, "poststop");
        let failing = |moment: &str| json!({ moment: [hook("exit 3")], "poststop": [last()] });
        for (hooks, flags, words) in [
            (failing("createRuntime"), &[][..], "error running createRuntime hook #0"),
            (failing("poststart"), &[], "error running poststart hook #0"),
            (json!({ "poststop": [last()] }), &pid_file, "nowhere/pid"),
        ] {
            let mut config = bundle.config.clone();
            config["hooks"] = hooks;
            bundle.file("config.json", &config.to_string());
            bundle.file("said", "");
            let refused = detached(restore(bundle).args(flags)).output().unwrap();
            let error = String::from_utf8(refused.stderr).unwrap();
            assert!(
                refused.status.code() == Some(1) && error.contains(words),
                "{words}: {error}"
            );
            bundle.fails("state", &["c1"]);
            assert!(!bundle.scratch.cgroup().join("c1").exists(), "{words}");
            assert_eq!(said(bundle), "poststop stopped\n", "{words}");
        }
        bundle.file("config.json", &bundle.config.to_string());
        let before = count(bundle);
        let mut restored = detached(&mut restore(bundle)).spawn().unwrap();
        assert!(restored.wait().unwrap().success());
        eventually(PATIENCE, "it goes on", || count(bundle) > before);
        bundle.ok("delete", &["--force", "c1"]);
    });
}

fn detached(command: &mut Command) -> &mut Command {
    command.arg("--detach").stdout(Stdio::null()).stderr(Stdio::piped())
}
