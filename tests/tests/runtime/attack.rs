//! Known attacks on container runtimes, each against `orlop-oci`, where it must fail, and against the same program without
//! the guard that stops it, where it must succeed: an attack that fails there too would prove nothing.
//!
//! The guards and the advisories that they answer stand in `runtime::guard`.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, RenameFlags, fcntl, open, renameat2};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use serde_json::json;
use tests::{Need, binary_path, require, require_root, rounds};

use crate::bundle::{Bundle, Finished, link, with_bundle};
use crate::user::{FIRST, map};

/// What came of an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Held,
    Broken,
}

impl Outcome {
    fn broken_if(condition: bool) -> Self {
        if condition { Self::Broken } else { Self::Held }
    }
}

/// Attacks the runtime, then the one without `guard`.
#[track_caller]
fn prove(guard: &str, attack: impl Fn(&mut Bundle<'_>) -> Outcome) {
    require_root!();
    with_bundle("attack", |bundle| {
        assert_eq!(attack(bundle), Outcome::Held, "the attack works");
    });
    with_bundle("weakened", |bundle| {
        bundle.program = binary_path("orlop-oci-weakened");
        bundle.without = Some(guard.to_owned());
        assert_eq!(
            attack(bundle),
            Outcome::Broken,
            "the attack fails without {guard}, too: it proves nothing"
        );
    });
}

/// How often an attack that needs luck is tried: without the guard a tenth of it has been enough so far, and bad luck is
/// no proof of anything.
fn tries(bundle: &Bundle<'_>) -> u32 {
    if bundle.without.is_some() { 500 } else { 50 }
}

/// How many swaps an attack on a terminal is to see at least (`ORLOP_SWAPS`).
fn wanted_swaps() -> u64 {
    let wanted = std::env::var("ORLOP_SWAPS").ok();
    wanted.map_or(0, |wanted| wanted.parse().expect("ORLOP_SWAPS is a number"))
}

/// A directory of the host that a bundle does not name, and whether anything has been put into it.
fn outside(bundle: &Bundle<'_>) -> PathBuf {
    let outside = bundle.scratch.input().join("outside");
    fs::create_dir_all(&outside).unwrap();
    outside
}

fn is_touched(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().count() > 0
}

/// The way from a container's root to a path of the host, if `..` at the root led there.
fn way_up(path: &Path) -> String {
    format!("{}{}", "../".repeat(24), path.strip_prefix("/").unwrap().display())
}

#[test]
fn the_place_of_a_mount_is_a_link_to_the_host() {
    prove("DetachedHost", |bundle| {
        let outside = outside(bundle);
        bundle.file("data/file", "content");
        fs::create_dir_all(bundle.rootfs().join("volume")).unwrap();
        link(&bundle.rootfs(), "volume/link", &way_up(&outside));
        bundle.mount("bind", "data", "/volume/link/below", &["bind"]);
        bundle.run("true");
        Outcome::broken_if(is_touched(&outside))
    });
}

/// CVE-2021-30465: another container of the pod has the volume too, and swaps the place of a mount for a link meanwhile.
#[test]
fn the_place_of_a_mount_is_swapped_for_a_link_a_million_times() {
    let enough = rounds(1_000_000);
    prove("DetachedHost", |bundle| {
        let outside = outside(bundle);
        bundle.file("data/file", "content");
        let volume = bundle.dir().join("volume");
        fs::create_dir_all(volume.join("place")).unwrap();
        link(&volume, "link", &way_up(&outside));
        bundle.mount("bind", "volume", "/volume", &["bind"]);
        bundle.mount("bind", "data", "/volume/place/below", &["bind"]);
        let (place, other) = (volume.join("place"), volume.join("link"));
        let (swaps, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = renameat2(AT_FDCWD, &place, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE);
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            });
            while swaps.load(Ordering::Relaxed) < enough && !is_touched(&outside) {
                let finished = bundle.run("true");
                assert!(matches!(finished.code, Some(0 | 1)), "{finished:?}");
            }
            is_over.store(true, Ordering::Relaxed);
        });
        Outcome::broken_if(is_touched(&outside))
    });
}

