//! What the agent writes down about a pod, so that after its own death it can end a pod whose manifest is gone, with the
//! grace that was running. Everything else is looked at anew.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_core::pod::{Goal, Time};
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::paths::RECORD;

/// The largest record that is read back: a manifest's limit.
const LIMIT: u64 = 10 << 20;

/// The content of `pod.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The pod as it was asked for.
    pub pod: Pod,
    /// The file that defined it.
    pub origin: PathBuf,
    /// When the node took it on, in nanoseconds since the epoch.
    pub accepted_at: u64,
    /// The port of the node that another pod had when this one came, if the node refused it for that.
    #[serde(default)]
    pub port_taken: Option<String>,
    /// Set once it shall go; that can't be undone.
    pub stop: Option<Stop>,
}

/// When a pod was told to go, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stop {
    /// In nanoseconds since the epoch.
    pub since: u64,
    /// In milliseconds.
    pub grace: u64,
}

impl Record {
    /// What shall become of the pod.
    pub fn goal(&self) -> Goal {
        match self.stop {
            None => Goal::Run,
            Some(stop) => Goal::Stop {
                since: Time::from_unix_nanos(stop.since),
                grace: Duration::from_millis(stop.grace),
            },
        }
    }

    /// Writes the record into the pod's run directory.
    pub fn write(&self, run: &Path) -> io::Result<()> {
        fs::create_dir_all(run)?;
        replace(&run.join(RECORD), &serde_json::to_vec(self)?)
    }

    /// Reads the record of a run directory; none when it has none.
    pub fn read(run: &Path) -> io::Result<Option<Record>> {
        let path = run.join(RECORD);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(metadata) if metadata.len() > LIMIT => return Err(io::Error::other("the record is too large")),
            other => other?,
        };
        Ok(Some(serde_json::from_slice(&fs::read(&path)?)?))
    }
}

/// Writes a file so that after a crash it is the old one or the new one.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}
