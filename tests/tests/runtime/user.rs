//! User namespaces: made by root with mappings, made by nobody, joined, and added to.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::{Need, NetworkNamespace, eventually, require, require_root};

use crate::bundle::{Bundle, Finished, PATIENCE, with_bundle};
use crate::exec::{exec, with_running};
use crate::peer::{Runtime, with_each};

/// The host's id of the container's root.
pub(crate) const FIRST: u32 = 100_000;

/// A user of the host who is nobody in particular.
pub(crate) const NOBODY: u32 = 4_321;

fn mappings(outside: u32, count: u32) -> Value {
    json!([{ "containerID": 0, "hostID": outside, "size": count }])
}

/// Gives the bundle to `owner`, as an engine does it with a container's root.
fn give(path: &Path, owner: u32) {
    let status = Command::new("chown")
        .arg("-hR")
        .arg(format!("{owner}:{owner}"))
        .arg(path)
        .status();
    assert!(status.unwrap().success());
}

pub(crate) fn map(bundle: &mut Bundle<'_>, outside: u32, count: u32) {
    bundle
        .set("/linux/namespaces/-", json!({ "type": "user" }))
        .set("/linux/uidMappings", mappings(outside, count))
        .set("/linux/gidMappings", mappings(outside, count));
    give(&bundle.rootfs(), outside);
}

#[test]
fn root_inside_is_another_user_outside() {
    require_root!();
    with_bundle("user-root", |bundle| {
        map(bundle, FIRST, 65536);
        bundle.set("/process/user", json!({ "uid": 0, "gid": 0, "additionalGids": [7] }));
        let said =
            bundle.say("id -u; id -G; cat /proc/self/uid_map | sed 's/  */ /g'; touch /mine; echo x > /dev/null");
        assert_eq!(said, format!("0\n0 7\n 0 {FIRST} 65536\n"));
        assert_eq!(fs::metadata(bundle.rootfs().join("mine")).unwrap().uid(), FIRST);
    });
}

