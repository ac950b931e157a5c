//! Known attacks on container runtimes, each against `orlop-oci`, where it must fail, and against the same program without
//! the guard that stops it, where it must succeed: an attack that fails there too would prove nothing.
//!
//! The guards and the advisories that they answer stand in `runtime::guard`.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, RenameFlags, fcntl, open, renameat2};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use serde_json::json;
use tests::{binary_path, require_root};

use crate::bundle::{Bundle, Finished, link, with_bundle};

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
    const SWAPS: u64 = 1_000_000;
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
            while swaps.load(Ordering::Relaxed) < SWAPS && !is_touched(&outside) {
                let finished = bundle.run("true");
                assert!(matches!(finished.code, Some(0 | 1)), "{finished:?}");
            }
            is_over.store(true, Ordering::Relaxed);
        });
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
