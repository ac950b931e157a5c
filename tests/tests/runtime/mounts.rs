//! Options of mounts: each seen from inside, and the ones that peers have told by the peers too.

use std::fs;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;
use tests::{Need, require, require_root};

use crate::bundle::{Bundle, Finished, link, with_bundle};
use crate::peer::with_each;
use crate::user::{FIRST, as_nobody, map, rootless};

/// Options of the mount at `path`, sorted, without those of the filesystem.
fn options_at(path: &str) -> String {
    format!("grep ' {path} ' /proc/self/mountinfo | cut -d' ' -f6")
}

#[test]
fn each_option_of_a_bind_mount_shows() {
    require_root!();
    for (options, expected) in [
        (vec!["bind"], "rw,relatime"),
        (vec!["bind", "ro"], "ro,relatime"),
        (vec!["rbind", "rro"], "ro,relatime"),
        (vec!["bind", "ro", "rw"], "rw,relatime"),
        (
            vec!["bind", "nosuid", "nodev", "noexec"],
            "rw,nosuid,nodev,noexec,relatime",
        ),
        (
            vec!["bind", "nosuid", "suid", "nodev", "dev", "noexec", "exec"],
            "rw,relatime",
        ),
        (
            vec!["rbind", "rnosuid", "rnodev", "rnoexec"],
            "rw,nosuid,nodev,noexec,relatime",
        ),
        (vec!["bind", "noatime"], "rw,noatime"),
        (vec!["rbind", "rnoatime"], "rw,noatime"),
        (vec!["bind", "strictatime"], "rw"),
        (vec!["bind", "nodiratime"], "rw,nodiratime,relatime"),
        (vec!["bind", "nosymfollow"], "rw,relatime,nosymfollow"),
        (
            vec![
                "bind", "defaults", "silent", "loud", "acl", "noacl", "iversion", "mand", "nomand",
            ],
            "rw,relatime",
        ),
    ] {
        with_bundle("bind-options", |bundle| {
            bundle.file("data/file", "content");
            bundle.mount("bind", "data", "/data", &options);
            assert_eq!(bundle.say(&options_at("/data")).trim(), expected, "{options:?}");
        });
    }
}

/// Runs a container with a bind mount of what the host has mounted with `flags`, and has it tell the mount's options.
fn bind_of(
    bundle: &mut Bundle<'_>,
    flags: MsFlags,
    options: &[&str],
    run: fn(&mut Bundle<'_>) -> Finished,
) -> Finished {
    let data = bundle.dir().join("data");
    fs::create_dir_all(&data).unwrap();
    let tmpfs = Some("tmpfs");
    let none = None::<&str>;
    mount(tmpfs, &data, tmpfs, MsFlags::empty(), Some("mode=755")).unwrap();
    let change = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
    mount(none, &data, none, change, none).unwrap();
    bundle.mount("bind", "data", "/data", options);
    bundle.set("/process/args", json!(["sh", "-c", options_at("/data")]));
    let finished = run(bundle);
    bundle.config["mounts"].as_array_mut().unwrap().pop();
    umount2(&data, MntFlags::MNT_DETACH).unwrap();
    finished
}

fn by_root(bundle: &mut Bundle<'_>) -> Finished {
    bundle.run_as_it_is()
}

fn by_nobody(bundle: &mut Bundle<'_>) -> Finished {
    as_nobody(&mut bundle.command("c1"))
}

/// What a host may have at the source of a bind mount.
const STRICT: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NOATIME)
    .union(MsFlags::MS_NODIRATIME);

#[test]
fn a_bind_mount_that_names_a_flag_has_those_that_it_names() {
    require_root!();
    with_each("bind-flags", |bundle, _| {
        for (options, expected) in [
            (vec!["bind", "ro"], "ro,noatime,nodiratime"),
            (vec!["bind", "nosuid", "nodev"], "rw,nosuid,nodev,noatime,nodiratime"),
            (vec!["bind", "noexec", "relatime"], "rw,noexec,relatime"),
            (vec!["bind", "ro", "nodiratime"], "ro,nodiratime,relatime"),
            (vec!["bind", "ro", "strictatime"], "ro"),
        ] {
            let finished = bind_of(bundle, STRICT, &options, by_root);
            assert_eq!(finished.out.trim(), expected, "{options:?} {finished:?}");
        }
    });
}

