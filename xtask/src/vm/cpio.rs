//! Writes cpio archives of the kind "newc", which an initial file system is made of.
//!
//! Several archives one after the other are one file system: the kernel's Documentation/driver-api/early-userspace.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const TRAILER: &str = "TRAILER!!!";

/// An archive being written. Directories come by themselves.
pub(crate) struct Archive<W> {
    output: W,
    inode: u32,
    known: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub(crate) fn new(output: W) -> Self {
        Self {
            output,
            inode: 0,
            known: BTreeSet::new(),
        }
    }

    /// Adds a file with these contents, readable and executable by all. A second file of the same path is left out.
    pub(crate) fn file(&mut self, path: impl AsRef<Path>, contents: &[u8]) -> anyhow::Result<()> {
        self.entry(path.as_ref(), PROGRAM, contents)
    }

    /// Adds a file from this machine.
    pub(crate) fn copy(&mut self, path: impl AsRef<Path>, source: &Path) -> anyhow::Result<()> {
        let contents = std::fs::read(source).with_context(|| format!("read {}", source.display()))?;
        self.file(path, &contents)
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: impl AsRef<Path>, target: &str) -> anyhow::Result<()> {
        self.entry(path.as_ref(), LINK, target.as_bytes())
    }

    /// Adds an empty directory.
    pub(crate) fn directory(&mut self, path: impl AsRef<Path>) -> anyhow::Result<()> {
        self.entry(path.as_ref(), DIRECTORY, &[])
    }

    /// Whether the path is in the archive.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.known.contains(path)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        self.write(Path::new(TRAILER), 0, &[])?;
        self.output.flush().context("write the archive")
    }

    fn entry(&mut self, path: &Path, mode: u32, contents: &[u8]) -> anyhow::Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        if path.as_os_str().is_empty() || !self.known.insert(Path::new("/").join(path)) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.write(path, mode, contents)
    }

    fn write(&mut self, path: &Path, mode: u32, contents: &[u8]) -> anyhow::Result<()> {
        self.inode += 1;
        let header = header(self.inode, mode, path, contents.len());
        self.output
            .write_all(&padded(header.as_bytes()))
            .context("write the archive")?;
        self.output.write_all(contents).context("write the archive")?;
        let padding = contents.len().next_multiple_of(4) - contents.len();
        self.output.write_all(&[0; 3][..padding]).context("write the archive")
    }
}

/// Magic, thirteen numbers of eight hexadecimal digits, and the name with its NUL.
fn header(inode: u32, mode: u32, path: &Path, length: usize) -> String {
    let name = path.display().to_string();
    let links = 1;
    let (owner, group, time, checksum) = (0, 0, 0, 0);
    let device = "0".repeat(4 * 8);
    let name_length = name.len() + 1;
    format!(
        "070701{inode:08x}{mode:08x}{owner:08x}{group:08x}{links:08x}{time:08x}{length:08x}{device}{name_length:08x}\
         {checksum:08x}{name}\0"
    )
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_parents_first_and_each_path_once() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file("/usr/bin/a", b"12345").unwrap();
        archive.file("/usr/bin/a", b"other").unwrap();
        assert!(archive.has(Path::new("/usr/bin")));
        archive.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let positions: Vec<_> = ["usr\0", "usr/bin\0", "usr/bin/a\0", "12345\0", TRAILER]
            .map(|word| text.find(word).unwrap_or_else(|| panic!("{word:?} is in the archive")))
            .into();
        assert!(positions.is_sorted());
        assert_eq!(text.matches("070701").count(), 4);
        assert!(!text.contains("other"));
    }
}
