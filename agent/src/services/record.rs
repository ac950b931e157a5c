//! The file that remembers which Service has which cluster addresses. It is written before an address is used. When it is
//! lost, the addresses follow from the names again, so that a broken file is reported and not fatal.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use agent_core::service::ServiceName;
use agent_core::service::address::Addresses;
use agent_core::service::walk::Walk;
use serde::{Deserialize, Serialize};

/// Larger files are not ours: each line takes less than 400 bytes.
const LARGEST: u64 = 128 << 20;
/// Lines that may be out of date besides as many as there are Services.
const SLACK: usize = 1000;

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

/// One line of the file: what a Service has from then on.
#[derive(Deserialize, Serialize)]
struct Line<'a> {
    namespace: Cow<'a, str>,
    name: Cow<'a, str>,
    /// None for a Service that is gone.
    addresses: Cow<'a, [IpAddr]>,
}

/// The file, which grows by what changes and is written anew when most of it is out of date.
pub(super) struct Record {
    path: PathBuf,
    /// Lines in the file; none where it has to be written anew, because it is not there, broken or cut short.
    lines: Option<usize>,
}

impl Record {
    /// Reads what is remembered; nothing when there is no file, or one that is not ours.
    pub(super) fn open(path: &Path) -> (Self, Result<Addresses, RecordError>) {
        let mut record = Self {
            path: path.into(),
            lines: None,
        };
        let read = record.read();
        (record, read)
    }

    fn read(&mut self) -> Result<Addresses, RecordError> {
        match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Addresses::new()),
            Ok(file) if file.len() > LARGEST => return Err(self.failed("read")(io::ErrorKind::FileTooLarge.into())),
            Ok(_) | Err(_) => {}
        }
        let bytes = std::fs::read(&self.path).map_err(self.failed("read"))?;
        let mut addresses = Addresses::new();
        let mut lines = 0;
        // What follows the last line's end was being written when the machine stopped.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in bytes[..whole]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let line: Line = serde_json::from_slice(line).map_err(|source| RecordError::Content {
                path: self.path.clone(),
                source,
            })?;
            let name = ServiceName {
                namespace: (*line.namespace).into(),
                name: (*line.name).into(),
            };
            match line.addresses.is_empty() {
                true => drop(addresses.remove(&name)),
                false => drop(addresses.insert(name, line.addresses.into_owned())),
            }
            lines += 1;
        }
        self.lines = (whole == bytes.len()).then_some(lines);
        Ok(addresses)
    }

    /// Takes note that these Services have what `all` says. Where that is `lasting` it is on the disk
    /// afterwards.
    pub(super) fn write(
        &mut self,
        changed: &BTreeSet<ServiceName>,
        all: &Addresses,
        lasting: bool,
    ) -> Result<(), RecordError> {
        match self.lines.take() {
            Some(lines) if lines + changed.len() <= 2 * all.len() + SLACK => {
                let mut all = Walk::new(all);
                let text = text(
                    changed
                        .iter()
                        .map(|name| (name, all.get(name).map_or(&[][..], Vec::as_slice))),
                );
                self.append(&text, lasting).map_err(self.failed("add to"))?;
                self.lines = Some(lines + changed.len());
            }
            Some(_) | None => {
                let text = text(all.iter().map(|(name, addresses)| (name, addresses.as_slice())));
                // What lasted in the old file is to last in this one.
                let lasting = lasting || self.path.exists();
                self.replace(&text, lasting).map_err(self.failed("write"))?;
                self.lines = Some(all.len());
            }
        }
        Ok(())
    }

    fn append(&self, text: &[u8], lasting: bool) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        file.write_all(text)?;
        if lasting { file.sync_data() } else { Ok(()) }
    }

    /// A crash leaves the old file or the new one.
    fn replace(&self, text: &[u8], lasting: bool) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(text)?;
        if lasting {
            file.sync_all()?;
        }
        std::fs::rename(&fresh, &self.path)
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> RecordError + use<> {
        let path = self.path.clone();
        move |source| RecordError::File {
            action,
            path: path.clone(),
            source,
        }
    }
}

fn text<'a>(services: impl Iterator<Item = (&'a ServiceName, &'a [IpAddr])>) -> Vec<u8> {
    let mut text = Vec::new();
    for (service, addresses) in services {
        let line = Line {
            namespace: (&*service.namespace).into(),
            name: (&*service.name).into(),
            addresses: addresses.into(),
        };
        serde_json::to_writer(&mut text, &line).expect("strings and addresses have a text, and memory takes it");
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName {
            namespace: "default".into(),
            name: name.into(),
        }
    }

    fn addresses(names: &[&str]) -> Addresses {
        let both: Vec<IpAddr> = vec!["10.96.0.9".parse().unwrap(), "fd00:96::9".parse().unwrap()];
        names.iter().map(|text| (name(text), both.clone())).collect()
    }

    fn names(names: &[&str]) -> BTreeSet<ServiceName> {
        names.iter().map(|text| name(text)).collect()
    }

    fn read(path: &Path) -> Addresses {
        Record::open(path).1.unwrap()
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
        let (mut record, before) = Record::open(&path);
        assert_eq!(before.unwrap(), Addresses::new());
        record
            .write(&names(&["a", "b"]), &addresses(&["a", "b"]), true)
            .unwrap();
        assert_eq!(read(&path), addresses(&["a", "b"]));
        record
            .write(&names(&["b", "c"]), &addresses(&["a", "c"]), false)
            .unwrap();
        assert_eq!(read(&path), addresses(&["a", "c"]));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        remove(&path);
    }

    #[test]
    fn a_record_does_not_grow_for_ever() {
        let path = place("growth");
        let (mut record, _) = Record::open(&path);
        for _ in 0..2 * SLACK {
            record.write(&names(&["a"]), &addresses(&["a"]), false).unwrap();
        }
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= SLACK + 2, "{lines}");
        assert_eq!(read(&path), addresses(&["a"]));
        remove(&path);
    }

    #[test]
    fn a_line_that_was_cut_short_is_not_there() {
        let path = place("cut");
        let (mut record, _) = Record::open(&path);
        record
            .write(&names(&["a", "b"]), &addresses(&["a", "b"]), true)
            .unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        let (mut record, left) = Record::open(&path);
        assert_eq!(left.unwrap(), addresses(&["a"]));
        record.write(&names(&["c"]), &addresses(&["a", "c"]), true).unwrap();
        assert_eq!(read(&path), addresses(&["a", "c"]));
        remove(&path);
    }

    #[test]
    fn a_broken_record_is_an_error_that_names_the_file() {
        let path = place("broken");
        let (mut record, _) = Record::open(&path);
        record.write(&names(&["a"]), &addresses(&["a"]), true).unwrap();
        std::fs::write(&path, b"{\n").unwrap();
        let (mut record, read_back) = Record::open(&path);
        let error = read_back.unwrap_err();
        assert!(error.to_string().contains("services.json"), "{error}");
        record.write(&names(&["b"]), &addresses(&["b"]), true).unwrap();
        assert_eq!(read(&path), addresses(&["b"]));
        remove(&path);
    }
}