/// A word that clears a flag names it, too. (Older runc passes over such words, as mount(8) does; crun clears whatever is
/// not named even where nothing is.)
#[test]
fn a_bind_mount_that_names_no_flag_keeps_those_of_its_source() {
    require_root!();
    with_bundle("bind-kept", |bundle| {
        for (options, expected) in [
            (vec!["bind"], "ro,nosuid,nodev,noexec,noatime,nodiratime"),
            (vec!["rbind", "rprivate"], "ro,nosuid,nodev,noexec,noatime,nodiratime"),
            (vec!["bind", "rw"], "rw,noatime,nodiratime"),
            (vec!["bind", "dev"], "rw,noatime,nodiratime"),
            (vec!["bind", "symfollow"], "rw,noatime,nodiratime"),
            // One against a way to note accesses names none.
            (vec!["bind", "atime", "diratime"], "rw,noatime,nodiratime"),
            (vec!["bind", "nodiratime", "norelatime"], "rw,nodiratime,relatime"),
            (
                vec!["rbind", "rro", "rnosuid"],
                "ro,nosuid,nodev,noexec,noatime,nodiratime",
            ),
        ] {
            let finished = bind_of(bundle, STRICT, &options, by_root);
            assert_eq!(finished.out.trim(), expected, "{options:?} {finished:?}");
        }
    });
}

/// What the host has locked away from a user namespace, made by root or by nobody in particular, stays, and can't be taken
/// away by name.
#[test]
fn a_user_namespace_keeps_the_flags_of_the_source_of_a_bind_mount() {
    require_root!();
    let cases = |bundle: &mut Bundle<'_>, run: fn(&mut Bundle<'_>) -> Finished| {
        for (host, options, expected) in [
            (STRICT, vec!["bind"], "ro,nosuid,nodev,noexec,noatime,nodiratime"),
            (STRICT, vec!["bind", "dev"], ""),
            (STRICT, vec!["rbind", "rdev"], ""),
            (STRICT, vec!["rbind", "nosuid", "rrw"], ""),
            (STRICT, vec!["bind", "rw", "nosuid"], ""),
            (
                STRICT,
                vec!["bind", "nosuid"],
                "ro,nosuid,nodev,noexec,noatime,nodiratime",
            ),
            (STRICT, vec!["bind", "ro", "relatime"], ""),
            (
                STRICT,
                vec!["bind", "atime"],
                "ro,nosuid,nodev,noexec,noatime,nodiratime",
            ),
            (MsFlags::MS_NOEXEC, vec!["bind", "ro"], "ro,noexec,relatime"),
            (MsFlags::MS_NOEXEC, vec!["bind", "ro", "relatime"], "ro,noexec,relatime"),
            (MsFlags::MS_NOEXEC, vec!["bind", "ro", "noatime"], ""),
        ] {
            let finished = bind_of(bundle, host, &options, run);
            assert_eq!(finished.out.trim(), expected, "{options:?} {finished:?}");
            let is_refused = finished.err.contains("Operation not permitted");
            assert_eq!(is_refused, expected.is_empty(), "{options:?} {finished:?}");
        }
    };
    with_bundle("bind-locked", |bundle| {
        map(bundle, FIRST, 65536);
        cases(bundle, by_root);
    });
    with_bundle("bind-locked-nobody", |bundle| {
        rootless(bundle);
        cases(bundle, by_nobody);
    });
}

#[test]
fn a_bind_mount_with_an_option_of_the_filesystem_is_made_and_the_option_reported() {
    require_root!();
    with_bundle("bind-data", |bundle| {
        bundle.file("data/file", "content");
        bundle.mount("bind", "data", "/data", &["bind", "nosuid", "mode=700", "size=1k"]);
        let finished = bundle.run("cat /data/file");
        assert_eq!(
            (finished.code, finished.out.as_str()),
            (Some(0), "content"),
            "{finished:?}"
        );
        for name in ["mode", "size"] {
            let sentence = format!("mounts[6].options: {name} is about the filesystem");
            assert!(finished.err.contains(&sentence), "{finished:?}");
        }
        assert_eq!(bundle.say(&options_at("/data")).trim(), "rw,nosuid,relatime");
    });
}

#[test]
fn recursive_options_reach_the_mounts_below_and_plain_ones_do_not() {
    require_root!();
    for (option, below) in [("ro", "ok\n"), ("rro", "1\n")] {
        with_bundle("recursive", |bundle| {
            bundle.mount("tmpfs", "tmpfs", "/outer", &["mode=755"]);
            fs::create_dir_all(bundle.dir().join("outer/inner")).unwrap();
            let inner = bundle.dir().join("outer/inner");
            let none = None::<&str>;
            let kind = Some("tmpfs");
            mount(kind, &inner, kind, MsFlags::empty(), none).unwrap();
            bundle.set(
                "/mounts/6",
                json!({ "destination": "/outer", "type": "bind", "source": "outer",
                                            "options": ["rbind", option] }),
            );
            let said = bundle.run(
                "touch /outer/x 2>&1 | grep -c Read-only; touch /outer/inner/x 2>&1 | grep -c Read-only || echo ok",
            );
            umount2(&inner, MntFlags::MNT_DETACH).unwrap();
            assert_eq!(said.out.replace("0\nok", "ok"), format!("1\n{below}"), "{option}");
        });
    }
}

