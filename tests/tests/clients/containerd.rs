//! containerd, through its own shim for runc.

use std::path::PathBuf;
use std::process::Command;

use tests::{Need, Scratch, cgroup_root, eventually, require};

use super::{Daemon, PATIENCE, Said, image, runtime};

pub(super) const NEEDS: [Need<'_>; 3] = [
    Need::Root,
    Need::Controllers(&["cpu", "memory", "pids"]),
    Need::Tool("containerd"),
];

/// A containerd of the test's own.
pub(super) struct Containerd {
    scratch: Scratch,
    daemon: Option<Daemon>,
}

impl Containerd {
    pub(super) fn start(name: &str) -> Self {
        let mut containerd = Self {
            scratch: Scratch::new(name),
            daemon: None,
        };
        let scratch = &containerd.scratch;
        let path = |name: &str| scratch.path(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("sock")
        );
        std::fs::write(scratch.path("config.toml"), config).unwrap();
        let mut command = Command::new("containerd");
        command.arg("--config").arg(scratch.path("config.toml"));
        let daemon = Daemon::start(&mut command, scratch.path("log"), || {
            Said::by(containerd.ctr().arg("version")).code == Some(0)
        });
        containerd.daemon = Some(daemon);
        containerd.load();
        containerd
    }

    /// containerd takes archives, not directories.
    fn load(&self) {
        let (layout, archive) = (image(&self.scratch), self.scratch.path("image.tar"));
        let mut tar = Command::new("tar");
        Said::by(tar.arg("-C").arg(layout).arg("-cf").arg(&archive).arg(".")).ok();
        self.ok(&["images", "import", archive.to_str().unwrap()]);
    }

    pub(super) fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.scratch.path("sock"));
        command
    }

    #[track_caller]
    pub(super) fn ok(&self, arguments: &[&str]) -> String {
        Said::by(self.ctr().args(arguments)).ok()
    }

    /// `ctr run` with our runtime; the image comes after the flags.
    fn run(&self, flags: &[&str], name: &str, script: &str) -> Said {
        let mut command = self.ctr();
        command.arg("run").arg("--runc-binary").arg(runtime()).args(flags);
        Said::by(command.args([tests::image::BUSYBOX, name, "sh", "-c", script]))
    }

    /// Where containerd's shim lets the runtime keep its state.
    fn state(&self) -> PathBuf {
        PathBuf::from("/run/containerd/runc/default")
    }

    fn is_running(&self, name: &str) -> bool {
        let tasks = self.ok(&["tasks", "ls"]);
        let line = tasks.lines().find(|line| line.starts_with(name));
        line.is_some_and(|line| line.contains("RUNNING"))
    }

    pub(super) fn finish(self) {
        assert_eq!(self.ok(&["tasks", "ls", "--quiet"]), "");
        assert!(!super::has_state(&self.state()), "a container's state was left behind");
    }
}

#[test]
fn run_gives_what_was_asked_for() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let containerd = Containerd::start("ctr-run");
    let flags = ["--rm", "--env", "A=b", "--cwd", "/tmp"];
    assert_eq!(containerd.run(&flags, "c1", "echo $A; pwd").ok(), "b\n/tmp");
    assert_eq!(containerd.run(&["--rm"], "c2", "exit 7").code, Some(7));
    containerd.finish();
}

#[test]
fn a_task_is_driven_through_its_life() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let containerd = Containerd::start("ctr-life");
    let script = "trap 'exit 5' TERM; while :; do sleep 0.1; done";
    let flags = ["--detach", "--memory-limit", "67108864"];
    containerd.run(&flags, "c", script).ok();
    let limit = cgroup_root().join("default/c/memory.max");
    assert_eq!(std::fs::read_to_string(limit).unwrap(), "67108864\n");
    assert_eq!(
        containerd.ok(&["tasks", "exec", "--exec-id", "e", "c", "echo", "inside"]),
        "inside"
    );
    let failing = ["tasks", "exec", "--exec-id", "f", "c", "sh", "-c", "exit 9"];
    assert_eq!(Said::by(containerd.ctr().args(failing)).code, Some(9));
    containerd.ok(&["tasks", "pause", "c"]);
    assert!(containerd.ok(&["tasks", "ls"]).contains("PAUSED"));
    containerd.ok(&["tasks", "resume", "c"]);
    assert!(containerd.is_running("c"));
    assert!(containerd.ok(&["tasks", "metrics", "c"]).contains("memory"));
    assert!(containerd.ok(&["tasks", "ps", "c"]).lines().count() >= 2);
    containerd.ok(&["tasks", "kill", "c"]);
    eventually(PATIENCE, "it has ended", || !containerd.is_running("c"));
    containerd.ok(&["tasks", "rm", "c"]);
    containerd.ok(&["containers", "rm", "c"]);
    containerd.finish();
}
