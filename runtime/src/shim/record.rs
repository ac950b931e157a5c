//! The files of a pod's directory: what the shim writes and the agent may read when the shim is dead.
//!
//! ```text
//! DIR/shim.sock                          the shim's socket
//! DIR/shim.json                          who the shim is
//! DIR/containers/NAME/ATTEMPT/config.json  the OCI configuration
//! DIR/containers/NAME/ATTEMPT/state.json   the container, as of its creation or start
//! DIR/containers/NAME/ATTEMPT/exit.json    how it ended; there exactly once it has
//! ```
//!
//! Every file is replaced as a whole (written beside, synced, renamed), so a reader never sees half of one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libc::{O_NOFOLLOW, O_NONBLOCK};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::proto::{
    ContainerKey, ContainerName, ContainerState, ExitReason, ExitRecord, Status, UnixNanos, Welcome,
};

/// The longest file that is read back; a configuration as long as a frame allows fits.
const FILE_LIMIT: u64 = crate::proto::frame::FRAME_LIMIT as u64;

/// A file of a pod's directory could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct RecordError {
    /// What was tried.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

impl RecordError {
    fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            action,
            path: path.into(),
            source,
        }
    }

    /// Whether the file or a directory above it is not there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// What a pod's directory tells without its shim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRecord {
    /// Containers ordered by name and attempt. A status other than `Exited` is the last one written: whether the
    /// process lives is for the shim or the cgroup to say.
    pub containers: Vec<ContainerState>,
    /// Directories of containers whose state can't be read: a shim was killed while it made or removed them.
    pub incomplete: Vec<ContainerKey>,
}

/// Reads all containers of the pod directory `dir`. A directory that is not there holds none.
pub fn read_pod(dir: &Path) -> Result<PodRecord, RecordError> {
    let mut pod = PodRecord::default();
    for name in entries::<ContainerName>(&dir.join("containers"))? {
        for attempt in entries::<u32>(&dir.join("containers").join(name.as_str()))? {
            let key = ContainerKey {
                container: name.clone(),
                attempt,
            };
            match read_container(dir, &key) {
                Ok(state) => pod.containers.push(state),
                Err(_) => pod.incomplete.push(key),
            }
        }
    }
    pod.containers.sort_by(|left, right| left.key.cmp(&right.key));
    pod.incomplete.sort();
    Ok(pod)
}

/// Reads who the shim of the pod directory `dir` is or was; `None` when none ever was.
pub fn read_shim(dir: &Path) -> Result<Option<Welcome>, RecordError> {
    optional(read(&dir.join("shim.json")))
}

/// Records that a container ended because its shim did: exit code 137, reason `ShimLost`. An exit that is already on
/// record stays and is returned. Only for a caller that knows the shim and every process of the container to be dead.
pub fn write_lost(dir: &Path, key: &ContainerKey, now: UnixNanos) -> Result<ExitRecord, RecordError> {
    let state: Option<ContainerState> = optional(read_container(dir, key))?;
    if let Some(exit) = state.as_ref().and_then(|state| state.exit.clone()) {
        return Ok(exit);
    }
    let exit = ExitRecord {
        exit_code: 137,
        signal: Some(9),
        started_at: state.and_then(|state| state.started_at),
        finished_at: now,
        oom_killed: false,
        reason: ExitReason::ShimLost,
        message: "the shim of the pod ended and took the container along".into(),
    };
    write_exit(dir, key, &exit)?;
    Ok(exit)
}

/// Removes what is kept of a container. Only for a caller that knows the shim to be dead; otherwise ask it to delete.
pub fn remove(dir: &Path, key: &ContainerKey) -> Result<(), RecordError> {
    let path = container_dir(dir, key);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RecordError::new("remove", &path, error)),
        Ok(()) | Err(_) => {
            // The directory of the name goes with its last attempt.
            let _ = path.parent().map(fs::remove_dir);
            Ok(())
        }
    }
}

/// The directory of one container.
pub fn container_dir(dir: &Path, key: &ContainerKey) -> PathBuf {
    dir.join("containers")
        .join(key.container.as_str())
        .join(key.attempt.to_string())
}

pub(super) fn create_container_dir(dir: &Path, key: &ContainerKey) -> Result<PathBuf, RecordError> {
    let path = container_dir(dir, key);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
    made.map_err(|error| RecordError::new("create", &path, error))?;
    Ok(path)
}

pub(super) fn write_shim(dir: &Path, welcome: &Welcome) -> Result<(), RecordError> {
    write(&dir.join("shim.json"), welcome)
}

pub(super) fn write_state(dir: &Path, state: &ContainerState) -> Result<(), RecordError> {
    write(&container_dir(dir, &state.key).join("state.json"), state)
}

pub(super) fn write_exit(dir: &Path, key: &ContainerKey, exit: &ExitRecord) -> Result<(), RecordError> {
    write(&container_dir(dir, key).join("exit.json"), exit)
}

fn read_container(dir: &Path, key: &ContainerKey) -> Result<ContainerState, RecordError> {
    let path = container_dir(dir, key);
    let mut state: ContainerState = read(&path.join("state.json"))?;
    // What the file says of its own name doesn't count: the directory is the name.
    state.key = key.clone();
    state.exit = optional(read(&path.join("exit.json")))?;
    if state.exit.is_some() {
        state.status = Status::Exited;
    }
    Ok(state)
}

