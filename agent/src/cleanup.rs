//! Removes what an agent left on the node, by looking: whether it was killed, and at which point, makes no difference.
//! It goes on after a failure and reports all of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cni::pod_network;
use runtime::client::Connection;

use crate::config::Places;
use crate::hands::{cgroup, namespaces, shm};
use crate::{node, run, services};

/// How long a shim may take to end once its containers are dead.
const PATIENCE: Duration = Duration::from_secs(10);

/// Removes everything below these places, links and cgroups included.
pub fn cleanup(places: &Places, keep_images: bool) -> anyhow::Result<()> {
    let lock = run::lock(places)?;
    let mut failures = Failures::default();
    let cgroup_root = runtime::cgroup::root()?;
    let kubepods = cgroup_root.join(&places.cgroup_parent).join("kubepods");
    if kubepods.exists() {
        failures.note(cgroup::kill(&kubepods), "kill the pods");
    }
    for pod in directories(&places.pod_runs()) {
        failures.note(end_pod(&pod), &format!("end the pod in {}", pod.display()));
    }
    failures.note(cgroup::remove(&kubepods), "remove the pods' cgroups");
    remove_empty_parents(&cgroup_root, &places.cgroup_parent);
    failures.note(
        pod_network::teardown(&node::network_of(places)),
        "remove the pod network",
    );
    failures.note(services::remove_all(&places.bpf_dir), "remove the pinned eBPF objects");
    remove_files(places, keep_images, &mut failures);
    drop(lock);
    failures.note(
        absent_is_fine(fs::remove_file(places.lock())),
        "remove the agent's lock",
    );
    failures.note(remove_if_empty(&places.run_dir), "remove the run directory");
    failures.finish()
}

fn remove_files(places: &Places, keep_images: bool, failures: &mut Failures) {
    failures.note(remove_log_links(places), "remove links to logs");
    let mut trees = vec![
        places.pod_runs(),
        places.run_dir.join("network"),
        places.root_dir.join("pods"),
        places.applied(),
    ];
    if keep_images {
        trees.push(places.state_dir.join("snapshots"));
    } else {
        trees.push(places.state_dir.clone());
    }
    for pod in directories(&places.log_dir) {
        if is_pod_log(&pod) {
            trees.push(pod);
        }
    }
    for tree in trees {
        failures.note(
            absent_is_fine(fs::remove_dir_all(&tree)),
            &format!("remove {}", tree.display()),
        );
    }
    for file in [places.socket(), places.root_dir.join("cluster-addresses.json")] {
        failures.note(
            absent_is_fine(fs::remove_file(&file)),
            &format!("remove {}", file.display()),
        );
    }
    for dir in [&places.root_dir, &places.log_dir, &places.container_log_dir] {
        failures.note(remove_if_empty(dir), &format!("remove {}", dir.display()));
    }
}

/// The agent may have made them; what others use is not empty and stays.
fn remove_empty_parents(root: &Path, parent: &Path) {
    for dir in parent.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
        if fs::remove_dir(root.join(dir)).is_err() {
            return;
        }
    }
}

/// `<namespace>_<name>_<uid>`: other tools may keep logs here too.
fn is_pod_log(dir: &Path) -> bool {
    dir.file_name()
        .is_some_and(|name| name.to_string_lossy().matches('_').count() == 2)
}

/// The containers are dead; the shim ends by itself when told so, or its process is killed.
fn end_pod(run: &Path) -> anyhow::Result<()> {
    if let Ok(shim) = Connection::connect(&run.join("shim.sock"), PATIENCE) {
        let (pid, start_time) = (shim.welcome().pid, shim.welcome().start_time);
        // A shim that still sees a container refuses; it is killed then.
        let _ = shim.shutdown(PATIENCE);
        end_process(pid, start_time)?;
    }
    shm::remove(&run.join("shm"))?;
    namespaces::release(&run.join("ns"))?;
    Ok(())
}

fn end_process(pid: u32, start_time: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut is_killed = false;
    while is_same_process(pid, start_time) {
        if Instant::now() > deadline {
            bail!("shim {pid} does not end");
        }
        if !is_killed && Instant::now() > deadline - PATIENCE / 2 {
            is_killed = true;
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Field 22 of /proc/PID/stat tells a process from a later one of the same number, proc_pid_stat(5).
fn is_same_process(pid: u32, start_time: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return false;
    };
    let mut fields = rest.split_whitespace();
    let is_dead = fields.next() == Some("Z");
    let started = fields.nth(18).and_then(|field| field.parse().ok());
    !is_dead && started == Some(start_time)
}

/// Removing the pins of links detaches the programs.
fn remove_log_links(places: &Places) -> io::Result<()> {
    for entry in fs::read_dir(&places.container_log_dir).into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(&places.log_dir)) {
            absent_is_fine(fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn remove_if_empty(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => absent_is_fine(other),
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn note<E: Into<anyhow::Error>>(&mut self, result: Result<(), E>, what: &str) {
        if let Err(error) = result {
            self.0.push(format!("{:#}", error.into().context(what.to_string())));
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        match self.0.as_slice() {
            [] => Ok(()),
            some => Err(anyhow::anyhow!(some.join("\n"))).context("not everything could be removed"),
        }
    }
}
