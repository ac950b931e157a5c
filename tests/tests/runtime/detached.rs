//! Containers without anybody who stands in for them: who their parent is, and what they inherit.

use std::fs;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Command;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;
use tests::{eventually, require_root};

use crate::bundle::{Bundle, Finished, PATIENCE, with_bundle};
use crate::peer::{Runtime, with_each};
use crate::user::{FIRST, map};

fn pid(bundle: &Bundle<'_>) -> i32 {
    bundle.state_of("c1")["pid"].as_i64().unwrap().try_into().unwrap()
}

fn children() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let lists = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
    lists
        .collect::<Vec<_>>()
        .join(" ")
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

#[test]
fn the_callers_subreaper_gets_the_container_and_nothing_else() {
    require_root!();
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    with_each("subreaper", |bundle, _| {
        let before = children();
        bundle.create("exit 7");
        let pid = pid(bundle);
        let new: Vec<_> = children().into_iter().filter(|child| !before.contains(child)).collect();
        assert_eq!(new, [pid], "create has left something else behind");
        bundle.ok("start", &["c1"]);
        let ended = waitpid(Pid::from_raw(pid), None).unwrap();
        assert_eq!(ended, WaitStatus::Exited(Pid::from_raw(pid), 7));
        bundle.becomes("stopped");
        bundle.ok("delete", &["c1"]);
    });
    nix::sys::prctl::set_child_subreaper(false).unwrap();
}

#[test]
fn a_detached_run_ends_at_once_and_the_container_lives_on() {
    require_root!();
    with_each("run-detach", |bundle, _| {
        bundle.set("/process/args", json!(["sh", "-c", "touch /ran; sleep 1000"]));
        bundle.file("config.json", &bundle.config.to_string());
        let (dir, pid_file) = (bundle.dir(), bundle.dir().join("pid"));
        let [dir, pid_file] = [&dir, &pid_file].map(|path| path.to_str().unwrap());
        bundle.ok("run", &["--detach", "--pid-file", pid_file, "--bundle", dir, "c1"]);
        eventually(PATIENCE, "the program runs", || bundle.has("ran"));
        assert_eq!(bundle.status(), "running");
        assert_eq!(fs::read_to_string(pid_file).unwrap(), pid(bundle).to_string());
        bundle.ok("delete", &["-f", "c1"]);
    });
}

fn received(listener: &UnixListener) -> OwnedFd {
    let (connection, _) = listener.accept().unwrap();
    let (mut bytes, mut space) = ([0; 64], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg(&connection, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    assert!(message.bytes > 0, "some receivers want a name beside the descriptor");
    let descriptors = |part| {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            Some(descriptors)
        } else {
            None
        }
    };
    let mut descriptors = control.drain().filter_map(descriptors);
    descriptors.next().unwrap().next().unwrap()
}

/// The next line that a terminal shows.
fn line(mut terminal: fs::File) -> String {
    let (mut said, mut byte) = (Vec::new(), [0]);
    while terminal.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        said.push(byte[0]);
    }
    String::from_utf8(said).unwrap().trim().to_owned()
}

#[test]
fn the_terminal_goes_to_the_console_socket() {
    require_root!();
    with_each("console", |bundle, _| {
        bundle.set("/process/terminal", json!(true));
        bundle.set(
            "/process/args",
            json!([
                "sh",
                "-c",
                "test -t 0 && test -t 2 && echo it is a terminal; sleep 1000"
            ]),
        );
        bundle.file("config.json", &bundle.config.to_string());
        let (dir, socket) = (bundle.dir(), bundle.scratch.path("input/s"));
        let listener = UnixListener::bind(&socket).unwrap();
        let [dir, socket] = [&dir, &socket].map(|path| path.to_str().unwrap().to_owned());
        bundle.ok("create", &["--console-socket", &socket, "--bundle", &dir, "c1"]);
        let terminal = fs::File::from(received(&listener));
        bundle.ok("start", &["c1"]);
        assert_eq!(line(terminal), "it is a terminal");
        let flags = [
            "--tty",
            "--detach",
            "--console-socket",
            &socket,
            "c1",
            "sh",
            "-c",
            "test -t 0 && echo exec; sleep 9",
        ];
        bundle.ok("exec", &flags);
        assert_eq!(line(fs::File::from(received(&listener))), "exec");
        bundle.ok("delete", &["-f", "c1"]);
        fs::remove_file(&socket).unwrap();
    });
}

