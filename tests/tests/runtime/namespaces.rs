//! `linux.namespaces`, hostname, sysctl.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use tests::{NetworkNamespace, require_root};

use crate::bundle::{Bundle, Finished, with_bundle};
use crate::exec::with_running;

#[test]
fn a_container_has_namespaces_of_its_own() {
    require_root!();
    with_bundle("own-namespaces", |bundle| {
        let kinds = ["pid", "net", "ipc", "uts", "mnt", "cgroup"];
        let inside = bundle.say(&format!(
            "cd /proc/1/ns; for n in {}; do readlink $n; done",
            kinds.join(" ")
        ));
        for (kind, inside) in kinds.iter().zip(inside.lines()) {
            let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert_ne!(ours.to_str(), Some(inside), "{kind}");
        }
        assert_eq!(inside.lines().count(), kinds.len());
    });
}

#[test]
fn its_init_is_process_one_and_sees_only_its_own() {
    require_root!();
    with_bundle("pid-one", |bundle| {
        // The shell itself looks: whether a process that it starts is there already would be a race.
        assert_eq!(bundle.say("echo $$; echo /proc/[0-9]*"), "1\n/proc/1\n");
    });
}

#[test]
fn a_namespace_is_joined_by_its_path() {
    require_root!();
    with_bundle("join", |bundle| {
        let network = NetworkNamespace::new();
        bundle.set(
            "/linux/namespaces/1",
            json!({ "type": "network", "path": network.path() }),
        );
        let inside = bundle.say("readlink /proc/self/ns/net");
        assert_eq!(inside.trim(), format!("net:[{}]", network.inode()));
    });
}

#[test]
fn those_of_a_running_container_are_joined_by_path() {
    require_root!();
    with_running(
        "join-more",
        |_| {},
        |bundle, container| {
            let mut second = Bundle::of_state(bundle.scratch);
            let kinds = ["ipc", "uts", "cgroup"];
            let join = |kind: &str| json!({ "type": kind, "path": format!("/proc/{}/ns/{kind}", container.pid()) });
            let list: Vec<_> = kinds
                .iter()
                .map(|kind| join(kind))
                .chain([json!({ "type": "mount" })])
                .collect();
            second.config.as_object_mut().unwrap().remove("hostname");
            second.set("/linux/namespaces", json!(list));
            second.set(
                "/linux/cgroupsPath",
                json!(format!("{}/c2", bundle.scratch.cgroup_parent())),
            );
            let script = "for n in ipc uts cgroup; do readlink /proc/self/ns/$n; done";
            second.set("/process/args", json!(["sh", "-c", script]));
            let finished = Finished::of(&mut second.command("c2"));
            let links = kinds.map(|kind| fs::read_link(format!("/proc/{}/ns/{kind}", container.pid())).unwrap());
            let links = links.map(|link| format!("{}\n", link.display())).concat();
            assert_eq!((finished.code, finished.out), (Some(0), links), "{}", finished.err);
        },
    );
}

#[test]
fn a_pid_namespace_is_joined_without_a_process_in_between() {
    require_root!();
    with_bundle("join-pid", |bundle| {
        let first = bundle.start("trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done");
        let path = format!("/proc/{}/ns/pid", first.pid());
        let inode = fs::read_link(&path).unwrap();
        bundle.set("/linux/namespaces/0", json!({ "type": "pid", "path": path }));
        bundle.set(
            "/process/args",
            json!(["sh", "-c", "readlink /proc/self/ns/pid; test $$ -gt 1"]),
        );
        bundle.set(
            "/linux/cgroupsPath",
            json!(format!("{}/c2", bundle.scratch.cgroup_parent())),
        );
        let second = Finished::of(&mut bundle.command("c2"));
        assert_eq!(
            (second.code, second.out.trim()),
            (Some(0), inode.to_str().unwrap()),
            "{second:?}"
        );
        let runtime = nix::unistd::Pid::from_raw(first.runtime_pid());
        nix::sys::signal::kill(runtime, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(first.wait(), Some(0));
    });
}

#[test]
fn a_new_network_namespace_has_loopback_up() {
    require_root!();
    with_bundle("loopback", |bundle| {
        assert_eq!(
            bundle.say("cat /sys/class/net/lo/operstate /sys/class/net/lo/flags"),
            "unknown\n0x9\n"
        );
    });
}

#[test]
fn host_and_domain_names_are_the_containers() {
    require_root!();
    with_bundle("names", |bundle| {
        let before = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        bundle.set("/domainname", json!("example.net"));
        assert_eq!(
            bundle.say("cd /proc/sys/kernel; cat hostname domainname"),
            "box\nexample.net\n"
        );
        assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), before);
    });
}