#[test]
fn its_other_namespaces_and_filesystems_belong_to_it() {
    require_root!();
    with_bundle("user-mounts", |bundle| {
        map(bundle, FIRST, 65536);
        bundle.mount(
            "cgroup",
            "cgroup",
            "/sys/fs/cgroup",
            &["ro", "nosuid", "nodev", "noexec"],
        );
        bundle.mount("tmpfs", "tmpfs", "/run", &["mode=755"]);
        bundle.set(
            "/process/capabilities",
            json!({ "bounding": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"] }),
        );
        bundle.set(
            "/linux/sysctl",
            json!({ "kernel.shmmni": "4097", "net.ipv4.ip_unprivileged_port_start": "79" }),
        );
        bundle.set("/linux/maskedPaths", json!(["/proc/keys", "/sys/firmware"]));
        let script = "cut -d' ' -f5,9 /proc/self/mountinfo | cut -d' ' -f1 | sort -u | grep -v /dev/; \
                      cat /proc/sys/kernel/shmmni; test -c /proc/keys && stat -c %u / /proc/1 /sys/fs/cgroup; \
                      mount -t tmpfs none /mnt && echo mounted";
        fs::create_dir_all(bundle.rootfs().join("mnt")).unwrap();
        let said = bundle.say(script);
        let firmware = if Path::new("/sys/firmware").exists() {
            "/sys/firmware\n"
        } else {
            ""
        };
        let mounts = format!("/\n/dev\n/proc\n/proc/keys\n/run\n/sys\n{firmware}/sys/fs/cgroup\n");
        assert_eq!(
            said.replace(
                "/sys\n/sys/fs/cgroup\n/sys/firmware\n",
                "/sys\n/sys/firmware\n/sys/fs/cgroup\n"
            ),
            format!("{mounts}4097\n0\n0\n65534\nmounted\n")
        );
    });
}

/// A user namespace makes no devices: they are the host's, and only the ones that are asked for by number.
#[test]
fn its_devices_are_the_hosts() {
    require_root!();
    with_bundle("user-devices", |bundle| {
        map(bundle, FIRST, 65536);
        bundle.set(
            "/linux/devices",
            json!([{ "path": "/dev/pipe", "type": "p", "major": 0, "minor": 0, "fileMode": 0o640, "uid": 5, "gid": 6 }]),
        );
        let said = bundle.say("cd /dev; stat -c '%n %t:%T' null zero full random urandom tty; stat -c '%a %u:%g' pipe");
        assert_eq!(
            said,
            "null 1:3\nzero 1:5\nfull 1:7\nrandom 1:8\nurandom 1:9\ntty 5:0\n640 5:6\n"
        );
        bundle.set(
            "/linux/devices",
            json!([{ "path": "/dev/zero", "type": "c", "major": 1, "minor": 3 }]),
        );
        let finished = bundle.run("true");
        assert!(finished.err.contains("bind /dev/zero on /dev/zero"), "{finished:?}");
    });
}

#[test]
fn a_terminal_is_its_users() {
    require_root!();
    with_bundle("user-terminal", |bundle| {
        map(bundle, FIRST, 65536);
        bundle.set("/process/terminal", json!(true));
        bundle.set("/process/user", json!({ "uid": 5, "gid": 5 }));
        let said = bundle.say("test -t 1 && stat -c %u /dev/pts/0; echo hello > /dev/tty; test -c /dev/console");
        assert_eq!(said.replace('\r', ""), "5\nhello\n");
    });
}

#[test]
fn its_user_may_reopen_the_pipes_that_its_streams_are() {
    require_root!();
    with_bundle("user-streams", |bundle| {
        map(bundle, FIRST, 65536);
        bundle.set("/process/user", json!({ "uid": 5, "gid": 5 }));
        assert_eq!(bundle.say("echo hello > /dev/stdout"), "hello\n");
    });
}

#[test]
fn a_process_is_added_to_it() {
    require_root!();
    let prepare = |bundle: &mut Bundle<'_>| map(bundle, FIRST, 65536);
    with_running("user-exec", prepare, |bundle, container| {
        let script =
            "id -u; for n in user pid; do readlink /proc/self/ns/$n; done; grep ^0 /proc/self/cgroup; touch /two";
        let finished = exec(bundle, &["c1", "sh", "-c", script]);
        let link = |name| fs::read_link(format!("/proc/{}/ns/{name}", container.pid())).unwrap();
        let (user, pid) = (link("user"), link("pid"));
        let expected = format!("0\n{}\n{}\n0::/\n", user.display(), pid.display());
        assert_eq!((finished.code, &finished.out), (Some(0), &expected), "{finished:?}");
        assert_eq!(fs::metadata(bundle.rootfs().join("two")).unwrap().uid(), FIRST);
        let other = exec(bundle, &["-u", "7:8", "c1", "id"]);
        assert!(other.out.contains("uid=7 gid=8"), "{other:?}");
    });
}

/// Our own program is still in it, which nobody inside may look at.
#[test]
fn a_process_is_added_to_one_that_waits() {
    require_root!();
    with_each("user-waits", |bundle, runtime| {
        map(bundle, FIRST, 65536);
        see_a_process_added_to_one_that_waits(bundle, runtime);
    });
}

fn see_a_process_added_to_one_that_waits(bundle: &mut Bundle<'_>, runtime: Runtime) {
    if runtime == Runtime::Crun {
        // It can't ("fail startup").
        return;
    }
    bundle.create("sleep 1000");
    let names = ["user", "mnt", "uts", "ipc", "pid", "net"];
    let script = format!(
        "id -u; for n in {}; do readlink /proc/self/ns/$n; done",
        names.join(" ")
    );
    let said = bundle.ok("exec", &["c1", "sh", "-c", &script]);
    assert_eq!(bundle.status(), "created");
    let pid = bundle.state_of("c1")["pid"].clone();
    let link = |name| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    let expected = names.map(|name| format!("{}\n", link(name).display()));
    assert_eq!(said, format!("0\n{}", expected.concat()));
    bundle.ok("delete", &["--force", "c1"]);
}

#[test]
fn hooks_enter_it() {
    require_root!();
    with_each("user-hooks", |bundle, _| {
        map(bundle, FIRST, 65536);
        see_hooks_enter_it(bundle);
    });
}

fn see_hooks_enter_it(bundle: &mut Bundle<'_>) {
    let told = bundle.file("told", "");
    fs::set_permissions(&told, fs::Permissions::from_mode(0o666)).unwrap();
    let before = format!("id -u > {}", told.display());
    let hook = |script: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"] }]);
    bundle.set(
        "/hooks",
        json!({ "createContainer": hook(&before), "startContainer": hook("id -u > /told") }),
    );
    bundle.create("cp /told /said; sleep 1000");
    assert_eq!(fs::read_to_string(&told).unwrap(), "0\n");
    bundle.ok("start", &["c1"]);
    eventually(PATIENCE, "its own hook has run", || bundle.has("said"));
    assert_eq!(fs::read_to_string(bundle.rootfs().join("told")).unwrap(), "0\n");
    bundle.ok("delete", &["--force", "c1"]);
}

#[test]
fn it_is_joined_with_what_belongs_to_it() {
    require_root!();
    let prepare = |bundle: &mut Bundle<'_>| map(bundle, FIRST, 65536);
    with_running("user-join", prepare, |bundle, container| {
        let mut second = Bundle::of_state(bundle.scratch);
        let join =
            |kind: &str, file: &str| json!({ "type": kind, "path": format!("/proc/{}/ns/{file}", container.pid()) });
        second.config["linux"]["namespaces"] = json!([
            join("user", "user"), join("pid", "pid"), join("network", "net"), join("ipc", "ipc"),
            { "type": "mount" }, { "type": "uts" },
        ]);
        second.set(
            "/linux/cgroupsPath",
            json!(format!("{}/c2", bundle.scratch.cgroup_parent())),
        );
        let script = "id -u; for n in user pid net ipc; do readlink /proc/self/ns/$n; done; test $$ -gt 1";
        second.set("/process/args", json!(["sh", "-c", script]));
        let finished = Finished::of(&mut second.command("c2"));
        let links = ["user", "pid", "net", "ipc"]
            .map(|name| fs::read_link(format!("/proc/{}/ns/{name}", container.pid())).unwrap());
        let links = links.map(|link| link.to_str().unwrap().to_owned()).join("\n");
        assert_eq!(
            (finished.code, finished.out.trim()),
            (Some(0), format!("0\n{links}").as_str()),
            "{finished:?}"
        );
    });
}

/// An engine makes the network first, and the host owns it.
#[test]
fn a_namespace_of_the_host_is_joined_before_the_rights_are_given_up() {
    require_root!();
    with_bundle("user-hosts-net", |bundle| {
        let network = NetworkNamespace::new();
        map(bundle, FIRST, 65536);
        bundle.set(
            "/linux/namespaces/1",
            json!({ "type": "network", "path": network.path() }),
        );
        let said = bundle.say("readlink /proc/self/ns/net; ls /sys | head -1; touch /sys/x 2>&1 | grep -c Read-only");
        assert_eq!(said, format!("net:[{}]\nblock\n1\n", network.inode()));
    });
}

#[test]
fn a_process_is_added_where_a_namespace_is_the_hosts() {
    require_root!();
    let network = NetworkNamespace::new();
    let prepare = |bundle: &mut Bundle<'_>| {
        map(bundle, FIRST, 65536);
        bundle.set(
            "/linux/namespaces/1",
            json!({ "type": "network", "path": network.path() }),
        );
    };
    with_running("user-exec-net", prepare, |bundle, container| {
        let script = "readlink /proc/self/ns/net; readlink /proc/self/ns/user; echo $$ > /dev/null; id -u";
        let added = exec(bundle, &["c1", "sh", "-c", script]);
        let user = fs::read_link(format!("/proc/{}/ns/user", container.pid())).unwrap();
        let expected = format!("net:[{}]\n{}\n0\n", network.inode(), user.display());
        assert_eq!(added.out, expected, "{added:?}");
    });
}

#[test]
fn its_mounts_are_listed_in_the_order_of_the_spec() {
    require_root!();
    with_bundle("user-order", |bundle| {
        map(bundle, FIRST, 65536);
        bundle.mount("tmpfs", "tmpfs", "/first", &[]);
        bundle.mount("mqueue", "mqueue", "/second", &[]);
        bundle.mount("tmpfs", "tmpfs", "/third", &[]);
        bundle.lists_its_mounts_in_their_order();
    });
}

#[test]
fn limits_of_the_host_are_raised_from_outside() {
    require_root!();
    with_bundle("user-limits", |bundle| {
        map(bundle, FIRST, 65536);
        bundle.set(
            "/process/rlimits",
            json!([{ "type": "RLIMIT_CORE", "soft": 5, "hard": 6 }]),
        );
        bundle.set("/process/oomScoreAdj", json!(300));
        let said = bundle.say("cat /proc/self/oom_score_adj; sed -n 's/  */ /g; /core/p' /proc/self/limits");
        assert_eq!(said, "300\nMax core file size 5 6 bytes \n");
    });
}

/// The directories of tests are on a tmpfs in the VM, which kernels before 6.3 do not map: then that has to be said.
fn is_refused(bundle: &mut Bundle<'_>) -> bool {
    let is_tmpfs = statfs(&bundle.dir()).unwrap().filesystem_type() == TMPFS_MAGIC;
    let cannot = is_tmpfs && Need::Kernel(6, 3).missing().is_some();
    if cannot {
        let finished = bundle.run("true");
        assert!(
            finished.err.contains("can't be id-mapped on this kernel"),
            "{finished:?}"
        );
    }
    cannot
}

#[test]
fn a_file_of_another_shows_as_its_own_through_an_id_mapped_mount() {
    require_root!();
    with_bundle("idmap", |bundle| {
        map(bundle, FIRST, 65536);
        bundle.file("data/file", "content");
        give(&bundle.dir().join("data"), 3);
        bundle.mount("bind", "data", "/mapped", &["bind", "idmap"]);
        bundle.mount("bind", "data", "/plain", &["bind"]);
        let own = json!({
            "destination": "/own", "type": "bind", "source": "data", "options": ["rbind", "ridmap", "ro"],
            "uidMappings": [{ "containerID": 3, "hostID": FIRST + 9, "size": 1 }],
            "gidMappings": [{ "containerID": 3, "hostID": FIRST + 10, "size": 1 }],
        });
        bundle.set("/mounts/-", own);
        if is_refused(bundle) {
            return;
        }
        let said =
            bundle.say("stat -c %u:%g /mapped/file /plain/file /own/file; touch /own/x 2>&1 | grep -c Read-only");
        assert_eq!(said, "3:3\n65534:65534\n9:10\n1\n");
        bundle.set("/process/user", json!({ "uid": 3, "gid": 3 }));
        bundle.say("echo new > /mapped/new");
        assert_eq!(fs::metadata(bundle.dir().join("data/new")).unwrap().uid(), 3);
    });
}

#[test]
fn an_id_mapped_mount_needs_no_user_namespace() {
    require_root!();
    with_bundle("idmap-alone", |bundle| {
        bundle.file("data/file", "content");
        let mount = json!({
            "destination": "/own", "type": "bind", "source": "data", "options": ["bind"],
            "uidMappings": [{ "containerID": 0, "hostID": 77, "size": 10 }],
            "gidMappings": [{ "containerID": 0, "hostID": 78, "size": 10 }],
        });
        bundle.set("/mounts/-", mount);
        if !is_refused(bundle) {
            assert_eq!(bundle.say("stat -c %u:%g /own/file"), "77:78\n");
        }
    });
}

#[test]
fn an_id_mapped_mount_has_the_ids_of_a_user_namespace_that_is_joined() {
    require_root!();
    let prepare = |bundle: &mut Bundle<'_>| map(bundle, FIRST, 65536);
    with_running("idmap-joined", prepare, |bundle, container| {
        let mut second = Bundle::of_state(bundle.scratch);
        let user = format!("/proc/{}/ns/user", container.pid());
        second.set("/linux/namespaces/-", json!({ "type": "user", "path": user }));
        let path = json!(format!("{}/c2", bundle.scratch.cgroup_parent()));
        second.set("/linux/cgroupsPath", path);
        second.file("data/file", "content");
        give(&second.dir().join("data"), 3);
        second.mount("bind", "data", "/mapped", &["bind", "idmap"]);
        second.mount("bind", "data", "/plain", &["bind"]);
        let script = "stat -c %u:%g /mapped/file /plain/file";
        second.set("/process/args", json!(["sh", "-c", script]));
        let finished = Finished::of(&mut second.command("c2"));
        if !finished.err.contains("can't be id-mapped on this kernel") {
            assert_eq!(finished.out, "3:3\n65534:65534\n", "{finished:?}");
        }
    });
}

#[test]
fn many_id_mapped_mounts_leave_no_file_open() {
    require_root!();
    with_bundle("idmap-few-files", |bundle| {
        bundle.file("data/file", "content");
        for index in 0..20 {
            let mount = json!({
                "destination": format!("/own{index}"), "type": "bind", "source": "data", "options": ["bind"],
                "uidMappings": [{ "containerID": 0, "hostID": 77, "size": 10 }],
                "gidMappings": [{ "containerID": 0, "hostID": 78, "size": 10 }],
            });
            bundle.set("/mounts/-", mount);
        }
        bundle.set(
            "/process/rlimits",
            json!([{ "type": "RLIMIT_NOFILE", "soft": 20, "hard": 20 }]),
        );
        if !is_refused(bundle) {
            assert_eq!(bundle.say("stat -c %u:%g /own19/file"), "77:78\n");
        }
    });
}

/// What comes of a command of a user of the host who is nobody in particular.
pub(crate) fn as_nobody(command: &mut Command) -> Finished {
    Finished::of(command.uid(NOBODY).gid(NOBODY))
}

/// What `runc spec --rootless` writes: no network namespace, /sys of the host, one id.
pub(crate) fn rootless(bundle: &mut Bundle<'_>) {
    map(bundle, NOBODY, 1);
    bundle.set("/linux/namespaces/1", json!({ "type": "user" }));
    let namespaces = ["pid", "user", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({ "type": kind }));
    bundle.set("/linux/namespaces", json!(namespaces));
    bundle.set(
        "/mounts/2/options",
        json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
    );
    bundle.set(
        "/mounts/5",
        json!({ "destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"] }),
    );
    bundle.mount(
        "cgroup",
        "cgroup",
        "/sys/fs/cgroup",
        &["nosuid", "noexec", "nodev", "ro"],
    );
    bundle.set("/linux/maskedPaths", json!(["/proc/keys"]));
    bundle.config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    give(&bundle.scratch.input(), NOBODY);
}

