//! podman, through conmon.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use tests::{Need, Scratch, Systemd, eventually, require};

use super::{PATIENCE, Said, has_state, image, runtime};

pub(super) const NEEDS: [Need<'_>; 4] = [
    Need::Root,
    Need::Controllers(&["cpu", "memory", "pids"]),
    Need::Tool("podman"),
    Need::Tool("conmon"),
];

/// The user of the VM who has ids to map and no rights.
const USER: u32 = 1000;
const HOME: &str = "/home/user";

/// A podman of the test's own: its storage, its images.
pub(super) struct Podman {
    /// The one that makes its cgroups, [`USER`]'s too; without one it makes them itself. It ends before its places do.
    systemd: Option<Systemd>,
    scratch: Scratch,
    pub(super) image: String,
    /// Whether it belongs to [`USER`].
    is_rootless: bool,
}

impl Podman {
    pub(super) fn new(name: &str) -> Self {
        Self::of(Scratch::new(name), false, None)
    }

    /// One of [`USER`]'s, in directories of theirs.
    fn rootless(name: &str) -> Self {
        let scratch = Scratch::new(name);
        for dir in [HOME.into(), scratch.path("user"), scratch.path("user/runtime")] {
            std::fs::create_dir_all(&dir).unwrap();
            chown(&dir, Some(USER), Some(USER)).unwrap();
        }
        Self::of(scratch, true, None)
    }

    /// The same in a session with a systemd of theirs.
    fn in_session(name: &str) -> Self {
        let scratch = Scratch::new(name);
        for dir in [HOME.into(), scratch.path("user")] {
            std::fs::create_dir_all(&dir).unwrap();
            chown(&dir, Some(USER), Some(USER)).unwrap();
        }
        let systemd = Systemd::start_with_users(&scratch, USER);
        Self::of(scratch, true, Some(systemd))
    }

    fn of(scratch: Scratch, is_rootless: bool, systemd: Option<Systemd>) -> Self {
        let mut podman = Self {
            scratch,
            image: String::new(),
            is_rootless,
            systemd,
        };
        let layout = image(&podman.scratch);
        podman.image = podman.ok(&["pull", "--quiet", &format!("oci:{}", layout.display())]);
        podman
    }

    fn dir(&self) -> PathBuf {
        self.scratch.path(if self.is_rootless { "user" } else { "" })
    }

    /// Where the runtime keeps its state.
    fn state(&self) -> PathBuf {
        match &self.systemd {
            Some(systemd) => systemd.path(&format!("/run/user/{USER}/orlop-oci")),
            None if self.is_rootless => self.dir().join("runtime/orlop-oci"),
            None => "/run/orlop-oci".into(),
        }
    }

    pub(super) fn command(&self) -> Command {
        let before = self.systemd.iter().flat_map(|systemd| systemd.inside_as(USER));
        let mut line = before.chain(["podman".to_owned()]);
        let mut command = Command::new(line.next().unwrap());
        command.args(line);
        for (flag, dir) in [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(flag).arg(self.dir().join(dir));
        }
        command.arg("--runtime").arg(runtime());
        // As nobody in particular an overlay of a filesystem in memory takes a newer kernel.
        let driver = if self.is_rootless { "vfs" } else { "overlay" };
        command.args([
            "--cgroup-manager",
            if self.systemd.is_some() { "systemd" } else { "cgroupfs" },
            "--storage-driver",
            driver,
            "--events-backend",
            "none",
        ]);
        if self.is_rootless {
            command.current_dir(HOME).env("HOME", HOME).env("TMPDIR", self.dir());
        }
        if self.is_rootless && self.systemd.is_none() {
            command.uid(USER).gid(USER);
            command.env("XDG_RUNTIME_DIR", self.dir().join("runtime"));
        }
        command
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        Said::by(self.command().args(arguments)).ok()
    }

    /// Runs a shell script in a new container, with more flags of `podman run`.
    fn run(&self, flags: &[&str], script: &str) -> Said {
        let mut command = self.command();
        command.args(["run", "--rm", "--network", "none"]).args(flags);
        Said::by(command.args([&self.image, "sh", "-c", script]))
    }

