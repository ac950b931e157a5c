//! Images and specs that try to reach the host: refused or kept inside.

use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, io};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tests::require_root;

use crate::bundle::{link, with_bundle};

#[test]
fn a_linked_proc_sys_or_dev_is_refused() {
    require_root!();
    for name in ["proc", "sys", "dev"] {
        with_bundle("linked", |bundle| {
            fs::create_dir_all(bundle.rootfs().join("elsewhere")).unwrap();
            link(&bundle.rootfs(), name, "/elsewhere");
            let finished = bundle.run("true");
            assert_eq!(finished.code, Some(1), "{finished:?}");
            let on = format!("on /{name}, for mounts[");
            assert!(
                finished.err.contains(&on) && finished.err.contains("symbolic link"),
                "{finished:?}"
            );
        });
    }
}

#[test]
fn the_target_of_a_mount_is_found_inside_the_root() {
    require_root!();
    with_bundle("mount-target", |bundle| {
        let outside = bundle.scratch.input().join("outside");
        fs::create_dir_all(&outside).unwrap();
        bundle.file("data/file", "content");
        link(&bundle.rootfs(), "absolute", outside.to_str().unwrap());
        fs::create_dir_all(bundle.rootfs().join("etc")).unwrap();
        link(&bundle.rootfs(), "relative", "../../../../../../../../../../etc");
        bundle.mount("bind", "data", "/relative/data", &["bind"]);
        bundle.mount("bind", "data", "/relative/../../up", &["bind"]);
        assert_eq!(bundle.say("cat /etc/data/file /up/file"), "contentcontent");
        assert!(!std::path::Path::new("/etc/data").exists());

        bundle.mount("bind", "data", "/absolute/data", &["bind"]);
        let finished = bundle.run("true");
        assert_eq!(
            finished.code,
            Some(1),
            "a dangling link is no place to mount on: {finished:?}"
        );
        assert_eq!(
            fs::read_dir(&outside).unwrap().count(),
            0,
            "the host's directory was touched"
        );
    });
}

#[test]
fn magic_links_of_proc_lead_nowhere() {
    require_root!();
    with_bundle("magic-links", |bundle| {
        for fd in 0..20 {
            bundle.set("/process/cwd", json!(format!("/proc/self/fd/{fd}")));
            let finished = bundle.run("pwd");
            assert_eq!(finished.code, Some(1), "{finished:?}");
        }
        bundle.set("/process/cwd", json!("/"));
        bundle.file("data/file", "content");
        link(&bundle.rootfs(), "through", "/proc/self/cwd");
        bundle.mount("bind", "data", "/through", &["bind"]);
        assert_eq!(bundle.run("true").code, Some(1));
    });
}

#[test]
fn a_linked_working_directory_stays_inside() {
    require_root!();
    with_bundle("linked-cwd", |bundle| {
        fs::create_dir_all(bundle.rootfs().join("etc")).unwrap();
        link(&bundle.rootfs(), "work", "../../../../etc");
        bundle.set("/process/cwd", json!("/work"));
        assert_eq!(bundle.say("readlink /proc/self/cwd; ls"), "/etc\n");
    });
}

/// CVE-2021-30465: another container of the pod swaps the target of a mount, in a volume that both have, for a link.
#[test]
fn a_target_that_is_swapped_for_a_link_meanwhile_stays_inside() {
    require_root!();
    with_bundle("swapped", |bundle| {
        let outside = bundle.scratch.input().join("outside");
        fs::create_dir_all(&outside).unwrap();
        bundle.file("secret/file", "secret");
        let volume = bundle.dir().join("volume");
        fs::create_dir_all(volume.join("target")).unwrap();
        link(&volume, "link", outside.to_str().unwrap());
        bundle.mount("bind", "volume", "/volume", &["bind"]);
        bundle.mount("bind", "secret", "/volume/target/below", &["bind"]);
        let (target, other, is_over) = (volume.join("target"), volume.join("link"), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = renameat2(AT_FDCWD, &target, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE);
                }
            });
            let all: Vec<_> = (0..20).map(|_| bundle.run("true")).collect();
            is_over.store(true, Ordering::Relaxed);
            for finished in all {
                assert!(matches!(finished.code, Some(0 | 1)), "{finished:?}");
            }
        });
        assert_eq!(
            fs::read_dir(&outside).unwrap().count(),
            0,
            "the host's directory was touched"
        );
    });
}

/// CVE-2019-5736: who gets hold of the file of the program that made the container may wait until it is not busy.
#[test]
fn the_runtimes_own_program_can_not_be_overwritten() {
    require_root!();
    with_bundle("overwrite", |bundle| {
        // A file of its own, which no other test executes: a program that runs can't be written to anyway.
        let copy = bundle.dir().join("orlop-oci");
        assert!(
            Command::new("cp")
                .arg(&bundle.program)
                .arg(&copy)
                .status()
                .unwrap()
                .success()
        );
        bundle.program = copy;
        let container = bundle.start("trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done");
        let path = format!("/proc/{}/exe", container.runtime_pid());
        let program = fs::OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_PATH)
            .open(path)
            .unwrap();
        kill(Pid::from_raw(container.runtime_pid()), Signal::SIGTERM).unwrap();
        assert_eq!(container.wait(), Some(0));
        let error = fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    });
}

#[test]
fn masking_does_not_trust_the_images_null() {
    require_root!();
    with_bundle("linked-null", |bundle| {
        fs::write(bundle.rootfs().join("bait"), "bait").unwrap();
        fs::write(bundle.rootfs().join("key"), "secret").unwrap();
        bundle.file("dev/null", "bait");
        bundle.set(
            "/mounts/1",
            json!({ "destination": "/dev", "type": "bind", "source": "dev", "options": ["bind"] }),
        );
        bundle.set("/linux/maskedPaths", json!(["/key"]));
        assert_eq!(bundle.say("cat /key; stat -c '%F' /key"), "character special file\n");
    });
}
