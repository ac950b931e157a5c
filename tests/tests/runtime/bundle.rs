//! A bundle of a test's own, and what came of running it.

use std::fs;
use std::io::pipe;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::{LeakAudit, Scratch, binary_path, eventually};

/// How long a container may take to come up or go.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Programs of busybox that the tests use.
const APPLETS: [&str; 26] = [
    "sh", "cat", "chmod", "cut", "dd", "echo", "env", "grep", "head", "id", "kill", "ls", "mkdir", "mknod", "mount",
    "ps", "pwd", "readlink", "sed", "sleep", "stat", "test", "touch", "true", "umount", "wc",
];

/// Goes into a cgroup, sees it as the root of the hierarchy, and becomes the command that follows.
const SEE_ONLY: &str = r#"echo $$ > "$0/cgroup.procs" && exec unshare --cgroup --mount sh -c \
    'umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"' sh "$@""#;

/// A bundle, its config.json before it is written, and the state directory of its containers.
pub(crate) struct Bundle<'a> {
    pub(crate) config: Value,
    pub(crate) scratch: &'a Scratch,
    /// The runtime under test.
    pub(crate) program: PathBuf,
    /// A guard that a weakened runtime is to do without.
    pub(crate) without: Option<String>,
    /// What stands before the runtime on the command line, and its global flags: nothing for ours.
    pub(crate) around: (Vec<String>, Vec<String>),
}