#[test]
fn a_terminal_without_anybody_to_hold_it_is_refused() {
    require_root!();
    with_each("no-console", |bundle, _| {
        let dir = bundle.dir();
        let dir = dir.to_str().unwrap();
        bundle.set("/process/terminal", json!(true));
        bundle.file("config.json", &bundle.config.to_string());
        assert!(!bundle.fails("create", &["--bundle", dir, "c1"]).is_empty());
        bundle.set("/process/terminal", json!(false));
        bundle.file("config.json", &bundle.config.to_string());
        if bundle.program.ends_with("orlop-oci") {
            assert!(
                bundle
                    .fails("create", &["--console-socket", "/s", "--bundle", dir, "c1"])
                    .contains("--console-socket")
            );
        }
        bundle.verb("delete", &["-f", "c1"]);
    });
}

/// A shell that opens 3, 4 and 5 before it becomes the runtime.
fn with_descriptors(bundle: &Bundle<'_>, verb: &str, arguments: &[&str], before: &str) -> Finished {
    let inner = bundle.oci(verb);
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{before} exec \"$@\"")).arg("sh");
    command.arg(inner.get_program()).args(inner.get_args()).args(arguments);
    Finished::of(&mut command)
}

#[test]
fn as_many_descriptors_as_asked_for_are_inherited() {
    require_root!();
    with_each("preserve-fds", |bundle, _| {
        let file = bundle.file("passed", "content\n");
        bundle.set(
            "/process/args",
            json!([
                "sh",
                "-c",
                "cat <&4; ls /proc/1/fd; cat /proc/1/environ | tr '\\0' '\\n'"
            ]),
        );
        bundle.file("config.json", &bundle.config.to_string());
        let open = format!("exec 3</dev/null 4<{0} 5<{0};", file.display());
        let dir = bundle.dir();
        let dir = dir.to_str().unwrap();
        let finished = with_descriptors(bundle, "run", &["--preserve-fds", "2", "--bundle", dir, "c1"], &open);
        assert!(finished.out.starts_with("content\n0\n1\n2\n3\n4\n"), "{finished:?}");
        assert!(!finished.out.contains("\n5\n"), "{finished:?}");
        if bundle.program.ends_with("orlop-oci") {
            let closed = with_descriptors(bundle, "run", &["--preserve-fds", "9", "--bundle", dir, "c1"], &open);
            assert!(
                closed.err.contains("--preserve-fds: descriptor 6 is not open"),
                "{closed:?}"
            );
        }
    });
}

#[test]
fn sockets_of_a_service_manager_are_passed_on() {
    require_root!();
    with_each("listen-fds", |bundle, runtime| {
        bundle.set(
            "/process/args",
            json!(["sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; cat <&3"]),
        );
        bundle.file("config.json", &bundle.config.to_string());
        let file = bundle.file("passed", "content\n");
        let open = format!("exec 3<{}; export LISTEN_FDS=1 LISTEN_PID=$$;", file.display());
        let dir = bundle.dir();
        let finished = with_descriptors(bundle, "run", &["--bundle", dir.to_str().unwrap(), "c1"], &open);
        // crun does not look at LISTEN_PID's process of the wrapper.
        if runtime != Runtime::Crun {
            assert_eq!(finished.out, "1 1\ncontent\n", "{finished:?}");
        }
    });
}

#[test]
fn a_started_container_has_its_streams_and_nothing_else() {
    require_root!();
    with_each("gate-fds", |bundle, _| {
        bundle.create("exec sleep 1000");
        bundle.ok("start", &["c1"]);
        let directory = format!("/proc/{}", pid(bundle));
        let command = || fs::read_to_string(format!("{directory}/cmdline")).unwrap_or_default();
        eventually(PATIENCE, "the program runs", || command().starts_with("sleep"));
        let entries = fs::read_dir(format!("{directory}/fd")).unwrap();
        let mut fds: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        fds.sort();
        assert_eq!(fds, ["0", "1", "2"]);
        bundle.ok("delete", &["-f", "c1"]);
    });
}