#[test]
fn sysctls_are_set_in_the_containers_namespaces_only() {
    require_root!();
    with_bundle("sysctl", |bundle| {
        let before = fs::read_to_string("/proc/sys/kernel/shmmni").unwrap();
        let values = json!({ "net.ipv4.ip_unprivileged_port_start": "79", "kernel.shmmni": "4097" });
        bundle.set("/linux/sysctl", values);
        let inside = bundle.say("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni");
        assert_eq!(inside, "79\n4097\n");
        assert_eq!(fs::read_to_string("/proc/sys/kernel/shmmni").unwrap(), before);
    });
}

#[test]
fn network_devices_move_in_with_their_addresses() {
    require_root!();
    with_bundle("net-devices", |bundle| {
        bundle.set("/linux/netDevices", json!({ "nd0": { "name": "inside" } }));
        let finished = bundle.run("true");
        let reason = "move the network device nd0 into the container as inside";
        assert!(
            finished.code == Some(1) && finished.err.contains(reason),
            "{finished:?}"
        );
        // In a namespace of the test's own, which stands for the host's.
        NetworkNamespace::new().run(|| {
            for line in [
                "link add nd0 type veth",
                "addr add 10.9.8.7/24 dev nd0",
                "addr add fd09::7/64 dev nd0",
                "link set nd0 up",
            ] {
                let done = Command::new("/bin/busybox").arg("ip").args(line.split(' ')).status();
                assert!(done.unwrap().success(), "{line}");
            }
            let said = bundle.say("busybox ip addr show dev inside; busybox ip link");
            for part in ["inside@", "UP", "inet 10.9.8.7/24", "inet6 fd09::7/64"] {
                assert!(said.contains(part), "no {part}: {said}");
            }
            assert!(!said.contains("nd0"), "{said}");
            let outside = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            assert!(!outside.contains("nd0:"), "{outside}");
        });
    });
}

#[test]
fn without_a_mount_namespace_it_is_in_the_hosts_and_its_mounts_go_with_it() {
    require_root!();
    with_bundle("host-mounts", |bundle| {
        let list = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
        list.retain(|namespace| namespace["type"] != "mount");
        let ours = fs::read_link("/proc/self/ns/mnt").unwrap();
        in_a_root_of_its_own(bundle, &ours);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let rootfs = bundle.rootfs();
        assert!(!mounts.contains(rootfs.to_str().unwrap()), "{mounts}");

        bundle.set("/process/args", json!(["/not/there"]));
        assert_ne!(bundle.run_as_it_is().code, Some(0));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(rootfs.to_str().unwrap()), "{mounts}");
    });
}

#[test]
fn a_mount_namespace_is_joined_by_its_path_and_who_is_in_it_keeps_its_root() {
    require_root!();
    with_bundle("join-mounts", |bundle| {
        let other = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut other = other.unwrap();
        other.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let path = format!("/proc/{}/ns/mnt", other.id());
        let theirs = fs::read_link(&path).unwrap();
        let list = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
        list.retain(|namespace| namespace["type"] != "mount");
        list.push(json!({ "type": "mount", "path": path }));
        in_a_root_of_its_own(bundle, &theirs);
        let root = fs::read_link(format!("/proc/{}/root", other.id())).unwrap();
        assert_eq!(root.to_str(), Some("/"));
        drop(other.stdin.take());
        assert!(other.wait().unwrap().success());
    });
}

/// Makes a container that is in the mount namespace `link` and has the bundle's root all the same, a process that is
/// added to it too; then deletes it.
fn in_a_root_of_its_own(bundle: &mut Bundle<'_>, link: &Path) {
    bundle.set("/linux/maskedPaths", json!(["/proc/keys"]));
    bundle.create("trap 'exit 0' TERM; while :; do sleep 0.1; done");
    let pid = bundle.state_of("c1")["pid"].to_string();
    assert_eq!(fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap(), link);
    assert_eq!(fs::read_link(format!("/proc/{pid}/root")).unwrap(), bundle.rootfs());
    bundle.ok("start", &["c1"]);
    let script = "pwd; cat /proc/keys | wc -c; : > /made; cat /proc/self/mountinfo | grep -c ' /dev/pts '";
    assert_eq!(bundle.ok("exec", &["c1", "sh", "-c", script]), "/\n0\n1\n");
    assert!(bundle.rootfs().join("made").exists());
    bundle.ok("delete", &["-f", "c1"]);
}
