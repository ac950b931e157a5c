//! Root, mounts, devices, masked and read-only paths.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;
use tests::require_root;

use crate::bundle::{link, with_bundle};
use crate::peer::{Runtime, with_each};

#[test]
fn the_hosts_root_is_gone() {
    require_root!();
    with_bundle("pivot", |bundle| {
        let mounts = bundle.say("cut -d' ' -f5 /proc/1/mountinfo");
        let expected = ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"];
        assert_eq!(mounts.lines().collect::<Vec<_>>(), expected);
    });
}

#[test]
fn the_standard_devices_and_links_are_there() {
    require_root!();
    with_bundle("devices", |bundle| {
        let devices = bundle.say("cd /dev; stat -c '%n %t:%T %a' null zero full random urandom tty");
        assert_eq!(
            devices,
            "null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666\n"
        );
        let links = bundle.say("cd /dev; for l in fd stdin stdout stderr ptmx; do readlink $l; done");
        assert_eq!(
            links,
            "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n"
        );
        assert_eq!(bundle.say("echo x > /dev/null; echo again > /dev/stdout"), "again\n");
    });
}

#[test]
fn without_a_dev_mount_there_is_a_fresh_one() {
    require_root!();
    with_bundle("no-dev", |bundle| {
        fs::create_dir_all(bundle.rootfs().join("dev")).unwrap();
        fs::write(bundle.rootfs().join("dev/null"), "from the image").unwrap();
        let mounts = bundle.config["mounts"].as_array().unwrap().iter();
        let mounts = mounts.filter(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        let mounts: Vec<_> = mounts.cloned().collect();
        bundle.set("/mounts", json!(mounts));
        assert_eq!(
            bundle.say("test -c /dev/null && grep ' /dev ' /proc/mounts | cut -d' ' -f1,3"),
            "tmpfs tmpfs\n"
        );
    });
}

#[test]
fn listed_devices_are_made_as_they_are_listed() {
    require_root!();
    with_bundle("own-device", |bundle| {
        let device =
            json!({ "path": "/dev/x/y", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6 });
        bundle.set("/linux/devices", json!([device]));
        assert_eq!(bundle.say("stat -c '%t:%T %a %u:%g' /dev/x/y"), "1:3 640 5:6\n");
    });
}

#[test]
fn a_listed_ptmx_stays_the_link_that_it_is() {
    require_root!();
    with_bundle("own-ptmx", |bundle| {
        let device = json!({ "path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2 });
        bundle.set("/linux/devices", json!([device]));
        assert_eq!(bundle.say("readlink /dev/ptmx"), "pts/ptmx\n");
    });
}

#[test]
fn a_bind_mount_shows_the_hosts_directory_with_its_options() {
    require_root!();
    with_bundle("bind", |bundle| {
        bundle.file("data/file", "content");
        bundle.mount(
            "bind",
            "data",
            "/made/on/the/way",
            &["bind", "ro", "nosuid", "nodev", "noexec"],
        );
        let said = bundle.say(
            "cat /made/on/the/way/file; touch /made/on/the/way/new 2>&1 | grep -c Read-only; grep made /proc/mounts",
        );
        assert!(said.starts_with("content1\n"), "{said}");
        assert!(said.contains(" ro,nosuid,nodev,noexec,"), "{said}");
    });
}

#[test]
fn a_file_is_bound_on_a_file() {
    require_root!();
    with_bundle("bind-file", |bundle| {
        bundle.file("hosts", "127.0.0.1 localhost\n");
        bundle.mount("bind", "hosts", "/etc/hosts", &["rbind", "rprivate"]);
        assert_eq!(bundle.say("cat /etc/hosts"), "127.0.0.1 localhost\n");
    });
}

#[test]
fn what_a_link_to_nothing_names_is_made_inside_the_root() {
    require_root!();
    for (name, target, made) in [
        ("etc/hosts", "/run/a/hosts", "run/a/hosts"),
        ("etc/hosts", "../../../run/hosts", "run/hosts"),
        ("etc/hosts", "../jump/b/hosts", "run/far/b/hosts"),
    ] {
        with_bundle("dangling", |bundle| {
            link(&bundle.rootfs(), "jump", "/run/far");
            link(&bundle.rootfs(), name, target);
            bundle.file("hosts", "127.0.0.1 localhost\n");
            bundle.mount("bind", "hosts", "/etc/hosts", &["bind"]);
            let read = format!("cat /etc/hosts /{made}");
            assert_eq!(bundle.say(&read), "127.0.0.1 localhost\n".repeat(2), "{target}");
            assert!(bundle.rootfs().join(made).is_file(), "{target}");
        });
    }
}

#[test]
fn links_in_a_circle_are_an_error() {
    require_root!();
    with_bundle("circle", |bundle| {
        link(&bundle.rootfs(), "etc/a", "/etc/b");
        link(&bundle.rootfs(), "etc/b", "a");
        bundle.file("hosts", "x");
        bundle.mount("bind", "hosts", "/etc/a", &["bind"]);
        let finished = bundle.run("true");
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(
            finished.err.contains("mounts[") && finished.err.contains("symbolic links"),
            "{finished:?}"
        );
    });
}

#[test]
fn a_tmpfs_has_the_mode_that_it_is_given_or_that_of_what_it_hides() {
    require_root!();
    with_bundle("tmpfs-mode", |bundle| {
        let hidden = bundle.rootfs().join("hidden");
        fs::create_dir(&hidden).unwrap();
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o710)).unwrap();
        bundle.mount("tmpfs", "tmpfs", "/hidden", &[]);
        bundle.mount("tmpfs", "tmpfs", "/new", &[]);
        bundle.mount("tmpfs", "tmpfs", "/given", &["mode=1500"]);
        assert_eq!(bundle.say("stat -c %a /hidden /new /given"), "710\n1777\n1500\n");
    });
}

#[test]
fn a_tmpfs_tells_the_mode_that_it_takes_over_among_its_options() {
    require_root!();
    with_bundle("tmpfs-told-mode", |bundle| {
        let hidden = bundle.rootfs().join("hidden");
        fs::create_dir(&hidden).unwrap();
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o1710)).unwrap();
        bundle.mount("tmpfs", "tmpfs", "/hidden", &["size=1m"]);
        let told = bundle.say("grep ' /hidden ' /proc/mounts | grep -o 'mode=[0-7]*'; stat -c %a /hidden");
        assert_eq!(told, "mode=1710\n1710\n");
    });
}

