//! Docker's engine with `orlop-oci` as its default runtime.

use std::path::Path;
use std::process::Command;

use tests::{Need, Scratch, eventually, require};

use super::{Daemon, PATIENCE, Said, has_state, image, runtime};

const NEEDS: [Need<'_>; 4] = [
    Need::Root,
    Need::Controllers(&["cpu", "memory", "pids"]),
    Need::Tool("dockerd"),
    Need::Tool("skopeo"),
];

/// A Docker of the test's own, without a network: that is not the runtime's.
struct Docker {
    scratch: Scratch,
    daemon: Option<Daemon>,
}

impl Docker {
    fn start(name: &str) -> Self {
        let mut docker = Self {
            scratch: Scratch::new(name),
            daemon: None,
        };
        let mut command = Command::new("dockerd");
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(flag).arg(docker.scratch.path(name));
        }
        command.arg("--host").arg(docker.host());
        command
            .arg("--add-runtime")
            .arg(format!("orlop={}", runtime().display()));
        command.args([
            "--default-runtime",
            "orlop",
            "--bridge",
            "none",
            "--iptables=false",
            "--ip6tables=false",
        ]);
        command.args([
            "--exec-opt",
            "native.cgroupdriver=cgroupfs",
            "--storage-driver",
            "overlay2",
        ]);
        let daemon = Daemon::start(&mut command, docker.scratch.path("log"), || {
            Said::by(docker.command().arg("version")).code == Some(0)
        });
        docker.daemon = Some(daemon);
        docker.load();
        docker
    }

    fn load(&self) {
        let (layout, archive) = (image(&self.scratch), self.scratch.path("image.tar"));
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--quiet", "--insecure-policy"]);
        copy.arg(format!("oci:{}", layout.display()));
        Said::by(copy.arg(format!("docker-archive:{}:demo:1", archive.display()))).ok();
        self.ok(&["load", "--quiet", "--input", archive.to_str().unwrap()]);
    }

    fn host(&self) -> String {
        format!("unix://{}", self.scratch.path("sock").display())
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(self.host());
        command
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        Said::by(self.command().args(arguments)).ok()
    }

    fn run(&self, flags: &[&str], script: &str) -> Said {
        let mut command = self.command();
        command.args(["run", "--rm"]).args(flags);
        Said::by(command.args(["demo:1", "sh", "-c", script]))
    }

    fn status(&self, name: &str) -> String {
        self.ok(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name])
    }

    fn finish(self) {
        assert_eq!(self.ok(&["ps", "--all", "--quiet"]), "");
        assert!(
            !has_state(Path::new("/run/docker/runtime-runc/moby")),
            "a container's state was left behind"
        );
    }
}

#[test]
fn the_engine_drives_containers_through_their_life() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let docker = Docker::start("docker");
    let flags = [
        "--memory=64m",
        "--pids-limit=33",
        "--user=33",
        "--read-only",
        "--cap-drop=ALL",
        "--tmpfs=/tmp",
    ];
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; id -u; grep Seccomp: /proc/self/status; \
                  cat /proc/self/attr/apparmor/current";
    assert_eq!(
        docker.run(&flags, script).ok(),
        "67108864\n33\n33\nSeccomp:\t2\ndocker-default (enforce)"
    );
    assert_eq!(docker.run(&[], "exit 7").code, Some(7));
    assert_eq!(docker.run(&["--tty"], "tty").ok(), "/dev/pts/0");

    let script = "trap 'exit 5' TERM; while :; do sleep 0.1; done";
    docker.ok(&["run", "--detach", "--name", "deck", "demo:1", "sh", "-c", script]);
    assert_eq!(docker.ok(&["exec", "deck", "echo", "inside"]), "inside");
    assert_eq!(
        Said::by(docker.command().args(["exec", "deck", "sh", "-c", "exit 9"])).code,
        Some(9)
    );
    docker.ok(&["pause", "deck"]);
    assert_eq!(docker.status("deck"), "paused 0");
    docker.ok(&["unpause", "deck"]);
    docker.ok(&["update", "--memory", "32m", "--memory-swap", "32m", "deck"]);
    assert_eq!(
        docker.ok(&["exec", "deck", "cat", "/sys/fs/cgroup/memory.max"]),
        "33554432"
    );
    assert!(docker.ok(&["top", "deck"]).contains("sleep 0.1"));
    docker.ok(&["stop", "deck"]);
    assert_eq!(docker.status("deck"), "exited 5");
    docker.ok(&["start", "deck"]);
    docker.ok(&["kill", "deck"]);
    eventually(PATIENCE, "it is killed", || docker.status("deck") == "exited 137");
    docker.ok(&["rm", "deck"]);
    docker.finish();
}