#[test]
fn nobody_in_particular_runs_a_container() {
    require_root!();
    with_bundle("rootless", |bundle| {
        rootless(bundle);
        let script = "id -u; cat /proc/self/setgroups; touch /mine; echo x > /dev/null; test -c /proc/keys; hostname=$(cat /proc/sys/kernel/hostname); echo $hostname";
        bundle.set("/process/args", json!(["sh", "-c", script]));
        let finished = as_nobody(&mut bundle.command("c1"));
        assert_eq!(
            (finished.code, finished.out.as_str()),
            (Some(0), "0\ndeny\nbox\n"),
            "{finished:?}"
        );
        assert_eq!(fs::metadata(bundle.rootfs().join("mine")).unwrap().uid(), NOBODY);
        bundle.set("/process/user", json!({ "uid": 0, "gid": 0, "additionalGids": [1] }));
        let finished = as_nobody(&mut bundle.command("c1"));
        assert!(finished.err.contains("process.user.additionalGids"), "{finished:?}");
    });
}

#[test]
fn nobody_in_particular_adds_a_process_to_it() {
    require_root!();
    with_bundle("rootless-exec", |bundle| {
        rootless(bundle);
        bundle.set(
            "/process/args",
            json!(["sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done"]),
        );
        let container = bundle.background(|command| {
            command.uid(NOBODY).gid(NOBODY);
        });
        let finished =
            as_nobody(
                bundle
                    .oci("exec")
                    .args(["c1", "sh", "-c", "id -u; echo $$; readlink /proc/self/ns/user"]),
            );
        let user = fs::read_link(format!("/proc/{}/ns/user", container.pid())).unwrap();
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(
            finished.out.starts_with("0\n") && finished.out.ends_with(&format!("{}\n", user.display())),
            "{finished:?}"
        );
        kill(Pid::from_raw(container.runtime_pid()), Signal::SIGTERM).unwrap();
        assert_eq!(container.wait(), Some(0));
    });
}

