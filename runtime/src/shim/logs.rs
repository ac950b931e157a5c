//! A container's log file: opened with care, appended to in whole entries, never a reason to stop.
//!
//! What the file system refuses is dropped and counted. The cutting into entries is [`super::cri`]'s.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libc::{O_NOFOLLOW, O_NONBLOCK};

use super::cri::{Splitter, Stamp, Stream, write_entry};
use crate::proto::{LogCounters, UnixNanos};

/// Entries are handed to the kernel when this many bytes have gathered.
const BATCH: usize = 64 << 10;

/// One log file.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    counters: LogCounters,
}

impl Log {
    /// Opens or creates the file (0640) and makes missing directories above it (0755).
    ///
    /// The file must be a regular one and its last component no symbolic link: a pod that can write to the log
    /// directory must not be able to point us elsewhere.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.into(),
            file: open(path)?,
            counters: LogCounters::default(),
        })
    }

    /// Opens the path anew after somebody has renamed the file. On failure the old file stays in use.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }

    /// What became of the output so far.
    pub fn counters(&self) -> LogCounters {
        self.counters
    }

    /// Writes what a stream has said, as of `now`. `scratch` is emptied and may be shared by all logs.
    pub fn write(
        &mut self,
        now: UnixNanos,
        stream: Stream,
        splitter: &mut Splitter,
        said: &[u8],
        scratch: &mut Vec<u8>,
    ) {
        let stamp = Stamp::from(now);
        splitter.feed(said, |tag, content| {
            write_entry(scratch, &stamp, stream, tag, content);
            if scratch.len() >= BATCH {
                self.append(scratch);
            }
        });
        self.append(scratch);
    }

    /// Writes the unfinished line of a stream that has ended.
    pub fn finish(&mut self, now: UnixNanos, stream: Stream, splitter: &mut Splitter, scratch: &mut Vec<u8>) {
        let stamp = Stamp::from(now);
        splitter.finish(|tag, content| write_entry(scratch, &stamp, stream, tag, content));
        self.append(scratch);
    }

    fn append(&mut self, entries: &mut Vec<u8>) {
        let mut rest = &entries[..];
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => break,
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let torn = if rest.is_empty() { 0 } else { entries.len() - rest.len() };
        if torn > 0 {
            self.take_back(torn);
        }
        self.count(entries.len(), rest.is_empty());
        entries.clear();
    }

    /// Removes the beginning of a batch whose end found no room, so that the file holds whole entries only.
    fn take_back(&self, torn: usize) {
        let Ok(length) = self.file.metadata().map(|metadata| metadata.len()) else {
            return;
        };
        // Shortening a file needs no room; if it fails all the same, one entry stays torn and readers skip it.
        let _ = self.file.set_len(length.saturating_sub(torn as u64));
    }

    fn count(&mut self, length: usize, is_written: bool) {
        let counter = if is_written {
            &mut self.counters.written_bytes
        } else {
            &mut self.counters.dropped_bytes
        };
        *counter = counter.saturating_add(length as u64);
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    // Without O_NONBLOCK the open of a FIFO would wait for its reader; on a regular file it has no meaning.
    let flags = O_NOFOLLOW | O_NONBLOCK;
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(flags)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("not a regular file"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scratch_directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("orlop-logs-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn say(log: &mut Log, text: &str) {
        log.write(
            UnixNanos(0),
            Stream::Stdout,
            &mut Splitter::default(),
            text.as_bytes(),
            &mut Vec::new(),
        );
    }

    #[test]
    fn directories_and_file_have_the_modes_that_collectors_expect() {
        let root = scratch_directory("modes");
        let path = root.join("a/b/0.log");
        let mut log = Log::open(&path).unwrap();
        say(&mut log, "x\n");
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "1970-01-01T00:00:00.000000000Z stdout F x\n"
        );
        assert_eq!(
            log.counters(),
            LogCounters {
                written_bytes: 42,
                dropped_bytes: 0
            }
        );
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&root.join("a"))), (0o640, 0o755));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_renamed_file_is_left_alone_after_reopen() {
        let root = scratch_directory("rename");
        let path = root.join("0.log");
        let mut log = Log::open(&path).unwrap();
        say(&mut log, "before\n");
        std::fs::rename(&path, root.join("0.log.1")).unwrap();
        log.reopen().unwrap();
        say(&mut log, "after\n");
        assert!(
            std::fs::read_to_string(root.join("0.log.1"))
                .unwrap()
                .ends_with(" before\n")
        );
        assert!(std::fs::read_to_string(&path).unwrap().ends_with(" after\n"));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn links_devices_and_fifos_are_refused() {
        let root = scratch_directory("hostile");
        let link = root.join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert!(Log::open(&link).is_err());
        assert!(Log::open(Path::new("/dev/null")).is_err());
        let fifo = root.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Log::open(&fifo).is_err());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let mut log = Log {
            path: "/dev/full".into(),
            file: full,
            counters: LogCounters::default(),
        };
        say(&mut log, "x\n");
        say(&mut log, "y\n");
        assert_eq!(
            log.counters(),
            LogCounters {
                written_bytes: 0,
                dropped_bytes: 84
            }
        );
    }
}
