//! The state directory, and one container of it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::error::{VerbError, file};
use super::record::{Init, Record};
use crate::container::config;
use crate::container::hook::Hooks;
use crate::container::{Target, Who};
use crate::guard::Guard;
use crate::spec::Spec;

/// Longest container id.
const ID_LIMIT: usize = 128;

/// A directory with one directory per container.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// A container of a [`Store`], as its record says it.
#[derive(Debug, Clone)]
pub struct Named {
    pub(super) directory: PathBuf,
    /// What is written down of it.
    pub record: Record,
}

impl Store {
    /// The store in `root`, which need not exist.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The container of this id.
    pub fn find(&self, id: &str) -> Result<Named, VerbError> {
        let directory = self.root.join(check(id)?);
        let path = directory.join(STATE);
        match Record::read(&path) {
            Err(VerbError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(VerbError::Unknown { id: id.into() })
            }
            record => Ok(Named {
                directory,
                record: record?,
            }),
        }
    }

    /// Takes the id: there is one container of a name.
    pub(super) fn take(&self, id: &str) -> Result<PathBuf, VerbError> {
        let directory = self.root.join(check(id)?);
        let private = |path: &Path, recursive| fs::DirBuilder::new().mode(0o700).recursive(recursive).create(path);
        private(&self.root, true).map_err(file("create", &self.root))?;
        match private(&directory, false) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(VerbError::Exists { id: id.into() }),
            result => result.map(|()| directory.clone()).map_err(file("create", &directory)),
        }
    }

    /// Removes what is left of a container that has no record; without one there is nothing but its directory.
    pub(super) fn forget(&self, id: &str) -> Result<(), VerbError> {
        let directory = self.root.join(check(id)?);
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", &directory)(error)),
            _ => Ok(()),
        }
    }

    /// The ids that are there.
    pub(super) fn ids(&self) -> Result<Vec<String>, VerbError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(file("list", &self.root))?,
        };
        let mut ids: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|id| check(id).is_ok())
            .collect();
        ids.sort();
        Ok(ids)
    }
}

const STATE: &str = "state.json";
const CONFIG: &str = "config.json";

impl Named {
    /// The configuration that it was made from, whatever has become of the bundle since.
    pub fn spec(&self) -> Result<Spec, VerbError> {
        read_spec(&self.directory.join(CONFIG))
    }

    /// Whether its configuration may ask for hooks; that the word is not there is seen without reading the text as JSON,
    /// where no character is written as a number.
    pub(super) fn has_hooks(&self) -> bool {
        let text = fs::read(self.directory.join(CONFIG)).unwrap_or_default();
        ["\"hooks\"", "\\u"]
            .iter()
            .any(|word| memchr::memmem::find(&text, word.as_bytes()).is_some())
    }

    pub(super) fn write(&self) -> Result<(), VerbError> {
        self.record.write(&self.directory.join(STATE))
    }

    pub(super) fn write_config(&self, text: &[u8]) -> Result<(), VerbError> {
        let path = self.directory.join(CONFIG);
        fs::write(&path, text).map_err(file("write", &path))
    }

    pub(super) fn remove(&self) -> Result<(), VerbError> {
        // As a rule there is nothing else in it: then it need not be listed.
        for name in [STATE, CONFIG] {
            let _ = fs::remove_file(self.directory.join(name));
        }
        if fs::remove_dir(&self.directory).is_ok() {
            return Ok(());
        }
        match fs::remove_dir_all(&self.directory) {
            // Who stands in for it in the foreground has seen its end, too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(file("remove", &self.directory)),
        }
    }

    /// The pipe that the start byte comes through.
    pub(super) fn start_pipe(&self) -> PathBuf {
        self.directory.join("start")
    }

    /// The pipe that the failure report goes through.
    pub(super) fn report_pipe(&self) -> PathBuf {
        self.directory.join("report")
    }

    pub(super) fn init(&self) -> Result<(Init, OwnedFd), VerbError> {
        let init = self.record.init.ok_or(VerbError::NotRunning)?;
        Ok((init, init.open().ok_or(VerbError::NotRunning)?))
    }

    pub(super) fn hooks<'a>(&'a self, spec: &'a Spec) -> Hooks<'a> {
        Hooks {
            spec,
            id: &self.record.id,
            bundle: &self.record.bundle,
        }
    }

    pub(super) fn target<'a>(&'a self, init: &'a OwnedFd, spec: &'a Spec) -> Target<'a> {
        use std::os::fd::AsFd;
        Target {
            pidfd: init.as_fd(),
            cgroup: self.record.cgroup.as_deref(),
            unit: self.record.scope(),
            follows_init: true,
            groups: &self.record.resctrl.joined,
            spec,
            who: Some(Who {
                id: &self.record.id,
                bundle: &self.record.bundle,
                spec,
                init: self.record.init.as_ref().map(|init| init.pid),
            }),
        }
    }
}

pub(super) fn read_spec(path: &Path) -> Result<Spec, VerbError> {
    let text = fs::read(path).map_err(file("read", path))?;
    config::read(&text).map_err(|error| file("parse", path)(error.into()))
}

/// No name leads out of the state directory.
fn check(id: &str) -> Result<&str, VerbError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    let is_name = !id.is_empty() && id.len() <= ID_LIMIT && id.chars().all(allowed) && id != "." && id != "..";
    (is_name || Guard::PlainNames.is_out())
        .then_some(id)
        .ok_or_else(|| VerbError::Id { id: id.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_leads_out_of_the_directory() {
        for id in ["", ".", "..", "a/b", "../a", "a b", "é", &"x".repeat(129)] {
            assert!(check(id).is_err(), "{id:?}");
        }
        for id in ["a", "a.b", ".a", "A_b+c-1", &"x".repeat(128)] {
            assert_eq!(check(id).unwrap(), id);
        }
    }
}