/// What a command of `orlop-oci` returned and said.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a test with a bundle; nothing of it may be left afterwards.
pub(crate) fn with_bundle(name: &str, test: impl FnOnce(&mut Bundle<'_>)) {
    let scratch = Scratch::new(name);
    scratch.cgroup();
    let audit = LeakAudit::begin(&scratch, &[]);
    let mut bundle = Bundle::new(&scratch);
    test(&mut bundle);
    let state = fs::read_dir(bundle.state()).map_or(0, Iterator::count);
    assert_eq!(state, 0, "a container's state was left behind");
    audit.finish();
}

impl<'a> Bundle<'a> {
    fn new(scratch: &'a Scratch) -> Self {
        let bundle = Self {
            config: config(scratch),
            scratch,
            program: binary_path("orlop-oci"),
            without: None,
            around: (Vec::new(), Vec::new()),
        };
        let bin = bundle.rootfs().join("bin");
        fs::create_dir_all(&bin).unwrap();
        // By a program of its own: a process that another test starts meanwhile could keep our copy of the file open for
        // writing, and then the kernel would not execute it.
        assert!(
            Command::new("cp")
                .arg("/bin/busybox")
                .arg(&bin)
                .status()
                .unwrap()
                .success()
        );
        for applet in APPLETS {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        bundle
    }

    /// A second bundle with the root of the first one.
    pub(crate) fn of_state(scratch: &'a Scratch) -> Self {
        Self {
            config: config(scratch),
            scratch,
            program: binary_path("orlop-oci"),
            without: None,
            around: (Vec::new(), Vec::new()),
        }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.scratch.input().join("bundle")
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir().join("rootfs")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.scratch.input().join("state")
    }

    /// A new file below the bundle with this content.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// The place in the config that a JSON pointer names; its last part is made if it is missing.
    pub(crate) fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = self.config.pointer_mut(parent).unwrap();
        match (parent.as_array_mut(), name) {
            (Some(list), "-") => list.push(value),
            (Some(list), index) => list[index.parse::<usize>().unwrap()] = value,
            (None, name) => parent[name] = value,
        }
        self
    }

    /// Adds a mount.
    pub(crate) fn mount(&mut self, kind: &str, source: &str, destination: &str, options: &[&str]) -> &mut Self {
        let mount = json!({ "type": kind, "source": source, "destination": destination, "options": options });
        self.set("/mounts/-", mount)
    }

    /// Runs a shell script in a container, in the foreground.
    pub(crate) fn run(&mut self, script: &str) -> Finished {
        self.set("/process/args", json!(["sh", "-c", script]));
        self.run_as_it_is()
    }

    /// As [`Bundle::run`], and the script must succeed. Returns what it said.
    #[track_caller]
    pub(crate) fn say(&mut self, script: &str) -> String {
        let finished = self.run(script);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        finished.out
    }

    /// The container has the mounts of its spec in the order of the spec.
    pub(crate) fn lists_its_mounts_in_their_order(&mut self) {
        let said = self.say("cut -d ' ' -f 5 /proc/self/mountinfo");
        let wanted = self.config["mounts"].as_array().unwrap().iter();
        let wanted: Vec<_> = wanted.map(|mount| mount["destination"].as_str().unwrap()).collect();
        let listed: Vec<_> = said.lines().filter(|place| wanted.contains(place)).collect();
        assert_eq!(listed, wanted);
    }

    /// From now on the runtime sees `cgroup` as the root of the hierarchy, in which no controller has been turned on.
    pub(crate) fn see_only(&mut self, cgroup: &Path) {
        let before = ["sh", "-c", SEE_ONLY, cgroup.to_str().unwrap()];
        self.around.0 = before.map(String::from).into();
        self.set("/linux/cgroupsPath", json!("/c1"));
    }

    pub(crate) fn run_as_it_is(&mut self) -> Finished {
        Finished::of(&mut self.command("c1"))
    }

    /// The command that runs the bundle as container `id`.
    pub(crate) fn command(&self, id: &str) -> Command {
        self.file("config.json", &self.config.to_string());
        let mut command = self.oci("run");
        command.arg("--bundle").arg(self.dir()).arg(id);
        command
    }

    pub(crate) fn oci(&self, verb: &str) -> Command {
        let (before, flags) = &self.around;
        let program = self.program.clone().into_os_string();
        let mut line = before.iter().map(Into::into).chain([program]);
        let mut command = Command::new(line.next().unwrap());
        command.args(line).arg("--root").arg(self.state()).args(flags).arg(verb);
        // A peer gives its stdin to the container's root: /dev/null would be that of the whole machine.
        let (nothing, _) = pipe().unwrap();
        command.stdin(nothing);
        command.envs(self.without.iter().map(|guard| ("ORLOP_WEAKEN", guard)));
        command
    }

    /// Starts a container whose script says `up` in time, and leaves it running.
    pub(crate) fn start(&mut self, script: &str) -> Background {
        self.set("/process/args", json!(["sh", "-c", script]));
        self.background(|_| {})
    }

    /// As [`Bundle::start`], with its arguments as they are, and the command as `change` makes it.
    pub(crate) fn background(&self, change: impl FnOnce(&mut Command)) -> Background {
        let out = self.dir().join("out");
        let stdout = fs::File::create(&out).unwrap();
        let pid_file = self.dir().join("pid");
        let mut command = self.command("c1");
        change(&mut command);
        let child = command
            .arg("--pid-file")
            .arg(&pid_file)
            .stdout(stdout)
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let background = Background { child, out, pid_file };
        eventually(PATIENCE, "the container is up", || background.said().contains("up\n"));
        background
    }
}

/// A container in the background.
pub(crate) struct Background {
    child: Child,
    out: PathBuf,
    pid_file: PathBuf,
}

impl Background {
    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// The container's init, as the host sees it.
    pub(crate) fn pid(&self) -> i32 {
        fs::read_to_string(&self.pid_file).unwrap().parse().unwrap()
    }

    /// The `orlop-oci` that stands in for it.
    pub(crate) fn runtime_pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

/// Only a test that has failed leaves it running.
impl Drop for Background {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.pid()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

impl Finished {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

/// A symbolic link in a rootfs.
pub(crate) fn link(rootfs: &Path, name: &str, target: &str) {
    let path = rootfs.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(target, path).unwrap();
}

fn config(scratch: &Scratch) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "box",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
        ],
        "linux": {
            "cgroupsPath": format!("/{}/c1", scratch.cgroup_parent()),
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "cgroup" },
            ],
        },
    })
}
