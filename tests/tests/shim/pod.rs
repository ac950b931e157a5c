//! One pod directory with a real podshim, and busybox containers to put in it.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use runtime::client::{ClientError, Connection, Executed};
use runtime::proto::{ContainerKey, ContainerState, Create, Exec, ExitRecord, FailureKind, Rootfs, Status};
use runtime::shim::record;
use serde_json::{Value, json};
use tests::{LeakAudit, Scratch, binary, eventually};

/// How long anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A pod directory with a running shim.
pub(crate) struct Pod<'a> {
    pub(crate) scratch: &'a Scratch,
    pub(crate) dir: PathBuf,
    pub(crate) pid: i32,
}

/// Runs a test with a pod of its own, ends the shim properly and checks that nothing is left.
pub(crate) fn with_pod(name: &str, test: impl FnOnce(&Pod<'_>)) {
    let scratch = Scratch::new(name);
    let audit = LeakAudit::begin(&scratch, &[]);
    let pod = Pod::spawn(&scratch);
    test(&pod);
    pod.finish();
    audit.finish();
}

/// Names a container.
pub(crate) fn key(name: &str) -> ContainerKey {
    ContainerKey {
        container: name.try_into().unwrap(),
        attempt: 0,
    }
}

/// The kind of refusal that a call got.
#[track_caller]
pub(crate) fn refusal<T>(result: Result<T, ClientError>) -> FailureKind {
    match result {
        Err(ClientError::Refused(failure)) => failure.kind,
        Err(error) => panic!("not refused but {error:?}"),
        Ok(_) => panic!("not refused"),
    }
}

impl<'a> Pod<'a> {
    /// Spawns a shim as the agent does: plain exec, the listening socket as stdin.
    pub(crate) fn spawn(scratch: &'a Scratch) -> Self {
        let dir = scratch.path("pod");
        fs::create_dir_all(&dir).unwrap();
        let _ = fs::remove_file(dir.join("shim.sock"));
        let listener = UnixListener::bind(dir.join("shim.sock")).unwrap();
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(dir.join("shim.log"))
            .unwrap();
        let mut command = binary("podshim");
        command
            .arg("--pod-dir")
            .arg(&dir)
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn().unwrap();
        // Closes this process' copy of the socket: only the shim may answer.
        drop(command);
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(said, "ready\n", "{}", fs::read_to_string(dir.join("shim.log")).unwrap());
        let pid = record::read_shim(&dir).unwrap().unwrap().pid;
        Self {
            scratch,
            dir,
            pid: pid.try_into().unwrap(),
        }
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::connect(&self.dir.join("shim.sock"), PATIENCE).unwrap()
    }

    pub(crate) fn kill_shim(&self) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        eventually(PATIENCE, "the shim is gone", || !is_alive(self.pid));
    }

    pub(crate) fn cgroup(&self, name: &str) -> PathBuf {
        self.scratch.cgroup().join(name)
    }

    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        self.scratch.path(format!("logs/{name}/0.log"))
    }

    /// What a container has written, without the prefixes of its log.
    pub(crate) fn log(&self, name: &str) -> Vec<(String, String, String)> {
        let text = fs::read_to_string(self.log_path(name)).unwrap();
        let entries = text.lines().map(|line| {
            let mut parts = line.splitn(4, ' ').map(str::to_owned);
            let time = parts.next().unwrap();
            assert!(time.len() == 30 && time.ends_with('Z'), "{line:?}");
            (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap())
        });
        entries.collect()
    }

    /// A container that runs a shell script.
    pub(crate) fn shell(&self, name: &str, script: &str) -> Create {
        self.container(name, &["/bin/sh", "-c", script])
    }

    pub(crate) fn container(&self, name: &str, arguments: &[&str]) -> Create {
        self.container_from(name, spec(arguments))
    }

    pub(crate) fn container_from(&self, name: &str, spec: Value) -> Create {
        Create {
            container: name.try_into().unwrap(),
            attempt: 0,
            spec: serde_json::from_value(spec).unwrap(),
            rootfs: Rootfs::Directory(rootfs(&self.scratch.input())),
            log_path: self.log_path(name),
            cgroup: Some(self.cgroup(name)),
        }
    }

    /// Creates and starts.
    pub(crate) fn run(&self, create: Create) -> u32 {
        let mut connection = self.connect();
        let key = ContainerKey {
            container: create.container.clone(),
            attempt: create.attempt,
        };
        let created = connection.create(create, PATIENCE).unwrap();
        connection.start(&key, PATIENCE).unwrap();
        created.pid
    }

    pub(crate) fn state(&self, name: &str) -> ContainerState {
        let containers = self.connect().list(PATIENCE).unwrap();
        containers.into_iter().find(|state| state.key == key(name)).unwrap()
    }

    /// Waits until a container has ended.
    #[track_caller]
    pub(crate) fn exit(&self, name: &str) -> ExitRecord {
        eventually(PATIENCE, "the container ends", || self.state(name).exit)
    }

    pub(crate) fn exec(&self, connection: &mut Connection, name: &str, id: &str, process: Value) -> Executed {
        connection.exec(exec(name, id, process), PATIENCE).unwrap()
    }

    /// Ends all containers and the shim, and removes the rest.
    pub(crate) fn finish(&self) {
        self.end();
        self.remove();
    }

    /// Ends all containers and the shim.
    pub(crate) fn end(&self) {
        let mut connection = self.connect();
        for state in connection.list(PATIENCE).unwrap() {
            connection.signal(&state.key, libc_sigkill(), true, PATIENCE).unwrap();
            eventually(PATIENCE, "the container is deleted", || {
                self.connect().delete(&state.key, PATIENCE)
            });
        }
        connection.shutdown(PATIENCE).unwrap();
        eventually(PATIENCE, "the shim is gone", || !is_alive(self.pid));
    }

    /// Removes what a shim leaves to the agent.
    pub(crate) fn remove(&self) {
        eventually(PATIENCE, "the shim is gone", || !is_alive(self.pid));
        assert!(!self.dir.join("shim.sock").exists());
        fs::remove_dir_all(&self.dir).unwrap();
        let _ = fs::remove_dir_all(self.scratch.path("logs"));
        let _ = fs::remove_dir(self.scratch.cgroup());
    }
}

