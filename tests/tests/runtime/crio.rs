//! The runtime as CRI-O calls it: by conmon to make or restore a container and to run what it wants the output of, directly
//! for all else. The lines are those of CRI-O's `internal/oci/runtime_oci.go` and `pkg/config/config.go`; CRI-O itself is in
//! no Debian.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tests::{Need, eventually, require};

use crate::bundle::{Bundle, Finished, PATIENCE, with_bundle};
use crate::checkpoint::{COUNT, CRIU, count, share_network};
use crate::peer::{Runtime, with_each};

const CONMON: Need<'_> = Need::Tool("conmon");

/// Ends with an exit code of its own when it is asked to.
const SERVICE: &str = "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done";

/// The pipes are descriptors 3 and 4 for conmon, as its environment says.
const WITH_PIPES: &str = r#"exec 3>"$0" 4<"$1"; shift; exec conmon "$@""#;

impl Bundle<'_> {
    fn at(&self, name: &str) -> String {
        self.dir().join(name).display().to_string()
    }

    /// What conmon answers when CRI-O has started it like this and let it go on.
    fn conmon(&self, arguments: &[&str]) -> Value {
        let answer = self.file("answer", "");
        let word = self.file("go-on", "\0");
        let (before, flags) = &self.around;
        let mut line = before.iter().map(String::as_str).chain(["sh", "-c", WITH_PIPES]);
        let mut command = Command::new(line.next().unwrap());
        command.args(line).arg(&answer).arg(word);
        command.args([
            "-c",
            "c1",
            "-n",
            "k8s_c1",
            "--log-level",
            "info",
            "--socket-dir-path",
            &self.at(""),
        ]);
        command.arg("-r").arg(&self.program);
        let root = format!("--root={}", self.state().display());
        for flag in flags.iter().chain([&root]) {
            command.args(["--runtime-arg", flag]);
        }
        command.args(arguments).env_clear();
        let path = std::env::var("PATH").unwrap();
        let environment = [
            ("PATH", path.as_str()),
            ("CRI_O_EXTERNAL", "1"),
            ("_OCI_SYNCPIPE", "3"),
            ("_OCI_STARTPIPE", "4"),
        ];
        command.envs(environment);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap();
        let read = || serde_json::from_slice(&fs::read(&answer).unwrap());
        eventually(PATIENCE, "conmon answers", read)
    }

    /// A container made, or restored, by conmon.
    fn conmon_makes(&self, how: &[&str]) -> Value {
        self.file("config.json", &self.config.to_string());
        for dir in ["exits", "persistent"] {
            fs::create_dir_all(self.at(dir)).unwrap();
        }
        let dir = self.at("");
        let names = ["log", "conmon.pid", "pidfile", "exits", "persistent"].map(|name| self.at(name));
        let [log, conmon_pid, pid, exits, persistent] = names.each_ref().map(String::as_str);
        let line = [
            "-b",
            &dir,
            "-l",
            log,
            "-P",
            conmon_pid,
            "-p",
            pid,
            "--exit-dir",
            exits,
            "--persist-dir",
            persistent,
            "--syslog",
            "-u",
            "c1",
        ];
        self.conmon(&[&line, how].concat())
    }

    /// A process of the container's with its output in `exec.log`, run by conmon.
    fn conmon_runs(&self, script: &str, how: &[&str]) -> Value {
        let process = self.process_file(json!(["sh", "-c", script]));
        self.conmon_runs_process(&process, how)
    }

    fn conmon_runs_process(&self, process: &Path, how: &[&str]) -> Value {
        let (pid, log) = (self.at("exec.pid"), self.file("exec.log", "").display().to_string());
        let line = [
            "-e",
            "-p",
            &pid,
            "-l",
            &log,
            "--sync",
            "--exec-process-spec",
            process.to_str().unwrap(),
        ];
        self.conmon(&[&line, how].concat())
    }

    fn process_file(&self, arguments: Value) -> PathBuf {
        let mut process = self.config["process"].clone();
        process["args"] = arguments;
        self.file("process.json", &process.to_string())
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap_or_default()
    }

    /// The exit code that conmon writes down; conmon has ended when this returns.
    fn conmon_says_it_ended_with(&self) -> String {
        let exit = self.dir().join("exits/c1");
        let code = eventually(PATIENCE, "conmon writes the exit code", || {
            fs::read_to_string(&exit).ok().filter(|code| !code.is_empty())
        });
        let conmon = Path::new("/proc").join(self.log("conmon.pid").trim());
        eventually(PATIENCE, "conmon ends", || !conmon.exists());
        fs::remove_file(exit).unwrap();
        code
    }
}