/// CVE-2024-45310: what is only to be mounted on is made on the host.
#[test]
fn the_file_to_mount_on_is_made_on_the_host() {
    prove("DetachedHost", |bundle| {
        let outside = outside(bundle);
        bundle.file("file", "content");
        fs::create_dir_all(bundle.rootfs().join("volume")).unwrap();
        link(&bundle.rootfs(), "volume/link", &way_up(&outside));
        bundle.mount("bind", "file", "/volume/link/made", &["bind"]);
        bundle.run("true");
        Outcome::broken_if(is_touched(&outside))
    });
}

#[test]
fn proc_is_a_link_to_what_the_image_has_prepared() {
    prove("RealDirectories", |bundle| {
        fs::create_dir_all(bundle.rootfs().join("elsewhere")).unwrap();
        link(&bundle.rootfs(), "proc", "/elsewhere");
        Outcome::broken_if(bundle.run("true").code == Some(0))
    });
}

/// CVE-2024-21626: a directory of the host that somebody has left open becomes the working directory.
#[test]
fn the_working_directory_is_a_descriptor_of_the_host() {
    prove("ResolvedInside", |bundle| {
        with_leaked_directory(bundle, |bundle, number| {
            bundle.set("/process/cwd", json!(format!("/proc/self/fd/{number}")));
            let finished = bundle.run("cat bait");
            Outcome::broken_if(finished.out == "bait")
        })
    });
}

#[test]
fn a_descriptor_of_the_host_is_left_open() {
    prove("ClosedDescriptors", |bundle| {
        with_leaked_directory(bundle, |bundle, number| {
            let finished = bundle.run(&format!("cat /proc/self/fd/{number}/bait"));
            Outcome::broken_if(finished.out == "bait")
        })
    });
}

/// Leaves a directory of the host open, with a `bait` in it, for the runtime to inherit.
fn with_leaked_directory(bundle: &mut Bundle<'_>, attack: impl FnOnce(&mut Bundle<'_>, i32) -> Outcome) -> Outcome {
    let outside = outside(bundle);
    fs::write(outside.join("bait"), "bait").unwrap();
    let directory = open(&outside, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    // Beyond the numbers that the runtime uses itself. It stays open: the test is a process of its own.
    let number = fcntl(&directory, FcntlArg::F_DUPFD(40)).unwrap();
    attack(bundle, number)
}

/// CVE-2019-5736: who gets hold of the file of the program that made the container waits until it is not busy.
#[test]
fn the_runtimes_program_is_overwritten() {
    prove("SealedProgram", |bundle| {
        // A file of its own, which no other test executes: a program that runs can't be written to anyway.
        let copy = bundle.dir().join("runtime");
        let copied = Command::new("cp").arg(&bundle.program).arg(&copy).status().unwrap();
        assert!(copied.success());
        bundle.program = copy;
        let container = bundle.start("trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done");
        let path = format!("/proc/{}/exe", container.runtime_pid());
        let program = open(path.as_str(), OFlag::O_PATH, Mode::empty()).unwrap();
        kill(Pid::from_raw(container.runtime_pid()), Signal::SIGTERM).unwrap();
        assert_eq!(container.wait(), Some(0));
        let path = format!("/proc/self/fd/{}", program.as_raw_fd());
        Outcome::broken_if(fs::OpenOptions::new().write(true).open(path).is_ok())
    });
}

/// CVE-2025-31133: a file is to be hidden by /dev/null, which the image has replaced.
#[test]
fn a_masked_file_shows_what_the_image_calls_null() {
    prove("TrustedNull", |bundle| {
        fs::write(bundle.rootfs().join("key"), "secret").unwrap();
        bundle.file("dev/null", "bait");
        let dev = json!({ "destination": "/dev", "type": "bind", "source": "dev", "options": ["bind"] });
        bundle.set("/mounts/1", dev);
        bundle.set("/linux/maskedPaths", json!(["/key"]));
        Outcome::broken_if(bundle.run("cat /key").out == "bait")
    });
}

/// CVE-2025-52881: what the runtime writes to /proc lands in a file that was mounted over it.
#[test]
fn a_setting_of_the_kernel_is_written_to_a_file_of_the_image() {
    prove("DetachedProc", |bundle| {
        let bait = bundle.file("bait", "");
        bundle.mount("bind", "bait", "/proc/sys/net/ipv4/ip_forward", &["bind"]);
        bundle.set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" }));
        bundle.run("true");
        Outcome::broken_if(!fs::read_to_string(bait).unwrap().is_empty())
    });
}

#[test]
fn a_process_inherits_capabilities_that_nobody_gave_it() {
    prove("PlainCapabilities", |bundle| {
        let kill = json!({ "bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"] });
        bundle.set("/process/capabilities", kill);
        let said = bundle.say("grep CapInh /proc/self/status");
        Outcome::broken_if(!said.contains("0000000000000000"))
    });
}

