//! Other people's tools with `orlop-oci` in the place of runc, and `orlop-cni` in that of CNI's plugins: podman, containerd
//! and Docker as Debian ships them.
//!
//! They need the cgroup v2 controllers, so most of this runs in the VM, which carries them on a disk of its own.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests panic like the tests")]

mod containerd;
mod docker;
mod network;
mod podman;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Scratch, binary_path};

/// How long a client may take for one step.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a client's command returned and said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn by(command: &mut Command) -> Self {
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("run {command:?}: {error}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// What it said on standard output; it must have succeeded.
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "it said {:?} and {:?}", self.out, self.err);
        self.out
    }
}

/// A client's daemon, ended on drop.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it and waits until it answers to `ready`.
    fn start(command: &mut Command, log: PathBuf, ready: impl Fn() -> bool) -> Self {
        let file = File::create(&log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let daemon = Self {
            child: command.spawn().unwrap(),
            log,
        };
        let end = tests::stretched(PATIENCE);
        let start = std::time::Instant::now();
        while !ready() {
            assert!(start.elapsed() < end, "it does not come up: {}", daemon.said());
            std::thread::sleep(Duration::from_millis(100));
        }
        daemon
    }

    /// Its log.
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// The runtime under test.
fn runtime() -> PathBuf {
    binary_path("orlop-oci")
}

/// The image of busybox as an OCI layout.
fn image(scratch: &Scratch) -> PathBuf {
    tests::image::busybox(&scratch.path("layout")).unwrap()
}

/// Whether the runtime keeps the state of any container, where it does unless told otherwise.
fn has_state(root: &Path) -> bool {
    std::fs::read_dir(root).is_ok_and(|entries| entries.count() > 0)
}