#[test]
fn propagation_of_mounts_and_of_the_root_is_what_is_asked_for() {
    require_root!();
    let kind_at =
        |path: &str| format!("grep ' {path} ' /proc/self/mountinfo | grep -oE '(shared|master|unbindable)' | head -1");
    for (option, expected) in [
        ("private", ""),
        ("rprivate", ""),
        ("shared", "shared\n"),
        ("rshared", "shared\n"),
        ("unbindable", "unbindable\n"),
        ("runbindable", "unbindable\n"),
    ] {
        with_bundle("propagation", |bundle| {
            bundle.file("data/file", "content");
            bundle.mount("bind", "data", "/data", &["rbind", option]);
            bundle.set("/linux/rootfsPropagation", json!(option));
            // A bind mount has its own, whatever the root's is; what is mounted anew is private, or as the root recursively.
            let said = bundle.run(&format!("{}; echo; {}; true", kind_at("/data"), kind_at("/")));
            assert_eq!(said.out, format!("{expected}\n{expected}"), "{option} {said:?}");
        });
    }
}

#[test]
fn mounts_are_listed_in_the_order_of_the_spec() {
    require_root!();
    with_each("order", |bundle, _| {
        bundle.file("data/file", "content");
        bundle.mount("bind", "data", "/first", &["rbind"]);
        bundle.mount("tmpfs", "tmpfs", "/second", &[]);
        bundle.mount("bind", "data", "/third", &["bind", "ro"]);
        bundle.mount("mqueue", "mqueue", "/fourth", &[]);
        bundle.lists_its_mounts_in_their_order();
    });
}

#[test]
fn a_filesystem_is_made_of_what_the_host_has() {
    require_root!();
    with_each("host-layers", |bundle, _| {
        bundle.file("upper/file", "upper\n");
        bundle.file("lower/file", "lower\n");
        bundle.file("lower/other", "other\n");
        let dir = bundle.dir();
        let layers = format!("lowerdir={0}/upper:{0}/lower", dir.display());
        bundle.mount("overlay", "overlay", "/merged", &["ro", &layers]);
        assert_eq!(bundle.say("cat /merged/file /merged/other"), "upper\nother\n");
    });
}

#[test]
fn a_mount_that_is_there_is_changed() {
    require_root!();
    with_bundle("remount", |bundle| {
        bundle.file("data/file", "content");
        bundle.mount("bind", "data", "/data", &["bind"]);
        bundle.mount("bind", "data", "/data", &["bind", "remount", "ro", "nosuid"]);
        bundle.mount("tmpfs", "tmpfs", "/t", &["size=1m", "noexec"]);
        bundle.mount("tmpfs", "tmpfs", "/t", &["remount", "size=2m", "nodev"]);
        let said = bundle.say(&format!(
            "{}; {}; grep -o size=.* /proc/mounts | grep -c size=2048k",
            options_at("/data"),
            options_at("/t")
        ));
        assert_eq!(said, "ro,nosuid,relatime\nrw,nodev,noexec,relatime\n1\n");
    });
}

#[test]
fn a_tmpfs_takes_over_what_it_hides() {
    require_root!();
    with_bundle("copy-up", |bundle| {
        let root = bundle.rootfs();
        fs::create_dir_all(root.join("etc/deep/er")).unwrap();
        fs::write(root.join("etc/deep/er/file"), "x".repeat(100_000)).unwrap();
        link(&root, "etc/link", "../../outside");
        let give = std::process::Command::new("chown")
            .arg("7:8")
            .arg(root.join("etc/deep"))
            .status();
        assert!(give.unwrap().success());
        let mode = std::process::Command::new("chmod")
            .arg("1755")
            .arg(root.join("etc/deep"))
            .status();
        assert!(mode.unwrap().success());
        for n in 0..300 {
            fs::write(root.join(format!("etc/a-name-of-some-length-{n}")), "").unwrap();
        }
        bundle.mount("tmpfs", "tmpfs", "/etc", &["tmpcopyup", "mode=700"]);
        let said = bundle.say(
            "wc -c < /etc/deep/er/file; readlink /etc/link; stat -c '%a %u:%g' /etc/deep; \
                               ls /etc | wc -l; grep ' /etc ' /proc/mounts | cut -d' ' -f3",
        );
        assert_eq!(said, "100000\n../../outside\n1755 7:8\n302\ntmpfs\n");
        assert!(
            root.join("etc/deep/er/file").exists(),
            "the image's own are as they were"
        );
    });
}