/// All that the gate takes is read(2) and write(2), which a filter that lets a program do anything has to allow.
#[test]
fn the_strictest_filter_does_not_lock_a_waiting_container_in() {
    require_root!();
    for no_new_privileges in [true, false] {
        with_bundle("gate-seccomp", |bundle| {
            let denied = [
                "accept4",
                "recvfrom",
                "recvmsg",
                "sendto",
                "sendmsg",
                "openat",
                "openat2",
                "faccessat2",
                "poll",
            ];
            let rule = json!({ "names": denied, "action": "SCMP_ACT_KILL_PROCESS" });
            bundle.set(
                "/linux/seccomp",
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }),
            );
            bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
            bundle.create("exit 0");
            let pid = pid(bundle);
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let filtered = if no_new_privileges {
                "Seccomp:\t0"
            } else {
                "Seccomp:\t2"
            };
            assert!(status.contains(filtered), "{status}");
            bundle.ok("start", &["c1"]);
            bundle.becomes("stopped");
            bundle.ok("delete", &["c1"]);
        });
    }
}

#[test]
fn a_start_that_fails_says_why() {
    require_root!();
    with_bundle("start-fails", |bundle| {
        bundle.set("/process/args", json!(["/text"]));
        let text = bundle.rootfs().join("text");
        fs::write(&text, "no program").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&text, mode).unwrap();
        bundle.file("config.json", &bundle.config.to_string());
        let dir = bundle.dir();
        bundle.ok("create", &["--bundle", dir.to_str().unwrap(), "c1"]);
        let finished = bundle.verb("start", &["c1"]);
        assert_eq!(finished.code, Some(126), "{finished:?}");
        assert!(
            finished
                .err
                .contains("exec \"/text\", for process.args: Exec format error"),
            "{finished:?}"
        );
        bundle.becomes("stopped");
        bundle.ok("delete", &["c1"]);
    });
}

#[test]
fn without_cgroups_a_container_stays_in_its_callers() {
    require_root!();
    with_bundle("no-cgroups", |bundle| {
        bundle.around.1 = ["--cgroup-manager", "disabled"].map(String::from).into();
        bundle.set(
            "/linux/namespaces",
            json!([{ "type": "mount" }, { "type": "pid" }, { "type": "uts" }]),
        );
        let ours = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert_eq!(bundle.say("cat /proc/self/cgroup"), ours);
        assert!(!bundle.scratch.cgroup().join("c1").exists());
    });
}

#[test]
fn the_root_can_be_moved_instead_of_pivoted() {
    require_root!();
    with_each("no-pivot", |bundle, _| {
        bundle.set(
            "/process/args",
            json!([
                "sh",
                "-c",
                "ls / | grep -c proc; cat /proc/self/mountinfo | wc -l; ls /.."
            ]),
        );
        bundle.file("config.json", &bundle.config.to_string());
        let dir = bundle.dir();
        let finished = Finished::of(
            bundle
                .oci("run")
                .args(["--no-pivot", "--bundle", dir.to_str().unwrap(), "c1"]),
        );
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(
            finished.out.contains("bin") && !finished.out.contains("etc"),
            "{finished:?}"
        );
    });
}

/// One of the host's that were still there would let root of a user namespace inside mount one without masks.
#[test]
fn a_root_that_is_moved_leaves_no_procfs_of_the_host_behind() {
    require_root!();
    with_bundle("no-pivot-proc", |bundle| {
        let another = bundle.dir().join("another proc");
        fs::create_dir_all(&another).unwrap();
        let mounts = format!(
            "mount -t proc proc /proc && mount -t proc proc '{}' && exec \"$@\"",
            another.display()
        );
        let before = ["unshare", "-m", "--propagation", "private", "sh", "-c", &mounts, "sh"];
        bundle.around.0 = before.map(String::from).into();
        bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
        bundle.set("/linux/maskedPaths", json!(["/proc/interrupts"]));
        let script = "busybox unshare -Urmpf mount -t proc proc /proc && echo mounted";
        bundle.set("/process/args", json!(["sh", "-c", script]));
        let refuses = |bundle: &Bundle<'_>| {
            let finished = Finished::of(bundle.command("c1").arg("--no-pivot"));
            assert!(finished.err.contains("mount: "), "{finished:?}");
            assert_eq!(finished.out, "", "{finished:?}");
        };
        refuses(bundle);
        // In a user namespace they can't be unmounted.
        map(bundle, FIRST, 65536);
        refuses(bundle);
    });
}