impl Drop for Pod<'_> {
    /// After a failed test nobody else ends the shim.
    fn drop(&mut self) {
        if std::thread::panicking() && is_alive(self.pid) {
            self.kill_shim();
        }
    }
}

pub(crate) fn exec(name: &str, id: &str, process: Value) -> Exec {
    Exec {
        key: key(name),
        exec_id: id.try_into().unwrap(),
        process: serde_json::from_value(process).unwrap(),
        stdin: true,
    }
}

const fn libc_sigkill() -> i32 {
    nix::sys::signal::Signal::SIGKILL as i32
}

/// Whether a process runs; a zombie does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    !matches!(state, None | Some(b'Z' | b'X'))
}

/// A process as the OCI spec has it.
pub(crate) fn process(arguments: &[&str], terminal: bool) -> Value {
    json!({
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": arguments,
        "env": ["PATH=/bin"],
        "cwd": "/",
    })
}

/// A small spec with namespaces of its own.
pub(crate) fn spec(arguments: &[&str]) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": process(arguments, false),
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {"namespaces": [
            {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"},
        ]},
    })
}

/// A root file system of busybox, made once per test.
fn rootfs(input: &Path) -> PathBuf {
    let root = input.join("rootfs");
    if !root.exists() {
        for directory in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        // By a program of its own: while this one has the file open for writing, a process that another test spawns
        // may hold a copy of that, and the kernel runs no file that is open for writing.
        assert!(
            Command::new("cp")
                .arg("/bin/busybox")
                .arg(root.join("bin"))
                .status()
                .unwrap()
                .success()
        );
        for applet in [
            "sh", "cat", "echo", "sleep", "head", "tr", "id", "true", "tty", "stty", "kill", "ls", "yes", "dd",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
    }
    root
}

/// Waits until a container has the status.
#[track_caller]
pub(crate) fn reaches(pod: &Pod<'_>, name: &str, status: Status) {
    eventually(PATIENCE, "the status is reached", || pod.state(name).status == status);
}
