//! Who is in a cgroup, and the end of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Cgroup, CgroupError};

/// How often and how long [`Cgroup::remove`] waits for killed processes: a tenth of a second at most, because its
/// caller may be the only thread there is.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(2);

impl Cgroup {
    /// The processes in it and below it, by number. None when it does not exist.
    pub fn processes(&self) -> Result<Vec<u32>, CgroupError> {
        let mut processes = Vec::new();
        for directory in self.tree()? {
            let path = directory.join("cgroup.procs");
            let text = unless_gone(fs::read_to_string(&path), String::new()).map_err(failed("read", &path))?;
            processes.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        Ok(processes)
    }

    /// Whether a process is in it or below it at this moment.
    pub fn holds(&self, pid: u32) -> bool {
        self.processes().is_ok_and(|processes| processes.contains(&pid))
    }

    /// Kills what is in it and below it and removes the directories. Nothing happens when it does not exist; an error
    /// when processes do not end in time, and then it may be tried again.
    pub fn remove(&self) -> Result<(), CgroupError> {
        if unless_gone(fs::remove_dir(self.path()), ()).is_ok() {
            return Ok(());
        }
        self.kill()?;
        for directory in self.tree()?.iter().rev() {
            remove_patiently(directory).map_err(failed("remove", directory))?;
        }
        Ok(())
    }

    /// The directory and those below it, each before its children.
    fn tree(&self) -> Result<Vec<PathBuf>, CgroupError> {
        let mut found = vec![self.path().to_owned()];
        let mut next = 0;
        while let Some(directory) = found.get(next).cloned() {
            found.extend(unless_gone(children(&directory), Vec::new()).map_err(failed("list", &directory))?);
            next += 1;
        }
        Ok(found)
    }
}

fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut children = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

fn remove_patiently(directory: &Path) -> io::Result<()> {
    for _ in 0..TRIES {
        match unless_gone(fs::remove_dir(directory), ()) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// A cgroup may vanish at any moment; a process of one that does answers `ENODEV`.
fn unless_gone<T>(result: io::Result<T>, gone: T) -> io::Result<T> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(gone),
        result => result,
    }
}

fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError {
        action: action.into(),
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_that_is_not_there_has_no_processes_and_may_be_removed() {
        let cgroup = Cgroup::at("/nowhere/at/all");
        assert_eq!(cgroup.processes().unwrap(), [0; 0]);
        cgroup.remove().unwrap();
    }
}