#[test]
fn a_keyring_is_new_unless_told() {
    require_root!();
    if !std::path::Path::new("/proc/keys").exists() {
        eprintln!("SKIP: {} needs a kernel with keys", module_path!());
        return;
    }
    with_each("keyring", |bundle, _| {
        bundle.set(
            "/process/args",
            json!(["sh", "-c", "cat /proc/keys | grep -c _ses; true"]),
        );
        bundle.file("config.json", &bundle.config.to_string());
        let dir = bundle.dir();
        for flags in [&["--no-new-keyring"][..], &[]] {
            let finished = Finished::of(
                bundle
                    .oci("run")
                    .args(flags)
                    .args(["--bundle", dir.to_str().unwrap(), "c1"]),
            );
            assert_eq!(finished.code, Some(0), "{finished:?}");
        }
    });
}

/// The hook's parent is the runtime; the container's process waits for the hook at that moment.
#[test]
fn a_container_whose_creator_is_killed_ends_and_can_be_deleted() {
    require_root!();
    with_bundle("killed", |bundle| {
        let killer = json!({ "path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID"] });
        bundle.set("/hooks", json!({ "createRuntime": [killer] }));
        bundle.set("/process/args", json!(["sleep", "1000"]));
        bundle.file("config.json", &bundle.config.to_string());
        let dir = bundle.dir();
        let killed = bundle.verb("create", &["--bundle", dir.to_str().unwrap(), "c1"]);
        assert_eq!(killed.code, None, "{killed:?}");
        assert_eq!(bundle.status(), "creating");
        let members = || fs::read_to_string(bundle.scratch.cgroup().join("c1/cgroup.procs")).unwrap();
        eventually(PATIENCE, "its process ends", || members().is_empty());
        assert!(bundle.fails("delete", &["c1"]).contains("not stopped: creating"));
        bundle.ok("delete", &["--force", "c1"]);
        assert!(!bundle.scratch.cgroup().join("c1").exists());
    });
}

#[test]
fn what_is_kept_is_there_until_it_is_deleted() {
    require_root!();
    with_bundle("keep", |bundle| {
        bundle.set("/process/args", json!(["sh", "-c", "exit 3"]));
        bundle.file("config.json", &bundle.config.to_string());
        let dir = bundle.dir();
        let run = bundle.verb("run", &["--keep", "--bundle", dir.to_str().unwrap(), "c1"]);
        assert_eq!(run.code, Some(3), "{run:?}");
        assert_eq!(bundle.status(), "stopped");
        assert!(bundle.scratch.cgroup().join("c1").exists());
        bundle.ok("delete", &["c1"]);
    });
}

/// An orphan of a container without a pid namespace goes to the runtime that stands in for it, or past it to ours.
#[test]
fn what_a_container_leaves_behind_is_adopted_unless_told() {
    require_root!();
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    for flags in [&[][..], &["--no-subreaper"]] {
        with_bundle("subreaper", |bundle| {
            bundle.set("/linux/namespaces", json!([{ "type": "mount" }, { "type": "uts" }]));
            let orphan = "sh -c 'sh -c \"echo \\$\\$ > /orphan; while :; do sleep 0.1; done\" & sleep 0.2' ; ";
            let script = format!("{orphan} while ! test -f /go; do sleep 0.05; done");
            bundle.set("/process/args", json!(["sh", "-c", script]));
            bundle.file("config.json", &bundle.config.to_string());
            let dir = bundle.dir();
            let mut run = bundle.oci("run");
            let run = run.args(flags).args(["--bundle", dir.to_str().unwrap(), "c1"]);
            let mut child = run.spawn().unwrap();
            let number = || fs::read_to_string(bundle.rootfs().join("orphan")).unwrap_or_default();
            eventually(PATIENCE, "the orphan runs", || !number().trim().is_empty());
            let adopter = if flags.is_empty() {
                child.id()
            } else {
                std::process::id()
            };
            let status = || fs::read_to_string(format!("/proc/{}/status", number().trim())).unwrap();
            eventually(PATIENCE, "it is adopted", || {
                status().contains(&format!("PPid:\t{adopter}\n"))
            });
            fs::write(bundle.rootfs().join("go"), "").unwrap();
            assert!(child.wait().unwrap().success());
            for orphan in children() {
                let _ = waitpid(Pid::from_raw(orphan), None);
            }
        });
    }
    nix::sys::prctl::set_child_subreaper(false).unwrap();
}

