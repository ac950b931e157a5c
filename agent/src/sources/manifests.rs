//! A directory of manifests: its files, what they define, what is wrong with them. A file that turns bad keeps what it
//! last defined; the other files are not touched by it.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use agent_core::manifest::{self, Object};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// A directory and what its files last said.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    files: BTreeMap<PathBuf, ManifestFile>,
    complaint: Option<String>,
}

/// One file of a [`Directory`].
#[derive(Debug, Default)]
pub struct ManifestFile {
    stamp: Option<Stamp>,
    /// What it defines, or last defined while it was good.
    pub objects: Vec<Object>,
    /// What is wrong with it now, one line each.
    pub errors: Vec<String>,
    /// When it was last written.
    pub written: Option<SystemTime>,
}

/// Changes with every write that a file system can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Directory {
    /// The directory at `path`, not read yet.
    pub fn new(path: PathBuf) -> Directory {
        Directory {
            path,
            files: BTreeMap::new(),
            complaint: None,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its files in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &ManifestFile)> {
        self.files.iter().map(|(path, file)| (path.as_path(), file))
    }

    /// Why it can't be listed, if it can't.
    pub fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    /// Reads what has changed. A directory that can't be listed keeps everything.
    pub fn scan(&mut self) {
        let listed = list(&self.path).map_err(|error| format!("list {}: {error}", self.path.display()));
        self.complaint = listed.as_ref().err().cloned();
        if let Ok(paths) = listed {
            self.files.retain(|path, _| paths.contains(path));
            for path in paths {
                self.files.entry(path.clone()).or_default().refresh(&path);
            }
        }
    }
}

impl ManifestFile {
    /// Reads the file if it has changed.
    fn refresh(&mut self, path: &Path) {
        match read(path, self.stamp) {
            Ok(None) => {}
            Ok(Some((metadata, bytes))) => {
                self.stamp = Some(Stamp::of(&metadata));
                self.written = metadata.modified().ok();
                self.parse(path, &bytes);
            }
            // Gone since it was listed: the next scan sees that.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                self.stamp = None;
                self.errors = vec![format!("{}: {error}", path.display())];
            }
        }
    }

    fn parse(&mut self, path: &Path, bytes: &[u8]) {
        match manifest::parse(&path.display().to_string(), bytes) {
            Ok(objects) => {
                self.objects = objects;
                self.errors.clear();
            }
            Err(errors) => self.errors = errors.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Whether a file of this name is read: `*.yaml`, `*.yml` or `*.json`, and not hidden.
pub fn is_manifest_name(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let known = path
        .extension()
        .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|&known| extension == known));
    known && !hidden
}

fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        // Follows links, as a kubelet does; a dangling one is no manifest.
        if is_manifest_name(&path) && fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The file's contents, unless it is as it was at `known`.
fn read(path: &Path, known: Option<Stamp>) -> io::Result<Option<(Metadata, Vec<u8>)>> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    if Some(Stamp::of(&metadata)) == known {
        return Ok(None);
    }
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let limit = manifest::MAX_FILE_BYTES as u64;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other("a manifest must be smaller than 10 MiB"));
    }
    Ok(Some((metadata, bytes)))
}

/// A FIFO put in the file's place must not hold up the scan.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
}

/// Tells when something happens in watched directories.
#[derive(Debug)]
pub struct Changes {
    inotify: Inotify,
    readable: pipe::Receiver,
}

impl Changes {
    /// One inotify instance for all directories: an ordinary user's share is 128 of them.
    pub fn new() -> io::Result<Changes> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // To be waited for and read, an inotify instance is a pipe like any other.
        let readable = pipe::Receiver::from_owned_fd_unchecked(inotify.as_fd().try_clone_to_owned()?)?;
        Ok(Changes { inotify, readable })
    }

    /// Watches a directory; again, when it was replaced by another. One that is missing is found by the rescan.
    pub fn watch(&self, dir: &Path) {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        if let Err(error) = self.inotify.add_watch(dir, flags) {
            tracing::debug!(dir = %dir.display(), %error, "directory is not watched");
        }
    }

    /// Waits for the next change, and takes what has piled up with it.
    pub async fn next(&mut self) {
        let mut events = [0; 4096];
        if self.readable.read(&mut events).await.is_err() {
            // The periodic scan goes on.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_manifest_names_are_read() {
        for (name, is_read) in [
            ("a.yaml", true),
            ("a.yml", true),
            ("a.json", true),
            (".a.yaml", false),
            ("a.txt", false),
            ("yaml", false),
        ] {
            assert_eq!(is_manifest_name(Path::new(name)), is_read, "{name}");
        }
    }
}