/// Names in a directory that read as `T`, which the shim's own always do.
fn entries<T: TryFromName>(path: &Path) -> Result<Vec<T>, RecordError> {
    let failed = |error| RecordError::new("list", path, error);
    let directory = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        directory => directory.map_err(failed)?,
    };
    let names: io::Result<Vec<_>> = directory.map(|entry| entry.map(|entry| entry.file_name())).collect();
    Ok(names
        .map_err(failed)?
        .iter()
        .filter_map(|name| T::try_from_name(name.to_str()?))
        .collect())
}

trait TryFromName: Sized {
    fn try_from_name(name: &str) -> Option<Self>;
}

impl TryFromName for ContainerName {
    fn try_from_name(name: &str) -> Option<Self> {
        Self::try_from(name).ok()
    }
}

impl TryFromName for u32 {
    /// Only the spelling that [`container_dir`] uses: `7`, not `+7` or `07`.
    fn try_from_name(name: &str) -> Option<Self> {
        name.parse().ok().filter(|attempt: &Self| attempt.to_string() == name)
    }
}

fn optional<T>(read: Result<T, RecordError>) -> Result<Option<T>, RecordError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, RecordError> {
    let failed = |error| RecordError::new("read", path, error);
    let flags = O_NOFOLLOW | O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(failed)?;
    let mut json = Vec::new();
    let length = file.take(FILE_LIMIT + 1).read_to_end(&mut json).map_err(failed)?;
    if length as u64 > FILE_LIMIT {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidData,
            "longer than any of ours",
        )));
    }
    serde_json::from_slice(&json).map_err(|error| failed(error.into()))
}

pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), RecordError> {
    replace(path, value).map_err(|error| RecordError::new("write", path, error))
}

fn replace<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pod(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("orlop-record-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn key(name: &str, attempt: u32) -> ContainerKey {
        ContainerKey {
            container: name.try_into().unwrap(),
            attempt,
        }
    }

    fn state(key: ContainerKey) -> ContainerState {
        ContainerState {
            key,
            status: Status::Running,
            pid: Some(42),
            pid_start_time: 7,
            created_at: UnixNanos(1),
            started_at: Some(UnixNanos(2)),
            cgroup: Some("/sys/fs/cgroup/x".into()),
            log_path: "/var/log/pods/x/0.log".into(),
            unenforced: vec!["memory".into()],
            exit: None,
            log: Default::default(),
            execs: Vec::new(),
        }
    }

    fn exit() -> ExitRecord {
        ExitRecord {
            exit_code: 3,
            signal: None,
            started_at: Some(UnixNanos(2)),
            finished_at: UnixNanos(3),
            oom_killed: false,
            reason: ExitReason::Error,
            message: String::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_back_in_order() {
        let dir = pod("order");
        for key in [key("b", 0), key("a", 10), key("a", 2)] {
            create_container_dir(&dir, &key).unwrap();
            write_state(&dir, &state(key)).unwrap();
        }
        write_exit(&dir, &key("a", 2), &exit()).unwrap();
        let record = read_pod(&dir).unwrap();
        let seen: Vec<_> = record
            .containers
            .iter()
            .map(|state| (&state.key, state.status))
            .collect();
        let expected = [
            (&key("a", 2), Status::Exited),
            (&key("a", 10), Status::Running),
            (&key("b", 0), Status::Running),
        ];
        assert_eq!(seen, expected);
        assert_eq!(record.containers[0].exit, Some(exit()));
        assert_eq!(record.incomplete, []);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_lost_container_is_recorded_once() {
        let dir = pod("lost");
        create_container_dir(&dir, &key("a", 0)).unwrap();
        write_state(&dir, &state(key("a", 0))).unwrap();
        let lost = write_lost(&dir, &key("a", 0), UnixNanos(9)).unwrap();
        assert_eq!(
            (lost.exit_code, lost.reason, lost.started_at),
            (137, ExitReason::ShimLost, Some(UnixNanos(2)))
        );
        assert_eq!(write_lost(&dir, &key("a", 0), UnixNanos(10)).unwrap(), lost);
        assert_eq!(read_pod(&dir).unwrap().containers[0].exit, Some(lost));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_true_exit_is_not_overwritten_by_a_lost_one() {
        let dir = pod("true");
        create_container_dir(&dir, &key("a", 0)).unwrap();
        write_state(&dir, &state(key("a", 0))).unwrap();
        write_exit(&dir, &key("a", 0), &exit()).unwrap();
        assert_eq!(write_lost(&dir, &key("a", 0), UnixNanos(9)).unwrap(), exit());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn foreign_names_are_passed_over_and_half_made_containers_are_named() {
        let dir = pod("foreign");
        for name in [
            "containers/a/0",
            "containers/a/07",
            "containers/a/x",
            "containers/.hidden/0",
        ] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let record = read_pod(&dir).unwrap();
        assert_eq!((record.containers.len(), record.incomplete), (0, vec![key("a", 0)]));
        remove(&dir, &key("a", 0)).unwrap();
        remove(&dir, &key("a", 0)).unwrap();
        assert_eq!(read_pod(&dir.join("nowhere")).unwrap(), PodRecord::default());
        assert_eq!(read_shim(&dir).unwrap(), None);
        fs::remove_dir_all(dir).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn hostile_files_never_panic(state in prop::collection::vec(any::<u8>(), 0..64), exit in "\\PC{0,64}") {
            let dir = pod("hostile");
            let container = create_container_dir(&dir, &key("a", 0)).unwrap();
            fs::write(container.join("state.json"), state).unwrap();
            fs::write(container.join("exit.json"), exit).unwrap();
            let record = read_pod(&dir).unwrap();
            prop_assert_eq!(record.incomplete, vec![key("a", 0)]);
            fs::remove_dir_all(dir).unwrap();
        }
    }
}