    /// Starts a container in the background.
    #[track_caller]
    fn start(&self, name: &str, flags: &[&str], script: &str) {
        let run = ["run", "--detach", "--network", "none", "--name", name];
        self.ok(&[&run, flags, &[&self.image, "sh", "-c", script]].concat());
    }

    fn status(&self, name: &str) -> String {
        self.ok(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name])
    }

    /// Removes what is left; the runtime must have nothing left by then.
    pub(super) fn finish(self) {
        self.ok(&["rm", "--all", "--force", "--time", "0"]);
        assert!(!has_state(&self.state()), "a container's state was left behind");
        self.ok(&["rmi", "--all", "--force"]);
        if self.is_rootless {
            // The process that holds its user namespace ends with it.
            self.ok(&["system", "migrate"]);
        }
    }
}

#[test]
fn run_gives_what_was_asked_for() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let podman = Podman::new("podman-run");
    assert_eq!(podman.run(&[], "echo out; echo err >&2; exit 7").code, Some(7));
    let flags = [
        "--user=33:100",
        "--memory=64m",
        "--cpus=0.5",
        "--pids-limit=33",
        "--cap-drop=all",
        "--hostname=deck",
        "--env=A=b",
        "--workdir=/tmp",
        "--ulimit=nofile=99:99",
    ];
    let script = "id -u; id -g; cd /sys/fs/cgroup; cat memory.max cpu.max pids.max; cd -; \
                  grep -E 'CapBnd|Seccomp:' /proc/self/status; hostname; echo $A; ulimit -n";
    let expected = "33\n100\n67108864\n50000 100000\n33\n/tmp\nCapBnd:\t0000000000000000\nSeccomp:\t2\ndeck\nb\n99";
    assert_eq!(podman.run(&flags, script).ok(), expected);
    let script = "touch /x 2>&1 | grep -c Read-only; touch /tmp/x && echo writable";
    assert_eq!(podman.run(&["--read-only"], script).ok(), "1\nwritable");
    podman.finish();
}

#[test]
fn a_terminal_is_attached() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let podman = Podman::new("podman-tty");
    assert_eq!(podman.run(&["--tty"], "tty").ok(), "/dev/pts/0");
    podman.start("c", &["--tty"], "stty size; exec sleep 1000");
    let exec = ["exec", "--tty", "c", "sh", "-c", "tty; test -t 0 && echo yes"];
    assert_eq!(podman.ok(&exec).replace('\r', ""), "/dev/pts/1\nyes");
    podman.finish();
}

#[test]
fn a_container_is_driven_through_its_life() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let podman = Podman::new("podman-life");
    podman.start("c", &[], "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done");
    eventually(PATIENCE, "it is up", || podman.ok(&["logs", "c"]) == "up");
    assert_eq!(podman.ok(&["exec", "--user", "33", "c", "id", "-u"]), "33");
    assert_eq!(
        Said::by(podman.command().args(["exec", "c", "sh", "-c", "exit 9"])).code,
        Some(9)
    );
    assert_eq!(Said::by(podman.command().args(["exec", "c", "/none"])).code, Some(127));
    podman.ok(&["pause", "c"]);
    assert_eq!(podman.status("c"), "paused 0");
    podman.ok(&["unpause", "c"]);
    assert!(podman.ok(&["top", "c", "args"]).contains("sleep 0.1"));
    stops_starts_and_is_killed(&podman);
    podman.finish();
}

/// Of the container `c`, which exits with 5 when it is asked to end.
fn stops_starts_and_is_killed(podman: &Podman) {
    podman.ok(&["stop", "c"]);
    assert_eq!(podman.status("c"), "exited 5");
    podman.ok(&["start", "c"]);
    podman.ok(&["kill", "--signal", "KILL", "c"]);
    eventually(PATIENCE, "it is killed", || podman.status("c") == "exited 137");
}

