//! A node of a test's own: the real agent in a network namespace, a cgroup and directories of the test, and the real
//! command line beside it.
#![expect(clippy::unwrap_used, reason = "a helper of tests: a failure is the test's")]

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::{LeakAudit, NetworkNamespace, Scratch, binary, eventually};

/// How long something may take on a busy machine under emulation.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// The agent's own places; what it keeps nowhere else.
const PLACES: [(&str, &str); 5] = [
    ("--root-dir", "root"),
    ("--state-dir", "state"),
    ("--run-dir", "run"),
    ("--log-dir", "log"),
    ("--container-log-dir", "links"),
];

pub(crate) struct Node<'a> {
    scratch: &'a Scratch,
    network: &'a NetworkNamespace,
    places: Vec<String>,
    agent: Option<Child>,
}

/// Runs a test on a node with the busybox image loaded, then cleans up as a user would and audits what is left.
pub(crate) fn with_node(name: &str, test: impl FnOnce(&mut Node<'_>)) {
    let scratch = Scratch::new(name);
    let network = NetworkNamespace::new();
    let audit = LeakAudit::begin(&scratch, &[&network]);
    let mut node = Node::new(&scratch, &network);
    let image = tests::image::busybox(&scratch.input().join("image")).unwrap();
    node.start();
    node.ok(&["load", "-i", image.to_str().unwrap()]);
    test(&mut node);
    node.clean_up();
    audit.finish();
}

impl<'a> Node<'a> {
    fn new(scratch: &'a Scratch, network: &'a NetworkNamespace) -> Self {
        let mut places: Vec<String> = Vec::new();
        for (flag, dir) in PLACES {
            places.extend([flag.to_owned(), scratch.path(dir).display().to_string()]);
        }
        // Made by the agent and gone with the clean-up.
        let bpf = format!("/sys/fs/bpf/{}", scratch.id());
        places.extend(["--bpf-dir".to_owned(), bpf]);
        places.extend(["--cgroup-parent".to_owned(), scratch.cgroup_parent().to_owned()]);
        places.extend(["--service-cgroup".to_owned(), scratch.cgroup_parent().to_owned()]);
        scratch.cgroup();
        std::fs::create_dir_all(scratch.input().join("manifests")).unwrap();
        Self {
            scratch,
            network,
            places,
            agent: None,
        }
    }

    /// Starts the agent and waits until it answers.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        let mut command = binary("orlop");
        command
            .args(["agent", "--node-name", "n1", "--manifests"])
            .arg(self.scratch.input().join("manifests"));
        command
            .args(&self.places)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.agent = Some(self.network.run(|| command.spawn()).unwrap());
        eventually(PATIENCE, "the agent answers", || {
            let is_up = self.orlop(&["version"]).status.success();
            if is_up { Ok(()) } else { Err(self.tail()) }
        });
    }

    /// What becomes of another agent on the same directories.
    pub(crate) fn second_agent(&self) -> Output {
        let mut command = binary("orlop");
        command
            .args(["agent", "--manifests"])
            .arg(self.scratch.input().join("manifests"))
            .args(&self.places);
        self.network.run(|| command.output()).unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    fn log(&self) -> PathBuf {
        self.scratch.input().join("agent.log")
    }

    /// A path below the node's directories: `run/pods`.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.scratch.path(relative)
    }

    /// What is given to the node, and is nothing of its own.
    pub(crate) fn input(&self) -> PathBuf {
        self.scratch.input()
    }

    /// Writes a manifest as an editor does: beside, then renamed.
    pub(crate) fn manifest(&self, name: &str, text: &str) -> PathBuf {
        let path = self.scratch.input().join("manifests").join(name);
        let fresh = path.with_extension("tmp");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        path
    }

    pub(crate) fn remove_manifest(&self, name: &str) {
        std::fs::remove_file(self.scratch.input().join("manifests").join(name)).unwrap();
    }

    /// Runs `orlop` with these words.
    pub(crate) fn orlop(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = binary("orlop");
        command.arg("--socket").arg(self.path("run/agent.sock")).args(words);
        command
    }

    /// The same, which must succeed; its stdout.
    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let output = self.orlop(words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "orlop {words:?}: {}\n{}",
            stderr(&output),
            self.tail()
        );
        text
    }

    /// The same, which must fail; its stderr.
    #[track_caller]
    pub(crate) fn fails(&self, words: &[&str]) -> String {
        let output = self.orlop(words);
        assert_eq!(output.status.code(), Some(1), "orlop {words:?}: {}", stderr(&output));
        stderr(&output)
    }

    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let output = self.orlop(&[words, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// A pod as the agent shows it; null when there is none.
    pub(crate) fn pod(&self, name: &str) -> Value {
        self.json(&["get", "pod", name])
    }

    #[track_caller]
    pub(crate) fn wait_ready(&self, name: &str) -> Value {
        eventually(PATIENCE, &format!("pod {name} is ready"), || {
            let pod = self.pod(name);
            let is_ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
            let ready = pod["status"]["conditions"]
                .as_array()
                .is_some_and(|all| all.iter().any(is_ready));
            if ready {
                Ok(pod)
            } else {
                Err(format!("{}\n{}", pod["status"], self.tail()))
            }
        })
    }

    #[track_caller]
    pub(crate) fn wait_phase(&self, name: &str, phase: &str) -> Value {
        eventually(PATIENCE, &format!("pod {name} is {phase}"), || {
            let pod = self.pod(name);
            if pod["status"]["phase"] == phase {
                Ok(pod)
            } else {
                Err(format!("{}\n{}", pod["status"], self.tail()))
            }
        })
    }

    /// Where it is.
    pub(crate) fn network(&self) -> &'a NetworkNamespace {
        self.network
    }

    /// What a process of the node hears at `http://ADDRESS`, or why it hears nothing.
    pub(crate) fn http(&self, address: &str) -> Result<String, String> {
        // Whose children have controllers has no processes of its own.
        let script = r#"mkdir -p "$0" && echo $$ > "$0/cgroup.procs" && exec busybox wget -q -O - "http://$1""#;
        let mut command = Command::new("sh");
        let cgroup = self.scratch.cgroup().join("client");
        command.args(["-c", script]).arg(&cgroup).arg(address);
        let output = self.network.run(|| command.output()).unwrap();
        std::fs::remove_dir(&cgroup).unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(stderr(&output))
        }
    }

    #[track_caller]
    pub(crate) fn wait_gone(&self, name: &str) {
        eventually(PATIENCE, &format!("pod {name} is gone"), || {
            let pod = self.pod(name);
            if pod.is_null() {
                Ok(())
            } else {
                Err(format!("{}\n{}", pod["status"], self.tail()))
            }
        });
    }

    /// The shim's process and the container's, of a pod with one container.
    pub(crate) fn shim_pid(&self, pod: &Value) -> String {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let text = std::fs::read(self.path(&format!("run/pods/{uid}/shim.json"))).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()["pid"].to_string()
    }

    /// What pods have left in the directories that are theirs.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let dirs = ["run/pods", "root/pods", "state/containers", "log", "links"].map(|dir| self.path(dir));
        let entries = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten());
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.leftovers(), Vec::<PathBuf>::new());
    }

    /// Makes the node look as after a reboot, for one pod: its processes and its run directory are gone.
    pub(crate) fn forget(&self, run: &Path, pod: &Value) {
        std::fs::write(self.scratch.cgroup().join("kubepods/cgroup.kill"), "1").unwrap();
        let shim: i32 = self.shim_pid(pod).parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
        for mount in ["ns/net", "ns/ipc", "ns/uts", "shm"] {
            nix::mount::umount2(&run.join(mount), nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
        std::fs::remove_dir_all(run).unwrap();
    }

    /// The first lines of `logs -f`, across restarts.
    pub(crate) fn follow(&self, pod: &str, lines: usize) -> Vec<String> {
        let mut follow = self
            .command(&["logs", "-f", pod])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = std::io::BufReader::new(follow.stdout.take().unwrap());
        let seen = output.lines().take(lines).map(Result::unwrap).collect();
        follow.kill().unwrap();
        follow.wait().unwrap();
        seen
    }

    /// The end of the agent's log, for messages of failed tests.
    fn tail(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn clean_up(&mut self) {
        self.kill_agent();
        let mut command = binary("orlop");
        command.arg("cleanup").args(&self.places);
        let output = self.network.run(|| command.output()).unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

/// A failed test leaves no agent and no pod behind either.
impl Drop for Node<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.kill_agent();
            let mut command = binary("orlop");
            command.arg("cleanup").args(&self.places);
            let _ = self.network.run(|| command.output());
        }
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A pod of one busybox container that runs `script`; `more` is put below `spec`.
pub(crate) fn pod(name: &str, script: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Pod\n\
         metadata: {{name: {name}, labels: {{app: {name}}}}}\n\
         spec:\n  \
           terminationGracePeriodSeconds: 1\n  \
           containers:\n  \
           - name: main\n    \
             image: {image}\n    \
             command: [sh, -c, '{script}']\n{more}",
        image = tests::image::BUSYBOX,
    )
}