#[test]
fn a_joining_process_does_what_the_filter_forbids() {
    prove("FilteredExec", |bundle| {
        let rule = json!({ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" });
        bundle.set(
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }),
        );
        let container = bundle.start("trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done");
        let made = Finished::of(bundle.oci("exec").args(["c1", "mkdir", "/made"])).code;
        kill(Pid::from_raw(container.runtime_pid()), Signal::SIGTERM).unwrap();
        assert_eq!(container.wait(), Some(0));
        Outcome::broken_if(made == Some(0))
    });
}

#[test]
fn a_device_is_opened_that_nobody_has_allowed() {
    // A device that every kernel has and that does nothing when it is opened.
    let misc = fs::read_to_string("/proc/misc").unwrap();
    let line = misc.lines().find(|line| line.ends_with(" cpu_dma_latency")).unwrap();
    let minor: u32 = line.split_whitespace().next().unwrap().parse().unwrap();
    prove("DeniedDevices", |bundle| {
        let set = json!(["CAP_MKNOD"]);
        bundle.set(
            "/process/capabilities",
            json!({ "bounding": set, "permitted": set, "effective": set }),
        );
        let finished = bundle.run(&format!("mknod /device c 10 {minor} && : < /device"));
        Outcome::broken_if(finished.code == Some(0))
    });
}

/// CVE-2016-9962: somebody in the container looks for a process that is joining it, and for what that has open. Both have
/// the same few rights by then, so that nothing else keeps them apart.
#[test]
fn a_joining_process_is_looked_into() {
    prove("UndumpableJoin", |bundle| {
        let spy =
            "trap 'exit 0' TERM; echo up; while :; do ls -l /proc/[0-9]*/exe 2> /dev/null | grep -v busybox; done";
        let container = bundle.start(spy);
        // The program is one of the container's; what is seen under another name is the runtime.
        let is_seen = || container.said().lines().any(|line| line.contains("/exe -> "));
        for _ in 0..tries(bundle) {
            let joined = Finished::of(bundle.oci("exec").args(["c1", "true"]));
            assert_eq!(joined.code, Some(0), "{joined:?}");
            if is_seen() {
                break;
            }
        }
        let outcome = Outcome::broken_if(is_seen());
        kill(Pid::from_raw(container.runtime_pid()), Signal::SIGTERM).unwrap();
        assert_eq!(container.wait(), Some(0));
        outcome
    });
}

/// CVE-2023-25809: the cgroup belongs to the user who is root in the container, and has no namespace around it.
#[test]
fn a_cgroup_is_changed_from_inside() {
    prove("ReadOnlyCgroup", |bundle| {
        map(bundle, FIRST, 65536);
        let namespaces = bundle.config["linux"]["namespaces"].as_array().unwrap();
        let but_cgroup = namespaces
            .iter()
            .filter(|namespace| namespace["type"] != "cgroup")
            .cloned();
        let but_cgroup = but_cgroup.collect();
        bundle.set("/linux/namespaces", but_cgroup);
        bundle.mount("cgroup", "cgroup", "/sys/fs/cgroup", &["nosuid", "nodev", "noexec"]);
        let own = tests::cgroup_root().join(bundle.scratch.cgroup_parent()).join("c1");
        fs::create_dir_all(&own).unwrap();
        chown(&own, Some(FIRST), Some(FIRST)).unwrap();
        let finished = bundle.run("mkdir /sys/fs/cgroup/made");
        let _ = fs::remove_dir(own.join("made"));
        let _ = fs::remove_dir(own);
        Outcome::broken_if(finished.code == Some(0))
    });
}

