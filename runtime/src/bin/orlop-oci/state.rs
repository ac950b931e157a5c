//! What is kept of a running container, so that another call finds it: `<root>/<id>/state.json` and its cgroup.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

/// The state directory of one container; removed when dropped, unless kept.
pub(crate) struct StateDirectory {
    path: PathBuf,
    keep: bool,
}

impl StateDirectory {
    /// Takes the id: there is one container of a name.
    pub(crate) fn take(root: &Path, id: &str, keep: bool) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
        let path = root.join(id);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!("a container {id:?} exists already"),
            result => result.with_context(|| format!("create {}", path.display()))?,
        }
        Ok(Self { path, keep })
    }

    /// Records the running container.
    pub(crate) fn write(&self, pid: u32, bundle: &Path, cgroup: &Path) -> Result<()> {
        let state = json!({ "pid": pid, "startTime": start_time(pid)?, "bundle": bundle, "cgroup": cgroup });
        let path = self.path.join("state.json");
        fs::write(&path, state.to_string()).with_context(|| format!("write {}", path.display()))
    }
}

impl Drop for StateDirectory {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("orlop-oci: remove {}: {error}", self.path.display());
        }
    }
}

/// A running container as its state file has it.
pub(crate) struct State {
    pub(crate) pid: u32,
    pub(crate) bundle: PathBuf,
    pub(crate) cgroup: PathBuf,
}

impl State {
    /// Reads the state of a container and makes sure that its process is still the same.
    pub(crate) fn read(root: &Path, id: &str) -> Result<Self> {
        let path = root.join(id).join("state.json");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("there is no container {id:?}: read {}", path.display()))?;
        let state: Value = serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        let text = |name: &str| {
            state[name]
                .as_str()
                .map(PathBuf::from)
                .with_context(|| format!("{}: no {name}", path.display()))
        };
        let pid = state["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        let pid = pid.with_context(|| format!("{}: no pid", path.display()))?;
        ensure!(
            start_time(pid).ok() == state["startTime"].as_u64(),
            "container {id:?} has ended"
        );
        Ok(Self {
            pid,
            bundle: text("bundle")?,
            cgroup: text("cgroup")?,
        })
    }
}

/// Reads `config.json` of a bundle.
pub(crate) fn read_spec(bundle: &Path) -> Result<Spec> {
    Spec::load(bundle.join("config.json")).with_context(|| format!("read {}", bundle.join("config.json").display()))
}

/// When a process started, in clock ticks since boot: with the pid it names one process for ever (proc_pid_stat(5)).
fn start_time(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The second field, the command, may hold spaces and brackets; the 22nd is the 20th behind its end.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace());
    let start = fields.and_then(|mut fields| fields.nth(19)?.parse().ok());
    start.with_context(|| format!("{path}: no start time"))
}
