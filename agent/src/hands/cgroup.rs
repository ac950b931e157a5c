//! The cgroup of a pod: made with its limits, killed, removed. Containers' own cgroups below it are their shim's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_core::pod::{CPU_PERIOD, CgroupFacts, CgroupLimits};
use runtime::cgroup::{Cgroup, CgroupError};

/// Controllers that limits need; each is enabled where the host has it.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// How long killed processes may take to go: the kernel must reap them, and one may be in an uninterruptible sleep.
const EMPTY: Duration = Duration::from_secs(10);

/// Makes the cgroup and its ancestors below `root`, and writes its limits. Returns the limits that this host can't
/// enforce, in words for the user.
pub fn set(root: &Path, group: &Path, limits: &CgroupLimits) -> Result<Vec<String>, CgroupError> {
    let mut parent = root.to_path_buf();
    for part in group.strip_prefix(root).unwrap_or(group).components() {
        enable_controllers(&parent);
        parent.push(part);
        make(&parent)?;
    }
    // The containers' cgroups need them too.
    enable_controllers(group);
    let mut unenforced = Vec::new();
    if let Some(weight) = limits.cpu_weight {
        put(group, "cpu.weight", &weight.to_string())?;
    }
    let quota = limits.cpu_quota.map(|quota| format!("{quota} {CPU_PERIOD}"));
    let memory = limits.memory_max.map(|bytes| bytes.to_string());
    for (file, value, what) in [
        ("cpu.max", quota, "the pod's cpu limit"),
        ("memory.max", memory, "the pod's memory limit"),
    ] {
        if let Some(value) = value
            && !put(group, file, &value)?
        {
            unenforced.push(format!(
                "{what} can't be enforced: the cgroup tree of this host has no {file}"
            ));
        }
    }
    Ok(unenforced)
}

/// Which of the controllers that limits need are missing below `root`.
pub fn missing_controllers(root: &Path) -> Vec<&'static str> {
    let present = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    CONTROLLERS
        .into_iter()
        .filter(|&name| !present.split_whitespace().any(|word| word == name))
        .collect()
}

/// Looks at the cgroup; none when there is none.
pub fn look(group: &Path) -> Option<CgroupFacts> {
    let events = fs::read_to_string(group.join("cgroup.events")).ok()?;
    Some(CgroupFacts {
        populated: events.lines().any(|line| line == "populated 1"),
    })
}

/// Kills everything in it and below, and waits until it is empty.
pub fn kill(group: &Path) -> Result<(), CgroupError> {
    Cgroup::at(group).kill()?;
    let deadline = Instant::now() + EMPTY;
    while look(group).is_some_and(|facts| facts.populated) {
        if Instant::now() > deadline {
            return Err(failed("wait for the end of every process of", group)(
                io::ErrorKind::TimedOut.into(),
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Removes it and those below it; all are empty.
pub fn remove(group: &Path) -> Result<(), CgroupError> {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", group)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn make(group: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("create", group)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Enables what can be: a controller that is not here, or that the host holds elsewhere, shows as a missing file.
fn enable_controllers(group: &Path) {
    let present = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for controller in CONTROLLERS
        .iter()
        .filter(|&&name| present.split_whitespace().any(|word| word == name))
    {
        if let Err(error) = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}")) {
            tracing::debug!(group = %group.display(), controller, %error, "controller is not enabled");
        }
    }
}

/// Writes a limit; false when the host has no such file.
fn put(group: &Path, file: &'static str, value: &str) -> Result<bool, CgroupError> {
    let path = group.join(file);
    match fs::write(&path, value) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::PermissionDenied => {
            Ok(false)
        }
        Err(error) => Err(failed(&format!("write {value:?} to"), &path)(error)),
    }
}

fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let (action, path): (String, PathBuf) = (action.into(), path.into());
    move |source| CgroupError { action, path, source }
}