#[test]
fn its_health_is_checked() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let podman = Podman::new("podman-health");
    let health = [
        "--health-cmd",
        "test -e /healthy",
        "--health-interval",
        "disable",
        "--health-retries",
        "1",
    ];
    podman.start("c", &health, "exec sleep 1000");
    assert_eq!(
        Said::by(podman.command().args(["healthcheck", "run", "c"])).code,
        Some(1)
    );
    podman.ok(&["exec", "c", "touch", "/healthy"]);
    podman.ok(&["healthcheck", "run", "c"]);
    podman.finish();
}

#[test]
fn who_is_not_root_has_containers_too() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], Need::Tool("newuidmap"));
    let podman = Podman::rootless("podman-rootless");
    let script =
        "id -u; grep -c . /proc/self/uid_map; touch /etc/mine && echo writable; cat /proc/self/uid_map | tr -s ' '";
    assert_eq!(
        podman.run(&[], script).ok(),
        "0\n2\nwritable\n 0 1000 1\n 1 100000 65536"
    );
    assert_eq!(podman.run(&["--user=33", "--read-only"], "id -u; exit 7").code, Some(7));
    podman.start("c", &[], "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done");
    eventually(PATIENCE, "it is up", || podman.ok(&["logs", "c"]) == "up");
    assert_eq!(podman.ok(&["exec", "--user", "33", "c", "id", "-u"]), "33");
    assert_eq!(podman.ok(&["exec", "--tty", "c", "tty"]), "/dev/pts/0");
    stops_starts_and_is_killed(&podman);
    podman.finish();
}

#[test]
fn who_is_not_root_has_containers_in_scopes_of_their_own_systemd() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], Need::Tool("newuidmap"));
    require!(Need::Path(Systemd::PROGRAM), Need::Tool("dbus-daemon"));
    let podman = Podman::in_session("podman-user");
    let flags = ["--memory=64m", "--pids-limit=33"];
    let script = "id -u; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max";
    assert_eq!(podman.run(&flags, script).ok(), "0\n67108864\n33");
    podman.start("c", &flags, "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done");
    eventually(PATIENCE, "it is up", || podman.ok(&["logs", "c"]) == "up");
    let id = podman.ok(&["inspect", "--format", "{{.Id}}", "c"]);
    let slice = format!("{}/user.slice", Systemd::USERS);
    let scope = || podman.systemd.as_ref()?.scope(&slice, &format!("libpod-{id}.scope"));
    let path = scope().expect("the scope is there");
    assert_eq!(std::fs::read_to_string(path.join("pids.max")).unwrap(), "33\n");
    assert_eq!(
        podman.ok(&["exec", "c", "grep", "-c", "^0::/$", "/proc/self/cgroup"]),
        "1"
    );
    podman.ok(&["pause", "c"]);
    podman.ok(&["unpause", "c"]);
    podman.ok(&["stop", "c"]);
    assert_eq!(podman.status("c"), "exited 5");
    eventually(PATIENCE, "the scope is gone", || scope().is_none());
    podman.finish();
}

/// The host's network: an older CRIU can't write a newer kernel's network namespace down.
#[test]
fn a_container_goes_on_from_its_checkpoint() {
    let criu = Need::Success(&["criu", "check"]);
    require!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], criu);
    let podman = Podman::new("podman-criu");
    let shared = podman.scratch.path("shared");
    std::fs::create_dir(&shared).unwrap();
    let volume = format!("--volume={}:/shared", shared.display());
    let script = "echo once >> /shared/begun; i=0; while :; do i=$((i+1)); echo $i > /shared/count; sleep 0.1; done";
    let run = ["run", "--detach", "--network", "host", "--name", "c", &volume];
    podman.ok(&[&run, [podman.image.as_str(), "sh", "-c", script].as_slice()].concat());
    let count = || {
        let text = std::fs::read_to_string(shared.join("count")).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    };
    eventually(PATIENCE, "it counts", || count() > 2);
    podman.ok(&["container", "checkpoint", "c"]);
    let before = count();
    assert!(podman.status("c").starts_with("exited"), "{}", podman.status("c"));
    podman.ok(&["container", "restore", "c"]);
    assert_eq!(podman.status("c"), "running 0");
    eventually(PATIENCE, "it goes on", || count() > before);
    assert_eq!(std::fs::read_to_string(shared.join("begun")).unwrap(), "once\n");
    podman.finish();
}