#[test]
fn options_of_the_filesystem_reach_it() {
    require_root!();
    with_bundle("fs-options", |bundle| {
        let options = ["sync", "dirsync", "lazytime", "size=1m", "iversion", "acl", "silent"];
        bundle.mount("tmpfs", "tmpfs", "/t", &options);
        let said = bundle.say("grep ' /t ' /proc/mounts | cut -d' ' -f4");
        assert!(
            said.starts_with("rw,sync,dirsync,lazytime,relatime,size=1024k"),
            "{said}"
        );
        bundle.file("data/file", "");
        bundle.mount("bind", "data", "/data", &["bind", "sync"]);
        let finished = bundle.run("true");
        assert!(
            finished.err.contains("mounts[7].options: sync is about the filesystem"),
            "{finished:?}"
        );
    });
}

#[test]
fn a_cgroup_mount_shows_the_containers_own() {
    require_root!();
    with_bundle("cgroup-mount", |bundle| {
        bundle.mount(
            "cgroup",
            "cgroup",
            "/sys/fs/cgroup",
            &["ro", "nosuid", "noexec", "nodev", "relatime"],
        );
        assert_eq!(bundle.say("test -e /sys/fs/cgroup/cgroup.procs; grep -c . /sys/fs/cgroup/cgroup.procs > /dev/null; grep ' /sys/fs/cgroup ' /proc/mounts | cut -d' ' -f3"), "cgroup2\n");
        let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
        bundle.set("/linux/namespaces", json!(namespaces));
        let said = bundle.say(
            "cat /sys/fs/cgroup/cgroup.procs | wc -l; grep ' /sys/fs/cgroup ' /proc/self/mountinfo | cut -d' ' -f4",
        );
        let own = format!("/{}/c1", bundle.scratch.cgroup_parent());
        assert!(
            said.ends_with(&format!("{own}\n")),
            "without a cgroup namespace only its own: {said}"
        );
    });
}

#[test]
fn a_target_is_found_through_links_inside_the_root() {
    require_root!();
    with_bundle("linked-target", |bundle| {
        fs::create_dir_all(bundle.rootfs().join("real")).unwrap();
        fs::write(bundle.rootfs().join("real/file"), "").unwrap();
        link(&bundle.rootfs(), "alias", "/real");
        bundle.file("data/file", "content");
        bundle.file("one", "bound");
        bundle.mount("bind", "one", "/alias/file", &["bind"]);
        bundle.mount("bind", "data", "/alias/sub", &["bind"]);
        assert_eq!(bundle.say("cat /real/file /real/sub/file"), "boundcontent");
    });
}

/// The same bundle, and the same answers from the peer: so the tests above are tested.
#[test]
fn the_peer_mounts_the_same() {
    require!(Need::Root, Need::Tool("runc"));
    let prepare = |bundle: &mut Bundle<'_>| {
        bundle.file("data/file", "content");
        for (index, options) in [
            vec!["bind", "ro", "nosuid", "nodev", "noexec"],
            vec!["rbind", "rro", "rnosuid"],
            vec!["bind", "noatime"],
            vec!["bind", "shared"],
            vec!["bind", "rslave"],
            vec!["bind", "nodiratime", "strictatime"],
        ]
        .iter()
        .enumerate()
        {
            bundle.mount("bind", "data", &format!("/m{index}"), options);
        }
        bundle.mount("tmpfs", "tmpfs", "/t", &["size=1m", "noexec", "sync", "nr_inodes=99"]);
        bundle.mount("tmpfs", "tmpfs", "/bin2", &["tmpcopyup", "ro"]);
        fs::create_dir_all(bundle.rootfs().join("bin2")).unwrap();
        fs::write(bundle.rootfs().join("bin2/x"), "y").unwrap();
    };
    with_bundle("mount-peer", |bundle| {
        prepare(bundle);
        let script = "for m in /m0 /m1 /m2 /m3 /m4 /m5 /t /bin2; do grep \" $m \" /proc/self/mountinfo | cut -d' ' -f6; done; cat /bin2/x";
        let ours = bundle.say(script);
        bundle.program = "runc".into();
        assert_eq!(bundle.say(script), ours);
    });
}
