//! podman, through conmon.

use std::path::Path;
use std::process::Command;

use tests::{Need, Scratch, eventually, require};

use super::{PATIENCE, Said, has_state, image, runtime};

pub(super) const NEEDS: [Need<'_>; 4] = [
    Need::Root,
    Need::Controllers(&["cpu", "memory", "pids"]),
    Need::Tool("podman"),
    Need::Tool("conmon"),
];

/// A podman of the test's own: its storage, its images.
pub(super) struct Podman {
    scratch: Scratch,
    pub(super) image: String,
}

impl Podman {
    pub(super) fn new(name: &str) -> Self {
        let mut podman = Self {
            scratch: Scratch::new(name),
            image: String::new(),
        };
        let layout = image(&podman.scratch);
        podman.image = podman.ok(&["pull", "--quiet", &format!("oci:{}", layout.display())]);
        podman
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("podman");
        for (flag, dir) in [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(flag).arg(self.scratch.path(dir));
        }
        command.arg("--runtime").arg(runtime());
        command.args([
            "--cgroup-manager",
            "cgroupfs",
            "--storage-driver",
            "overlay",
            "--events-backend",
            "none",
        ]);
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
        assert!(
            !has_state(Path::new("/run/orlop-oci")),
            "a container's state was left behind"
        );
        self.ok(&["rmi", "--all", "--force"]);
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
    podman.ok(&["stop", "c"]);
    assert_eq!(podman.status("c"), "exited 5");
    podman.ok(&["start", "c"]);
    podman.ok(&["kill", "--signal", "KILL", "c"]);
    eventually(PATIENCE, "it is killed", || podman.status("c") == "exited 137");
    podman.finish();
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