#[test]
fn a_tmpfs_is_read_only_only_after_what_lies_below_it() {
    require_root!();
    with_bundle("ro-tmpfs", |bundle| {
        bundle.file("data/file", "content");
        bundle.mount("tmpfs", "tmpfs", "/run", &["ro", "size=1m"]);
        bundle.mount("bind", "data", "/run/data", &["bind"]);
        assert_eq!(
            bundle.say("cat /run/data/file; touch /run/x 2>&1 | grep -c Read-only"),
            "content1\n"
        );
    });
}

#[test]
fn a_read_only_root_is_read_only_and_its_mounts_are_not() {
    require_root!();
    with_bundle("ro-root", |bundle| {
        bundle.set("/root/readonly", json!(true));
        bundle.mount("tmpfs", "tmpfs", "/tmp", &[]);
        assert_eq!(
            bundle.say("touch /x 2>&1 | grep -c Read-only; touch /tmp/x && echo ok"),
            "1\nok\n"
        );
    });
}

#[test]
fn masked_paths_are_empty_and_read_only_paths_keep_their_content() {
    require_root!();
    with_bundle("masked", |bundle| {
        fs::create_dir_all(bundle.rootfs().join("secret")).unwrap();
        fs::write(bundle.rootfs().join("secret/file"), "x").unwrap();
        fs::create_dir_all(bundle.rootfs().join("fixed")).unwrap();
        fs::write(bundle.rootfs().join("key"), "x").unwrap();
        bundle.set(
            "/linux/maskedPaths",
            json!([
                "/key",
                "/secret",
                "/proc/acpi",
                "/proc/keys",
                "/not/there",
                "/key",
                "/secret"
            ]),
        );
        bundle.set("/linux/readonlyPaths", json!(["/fixed", "/proc/sys", "/not/there"]));
        assert_eq!(
            bundle.say("cat /key /proc/keys; ls /secret /proc/acpi"),
            "/proc/acpi:\n\n/secret:\n"
        );
        let twice = "for f in key secret; do grep -c \" /$f \" /proc/self/mountinfo; done";
        assert_eq!(bundle.say(twice), "1\n1\n", "listed twice, mounted over once");
        let script = "for d in secret proc/acpi fixed; do touch /$d/x 2>&1 | grep -c Read-only; done; \
                      (echo x > /proc/sys/kernel/domainname) 2>&1 | grep -c Read-only";
        assert_eq!(bundle.say(script), "1\n1\n1\n1\n");
    });
}