#[test]
fn a_pidfd_goes_to_who_asks_for_it() {
    require_root!();
    with_bundle("pidfd-socket", |bundle| {
        bundle.set("/process/args", json!(["sleep", "1000"]));
        bundle.file("config.json", &bundle.config.to_string());
        let (dir, socket) = (bundle.dir(), bundle.scratch.path("input/s"));
        let listener = UnixListener::bind(&socket).unwrap();
        let [dir, socket] = [&dir, &socket].map(|path| path.to_str().unwrap().to_owned());
        bundle.ok("create", &["--pidfd-socket", &socket, "--bundle", &dir, "c1"]);
        let pidfd = received(&listener);
        let info =
            fs::read_to_string(format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&pidfd))).unwrap();
        assert!(info.contains(&format!("Pid:\t{}\n", pid(bundle))), "{info}");
        bundle.ok("delete", &["c1"]);
    });
}

#[test]
fn one_that_waits_ends_when_it_is_asked_to() {
    require_root!();
    with_each("ask-to-end", |bundle, runtime| {
        if runtime == Runtime::Crun {
            // The kernel keeps the signal from it, as from every first process without a handler.
            return;
        }
        for signal in ["TERM", "INT", "HUP"] {
            bundle.create("exec sleep 1000");
            bundle.ok("kill", &["c1", signal]);
            let has_ended = || bundle.state_of("c1")["status"] == "stopped";
            eventually(PATIENCE, "it ends", has_ended);
            bundle.ok("delete", &["c1"]);
        }
    });
}

#[test]
fn one_that_is_about_to_end_can_be_deleted() {
    require_root!();
    with_bundle("last-moments", |bundle| {
        bundle.create("touch /ran; sleep 0.02");
        bundle.ok("start", &["c1"]);
        eventually(PATIENCE, "it has done its work", || bundle.has("ran"));
        bundle.ok("delete", &["c1"]);
    });
}

#[test]
fn an_exec_inherits_as_many_descriptors_as_asked_for() {
    require_root!();
    with_each("exec-fds", |bundle, _| {
        bundle.create("exec sleep 1000");
        bundle.ok("start", &["c1"]);
        let file = bundle.file("passed", "content\n");
        let open = format!("exec 3<{0} 4<{0};", file.display());
        let finished = with_descriptors(
            bundle,
            "exec",
            &["--preserve-fds", "1", "c1", "sh", "-c", "cat <&3; ls /proc/$$/fd; true"],
            &open,
        );
        assert_eq!(finished.out, "content\n0\n1\n2\n3\n", "{finished:?}");
        bundle.ok("delete", &["-f", "c1"]);
    });
}

#[test]
fn an_exec_waits_in_a_paused_container_if_told() {
    require_root!();
    with_bundle("ignore-paused", |bundle| {
        bundle.create("exec sleep 1000");
        bundle.ok("start", &["c1"]);
        bundle.ok("pause", &["c1"]);
        let mut exec = bundle.oci("exec");
        let mut child = exec.args(["--ignore-paused", "c1", "touch", "/execd"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!bundle.has("execd") && child.try_wait().unwrap().is_none());
        bundle.ok("resume", &["c1"]);
        assert!(child.wait().unwrap().success() && bundle.has("execd"));
        bundle.ok("delete", &["-f", "c1"]);
    });
}