#[test]
fn nobody_in_particular_has_hooks_and_processes_in_one_that_waits() {
    require!(Need::Root, Need::Tool("setpriv"));
    with_each("rootless-waits", |bundle, runtime| {
        rootless(bundle);
        let id = NOBODY.to_string();
        let as_nobody = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"].map(String::from);
        bundle.around.0.extend(as_nobody);
        see_a_process_added_to_one_that_waits(bundle, runtime);
        see_hooks_enter_it(bundle);
    });
}

#[test]
fn groups_of_who_makes_it_are_kept_if_an_annotation_asks() {
    require!(Need::Root, Need::Tool("setpriv"));
    with_bundle("user-groups", |bundle| {
        map(bundle, FIRST, 65536);
        let outside = (FIRST + 7).to_string();
        bundle.around.0 = ["setpriv", "--groups", &outside].map(String::from).into();
        bundle.set("/process/user", json!({ "uid": 0, "gid": 0, "additionalGids": [5] }));
        let script = "grep Groups: /proc/self/status";
        let groups = |said: String| said.split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
        assert_eq!(groups(bundle.say(script)), "5");
        bundle.set("/annotations", json!({ "run.oci.keep_original_groups": "1" }));
        assert_eq!(groups(bundle.say(script)), "7");
        bundle.create("exec sleep 1000");
        bundle.ok("start", &["c1"]);
        assert_eq!(groups(bundle.ok("exec", &["c1", "sh", "-c", script])), "7");
        bundle.ok("delete", &["--force", "c1"]);
    });
}

/// More than one id takes the set-user-id programs of the package uidmap.
#[test]
fn a_range_of_ids_is_nobodys_to_map() {
    require_root!();
    with_bundle("rootless-range", |bundle| {
        rootless(bundle);
        bundle.set("/linux/uidMappings", mappings(FIRST, 1000));
        bundle.set("/linux/gidMappings", mappings(FIRST, 1000));
        let finished = as_nobody(&mut bundle.command("c1"));
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.err.contains("newgidmap"), "{finished:?}");
    });
}

/// The same bundle, and the same answers from the peer: so the tests above are tested.
#[test]
fn the_peer_says_the_same_of_the_same_bundle() {
    require!(Need::Root, Need::Tool("runc"));
    with_bundle("user-peer", |bundle| {
        map(bundle, FIRST, 65536);
        bundle.set("/process/user", json!({ "uid": 5, "gid": 6, "additionalGids": [7] }));
        let script = "id -u; id -G; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; stat -c %u /bin /dev/null /dev /proc/1; \
                      grep ^Cap /proc/self/status; echo hello > /dev/stdout";
        let ours = bundle.say(script);
        bundle.program = "runc".into();
        assert_eq!(bundle.say(script), ours);
    });
}