#[test]
fn a_mount_of_the_container_is_not_seen_by_the_host() {
    require_root!();
    with_bundle("propagation", |bundle| {
        let seen = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        let before = seen();
        bundle.file("data/sub/file", "");
        bundle.mount("bind", "data", "/data", &["rbind", "rslave"]);
        bundle.set(
            "/process/capabilities",
            json!({ "bounding": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"] }),
        );
        let container = bundle
            .start("mount -t tmpfs none /data/sub || exit 1; trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done");
        assert_eq!(seen(), before);
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(container.runtime_pid()),
            nix::sys::signal::Signal::SIGTERM,
        )
        .unwrap();
        assert_eq!(container.wait(), Some(0));
    });
}

#[test]
fn a_directory_is_made_for_a_mount_where_a_link_to_nothing_ends() {
    require_root!();
    with_each("dangling-directory", |bundle, runtime| {
        link(&bundle.rootfs(), "etc/data", "/var/none/data");
        bundle.file("data/file", "content");
        bundle.mount("bind", "data", "/etc/data", &["bind"]);
        let finished = bundle.run("cat /var/none/data/file");
        // Debian's runc is older than its mend of that, and crun refuses it.
        let expected = if runtime == Runtime::Ours {
            "content"
        } else {
            finished.out.as_str()
        };
        assert_eq!(finished.out, expected, "{finished:?}");
    });
}

#[test]
fn a_part_of_the_container_is_bound_with_what_is_mounted_there_by_then() {
    require_root!();
    with_each("bind-inside", |bundle, runtime| {
        bundle.file("a/file", "a");
        bundle.file("b/file", "b");
        fs::create_dir_all(bundle.dir().join("a/x")).unwrap();
        bundle.mount("bind", "a", "/mnt", &["bind"]);
        bundle.mount("bind", "b", "/mnt/x", &["bind"]);
        let inside = bundle.rootfs().join("mnt");
        bundle.mount("bind", inside.to_str().unwrap(), "/all", &["rbind"]);
        assert_eq!(bundle.say("cat /all/file /all/x/file"), "ab", "{runtime:?}");
    });
}

#[test]
fn a_relative_path_to_be_hidden_or_protected_starts_from_the_root() {
    require_root!();
    with_each("relative-paths", |bundle, _| {
        for name in ["key", "dir/fixed"] {
            bundle.file(&format!("rootfs/{name}"), "x");
        }
        bundle.set("/linux/maskedPaths", json!(["key", "not/there"]));
        bundle.set("/linux/readonlyPaths", json!(["dir", "neither/there"]));
        bundle.set("/process/cwd", json!("/bin"));
        let script = "wc -c < /key; cat /dir/fixed; touch /dir/fixed 2>&1 | grep -c Read-only";
        assert_eq!(bundle.say(script), "0\nx1\n");
    });
}
