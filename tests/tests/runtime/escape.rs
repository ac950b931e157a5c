//! Images and specs that try to reach the host: refused or kept inside.

use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::{fs, io};

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

/// CVE-2019-5736: who gets hold of the file of the program that made the container may wait until it is not busy.
#[test]
fn the_runtimes_own_program_can_not_be_overwritten() {
    require_root!();
    with_bundle("overwrite", |bundle| {
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
