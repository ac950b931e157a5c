//! The file that remembers which Service has which cluster addresses. It is written before an address is used. When it is
//! lost, the addresses follow from the names again, so that a broken file is reported and not fatal.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use agent_core::service::ServiceName;
use agent_core::service::address::Addresses;
use serde::{Deserialize, Serialize};

/// Larger files are not ours: each Service takes less than 400 bytes.
const LARGEST: u64 = 64 << 20;

/// Why the record can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file.
    #[error("{action} the record of Service addresses {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its content.
    #[error("understand the record of Service addresses {path}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
}

#[derive(Deserialize, Serialize)]
struct Record {
    /// Addresses by `namespace/name`.
    addresses: BTreeMap<String, Vec<IpAddr>>,
}

/// The remembered addresses; none when there is no file.
pub(super) fn read(path: &Path) -> Result<Addresses, RecordError> {
    let failed = |source| RecordError::File {
        action: "read",
        path: path.into(),
        source,
    };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Addresses::new()),
        Ok(file) if file.len() > LARGEST => return Err(failed(io::ErrorKind::FileTooLarge.into())),
        Ok(_) | Err(_) => {}
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let record: Record = serde_json::from_slice(&bytes).map_err(|source| RecordError::Content {
        path: path.into(),
        source,
    })?;
    Ok(record
        .addresses
        .into_iter()
        .filter_map(|(key, addresses)| Some((name(&key)?, addresses)))
        .collect())
}

/// Replaces the file as a whole: a crash leaves the old one or the new one.
pub(super) fn write(path: &Path, addresses: &Addresses) -> Result<(), RecordError> {
    let addresses = addresses
        .iter()
        .map(|(name, addresses)| (name.to_string(), addresses.clone()))
        .collect();
    let bytes = serde_json::to_vec_pretty(&Record { addresses }).map_err(|source| RecordError::Content {
        path: path.into(),
        source,
    })?;
    replace(path, &bytes).map_err(|source| RecordError::File {
        action: "write",
        path: path.into(),
        source,
    })
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

fn name(key: &str) -> Option<ServiceName> {
    let (namespace, name) = key.split_once('/')?;
    Some(ServiceName {
        namespace: namespace.into(),
        name: name.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        let name = ServiceName {
            namespace: "default".into(),
            name: "web".into(),
        };
        [(name, vec!["10.96.0.9".parse().unwrap(), "fd00:96::9".parse().unwrap()])].into()
    }

    /// A path that is free, in a directory that is not there yet.
    fn place(test: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("orlop-record-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        dir.join("services.json")
    }

    fn remove(path: &Path) {
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_is_written_is_read() {
        let path = place("round");
        assert_eq!(read(&path).unwrap(), Addresses::new());
        write(&path, &addresses()).unwrap();
        write(&path, &addresses()).unwrap();
        assert_eq!(read(&path).unwrap(), addresses());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        remove(&path);
    }

    #[test]
    fn a_broken_record_is_an_error_that_names_the_file() {
        let path = place("broken");
        write(&path, &addresses()).unwrap();
        std::fs::write(&path, b"{").unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().contains("services.json"), "{error}");
        remove(&path);
    }
}