/// CVE-2025-52565: another container shares the directory of the terminals, and swaps it when the terminal has been made.
#[test]
fn the_console_is_a_file_that_was_put_in_the_terminals_place() {
    prove("TerminalOfMaster", |bundle| {
        bundle.file("dev/other/0", "bait");
        fs::create_dir_all(bundle.dir().join("dev/pts")).unwrap();
        let dev = json!({ "destination": "/dev", "type": "bind", "source": "dev", "options": ["bind"] });
        bundle.set("/mounts/1", dev);
        bundle.set("/process/terminal", json!(true));
        let (place, other) = (bundle.dir().join("dev/pts"), bundle.dir().join("dev/other"));
        let (swaps, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let enough = if bundle.without.is_some() { 0 } else { wanted_swaps() };
        let mut outcome = Outcome::Held;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = renameat2(AT_FDCWD, &place, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE);
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            });
            let mut tried = 0;
            while tried < tries(bundle) || swaps.load(Ordering::Relaxed) < enough {
                tried += 1;
                let finished = bundle.run("if test -c /dev/console; then echo terminal; else cat /dev/console; fi");
                if finished.out.contains("bait") {
                    outcome = Outcome::Broken;
                    break;
                }
            }
            is_over.store(true, Ordering::Relaxed);
            eprintln!("{tried} containers, {} swaps", swaps.load(Ordering::Relaxed));
        });
        outcome
    });
}

#[test]
fn the_name_of_a_container_leads_out_of_the_state_directory() {
    prove("PlainNames", |bundle| {
        let outside = outside(bundle);
        fs::write(outside.join("file"), "content").unwrap();
        let state = bundle.state();
        fs::create_dir_all(&state).unwrap();
        bundle.verb("delete", &["--force", "../outside"]);
        Outcome::broken_if(!outside.exists())
    });
}

/// No attack, but proven in the same way: the allocator of test builds ends a process that allocates before its exec.
#[test]
fn memory_is_allocated_between_clone_and_exec() {
    prove("QuietChild", |bundle| {
        let finished = bundle.run("true");
        Outcome::broken_if(finished.err.contains("memory was allocated between clone and exec"))
    });
}

/// The same for who is root in a user namespace, and may look into whatever that one owns. It has the time to: the process
/// is slow before its first step and before it executes anything, and so is a hook in those namespaces.
#[test]
fn who_joins_a_user_namespace_is_looked_into() {
    require!(Need::Root, Need::Tool("strace"));
    prove("UndumpableJoin", |bundle| {
        map(bundle, FIRST, 65536);
        let set = json!(["CAP_SYS_PTRACE"]);
        bundle.set(
            "/process/capabilities",
            json!({ "bounding": set, "permitted": set, "effective": set }),
        );
        let spy =
            "trap 'exit 0' TERM; echo up; while :; do ls -l /proc/[0-9]*/exe 2> /dev/null | grep -v busybox; done";
        let container = bundle.start(spy);
        let slow = "umask,execve";
        let [traced, delayed] = [format!("trace={slow}"), format!("inject={slow}:delay_enter=300000")];
        let slowly = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &traced, "-e", &delayed].map(String::from);
        bundle.around.0 = slowly.into();
        let joined = Finished::of(bundle.oci("exec").args(["c1", "true"]));
        assert_eq!(joined.code, Some(0), "{joined:?}");

        let mut second = Bundle::of_state(bundle.scratch);
        (second.program, second.without) = (bundle.program.clone(), bundle.without.clone());
        second.around = bundle.around.clone();
        let join =
            |kind: &str, file: &str| json!({ "type": kind, "path": format!("/proc/{}/ns/{file}", container.pid()) });
        second.config["linux"]["namespaces"] = json!([
            join("user", "user"), join("pid", "pid"), join("network", "net"), join("ipc", "ipc"),
            { "type": "mount" }, { "type": "uts" },
        ]);
        let cgroup = format!("{}/c2", bundle.scratch.cgroup_parent());
        second.set("/linux/cgroupsPath", json!(cgroup));
        let hook = json!({ "path": "/bin/busybox", "args": ["true"] });
        second.set("/hooks", json!({ "createContainer": [hook] }));
        second.set("/process/args", json!(["true"]));
        let joined = Finished::of(&mut second.command("c2"));
        assert_eq!(joined.code, Some(0), "{joined:?}");

        let outcome = Outcome::broken_if(container.said().lines().any(|line| line.contains("/exe -> ")));
        kill(Pid::from_raw(container.runtime_pid()), Signal::SIGTERM).unwrap();
        assert_eq!(container.wait(), Some(0));
        outcome
    });
}