#[test]
fn a_container_lives_as_cri_o_has_it() {
    require!(Need::Root, CONMON);
    with_each("crio", |bundle, runtime| {
        bundle.set("/process/args", json!(["sh", "-c", SERVICE]));
        let pid = bundle.conmon_makes(&[])["pid"].as_i64().unwrap();
        let state = bundle.state_of("c1");
        assert_eq!(
            (state["status"].as_str(), state["pid"].as_i64()),
            (Some("created"), Some(pid))
        );
        assert_eq!(bundle.log("pidfile").trim(), pid.to_string());
        bundle.ok("start", &["c1"]);
        eventually(PATIENCE, "its output is logged", || {
            bundle.log("log").contains("stdout F up\n")
        });
        // crun has no cgroup here, and can't.
        if runtime != Runtime::Crun {
            bundle.ok("pause", &["c1"]);
            assert_eq!(bundle.status(), "paused");
            bundle.ok("resume", &["c1"]);
        }
        bundle.ok("kill", &["c1", "15"]);
        assert_eq!(bundle.conmon_says_it_ended_with(), "5");
        assert_eq!(bundle.status(), "stopped");
        // crun thinks nothing of it; CRI-O takes these words for an end that it had not seen.
        if runtime != Runtime::Crun {
            assert!(bundle.fails("kill", &["c1", "KILL"]).contains("container not running"));
        }
        bundle.ok("delete", &["--force", "c1"]);
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn probes_and_commands_are_run_as_cri_o_runs_them() {
    require!(Need::Root, CONMON);
    with_each("crio-exec", |bundle, _| {
        bundle.set("/process/args", json!(["sh", "-c", SERVICE]));
        bundle.conmon_makes(&[]);
        bundle.ok("start", &["c1"]);
        let answer = bundle.conmon_runs("echo well; echo but >&2; exit 3", &[]);
        assert_eq!(answer, json!({ "exit_code": 3 }));
        let log = bundle.log("exec.log");
        assert!(
            log.contains(" stdout F well\n") && log.contains(" stderr F but\n"),
            "{log}"
        );

        let answer = bundle.conmon_runs("exec sleep 4242", &["-T", "1"]);
        assert_eq!(answer, json!({ "exit_code": -1, "message": "command timed out" }));
        let nothing = bundle.process_file(json!(["/not/there"]));
        let answer = bundle.conmon_runs_process(&nothing, &[]);
        assert!(answer["exit_code"].as_i64().unwrap() < 0, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains("/not/there"), "{answer}");

        let asking = bundle.process_file(json!([
            "sh",
            "-c",
            "read word; echo $word back; ps | grep -c '[4]242'; exit 7"
        ]));
        let mut exec = bundle.oci("exec");
        exec.arg("--process").arg(asking).arg("c1");
        let mut child = exec.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"word\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(7));
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "word back\n0\n",
            "what took too long is gone"
        );

        bundle.ok("kill", &["c1", "9"]);
        assert_eq!(bundle.conmon_says_it_ended_with(), "137");
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn a_container_that_can_not_be_made_is_known_to_cri_o_by_its_reason() {
    require!(Need::Root, CONMON);
    with_each("crio-fails", |bundle, _| {
        bundle.set("/process/args", json!(["/not/there"]));
        let answer = bundle.conmon_makes(&[]);
        assert_eq!(answer["pid"], -1, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains("/not/there"), "{answer}");
        bundle.ok("delete", &["--force", "c1"]);
    });
}

#[test]
fn what_cri_o_asks_a_runtime_before_it_trusts_it() {
    require!(Need::Root);
    with_each("crio-asks", |bundle, runtime| {
        let ask = |arguments: &[&str]| Finished::of(Command::new(&bundle.program).args(arguments));
        assert!(ask(&["--version"]).out.contains(" version "));
        // Debian builds crun without CRIU.
        if runtime != Runtime::Crun {
            assert_eq!(ask(&["checkpoint", "--help"]).code, Some(0));
            let asked = ask(&["restore", "--lsm-mount-context"]);
            assert!((asked.out + &asked.err).contains("flag needs an argument"));
        }
        if runtime == Runtime::Ours {
            let features: Value = serde_json::from_str(&ask(&["features"]).out).unwrap();
            assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
            assert!(features["mountOptions"].as_array().unwrap().contains(&json!("rro")));
            for version in ["ociVersionMin", "ociVersionMax"] {
                assert!(features[version].as_str().is_some_and(|version| !version.is_empty()));
            }
        }
    });
}

#[test]
fn a_checkpoint_is_restored_by_conmon() {
    require!(Need::Root, CONMON, CRIU);
    with_bundle("crio-checkpoint", |bundle| {
        share_network(bundle);
        bundle.set("/process/args", json!(["sh", "-c", format!("echo up; {COUNT}")]));
        bundle.conmon_makes(&[]);
        bundle.ok("start", &["c1"]);
        eventually(PATIENCE, "it counts", || count(bundle) > 2);
        let images = bundle.at("images");
        let paths = ["--image-path", &images, "--work-path", &bundle.at("")];
        bundle.ok("checkpoint", &[&["--file-locks"], paths.as_slice(), &["c1"]].concat());
        bundle.conmon_says_it_ended_with();
        let before = count(bundle);
        for fifo in ["attach", "ctl", "winsz"] {
            let _ = fs::remove_file(bundle.at(fifo));
        }
        File::create(bundle.at("restore.log")).unwrap();
        let answer = bundle.conmon_makes(&["--restore", &images]);
        assert!(answer["pid"].as_i64().unwrap() > 0, "{answer}");
        eventually(PATIENCE, "it goes on counting", || count(bundle) > before + 2);
        assert_eq!(bundle.status(), "running");
        bundle.ok("kill", &["c1", "9"]);
        assert_eq!(bundle.conmon_says_it_ended_with(), "137");
        bundle.ok("delete", &["--force", "c1"]);
    });
}
