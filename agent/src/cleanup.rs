//! Removes what an agent left on the node, by looking: whether it was killed, and at which point, makes no difference.
//! It goes on after a failure and reports all of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cni::pod_network;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use runtime::shim::record;

use crate::config::Places;
use crate::hands::{cgroup, files, namespaces, shm};
use crate::{node, run, services};

/// How long a killed shim may take to go.
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
    for dir in [&kubepods, &node::shims_cgroup(&cgroup_root, places)] {
        failures.note(cgroup::remove(dir), &format!("remove {}", dir.display()));
    }
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
    failures.note(
        files::remove_links(&places.container_log_dir, &places.log_dir),
        "remove links to logs",
    );
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
    for file in [
        places.socket(),
        places.cni_socket(),
        places.root_dir.join("cluster-addresses.json"),
    ] {
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

/// The containers are dead, and their shim has nothing to lose.
fn end_pod(run: &Path) -> anyhow::Result<()> {
    if let Some(shim) = record::read_shim(run)? {
        end_process(shim.pid, shim.start_time)?;
    }
    shm::remove(&run.join("shm"))?;
    namespaces::release(&run.join("ns"))?;
    Ok(())
}

fn end_process(pid: u32, start_time: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    if is_same_process(pid, start_time) {
        // A process that ends by itself at this moment is as good.
        let _ = nix::sys::signal::kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL);
    }
    while is_same_process(pid, start_time) {
        if Instant::now() > deadline {
            bail!("shim {pid} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
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
