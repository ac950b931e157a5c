//! Reads a layer's tar into entries whose names cannot leave the layer; what two tar readers could read differently is
//! refused.
//!
//! The `tar` crate only splits the stream into raw headers and contents here. Extension headers (PAX, GNU long names)
//! are interpreted below, strictly, because disagreement between parsers is how entries are smuggled past a scanner
//! (CVE-2025-62518). Nothing here touches the file system; see `unpack.rs`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::pax::{Pax, PaxError};

/// The kernel's PATH_MAX without its NUL.
const PATH_BYTES: usize = 4095;
/// The kernel's NAME_MAX.
const COMPONENT_BYTES: usize = 255;
const DEPTH: usize = 256;
/// As Go's archive/tar: an extension header larger than this is an attack.
const EXTENSION_BYTES: u64 = 1 << 20;

/// One entry of a layer, with the extension headers before it applied.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) path: EntryPath,
    pub(super) kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(super) mtime: (i64, u32),
    /// Extended attributes as the layer gives them, none allowed yet.
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    Directory,
    File {
        size: u64,
    },
    /// The target, verbatim.
    Symlink(OsString),
    /// An earlier entry of the same layer.
    HardLink(EntryPath),
    Character {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// The components of a name below the layer's root: none empty, `.` or `..`. No components at all is the root itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryPath(Vec<OsString>);

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("is empty")]
    Empty,
    /// Starts at `/`.
    #[error("is absolute")]
    Absolute,
    /// Holds a `..`.
    #[error("climbs out through `..`")]
    Parent,
    /// Holds a NUL byte.
    #[error("has a NUL byte in it")]
    Nul,
    /// Longer than the kernel's PATH_MAX.
    #[error("is longer than {PATH_BYTES} bytes")]
    TooLong,
    /// A component longer than the kernel's NAME_MAX.
    #[error("has a component of more than {COMPONENT_BYTES} bytes")]
    ComponentTooLong,
    /// More directories than any real layer has.
    #[error("is nested deeper than {DEPTH} directories")]
    TooDeep,
}

/// Why a tar stream is refused.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The stream ends early, a checksum is wrong, or the decompressor failed.
    #[error("read the layer's tar")]
    Read(#[source] io::Error),
    /// A name that can't be placed below the layer's root.
    #[error("entry {name:?}: its name {why}", name = Lossy(.0), why = .1)]
    Name(Vec<u8>, NameError),
    /// A hard link's target that can't be placed below the layer's root.
    #[error("entry {name:?}: its link target {why}", name = Lossy(.0), why = .1)]
    LinkName(Vec<u8>, NameError),
    /// Something that readers of tar disagree on, or that has no place in a layer.
    #[error("entry {name:?}: {why}", name = Lossy(.0), why = .1)]
    Refused(Vec<u8>, &'static str),
    /// An extension header that isn't well formed.
    #[error("entry {name:?}: bad extended header", name = Lossy(.0))]
    Pax(Vec<u8>, #[source] PaxError),
    /// Bytes other than zero behind the end of the archive.
    #[error("the layer's tar is followed by other data")]
    Trailing,
}

/// Shows the bytes of a name in an error message, bounded.
struct Lossy<'a>(&'a [u8]);

impl fmt::Debug for Lossy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(256)];
        fmt::Debug::fmt(&String::from_utf8_lossy(shown), f)
    }
}

impl EntryPath {
    /// Takes a name as tar has it; `./` in front and a slash behind are dropped.
    pub(super) fn parse(name: &[u8]) -> Result<Self, NameError> {
        match name {
            [] => return Err(NameError::Empty),
            [b'/', ..] => return Err(NameError::Absolute),
            _ if name.contains(&0) => return Err(NameError::Nul),
            _ if name.len() > PATH_BYTES => return Err(NameError::TooLong),
            _ => {}
        }
        let mut components = Vec::new();
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(NameError::Parent),
                _ if component.len() > COMPONENT_BYTES => return Err(NameError::ComponentTooLong),
                _ => components.push(OsString::from_vec(component.to_vec())),
            }
        }
        if components.len() > DEPTH {
            Err(NameError::TooDeep)
        } else {
            Ok(Self(components))
        }
    }

    /// Where a relative link at this path leads, by its text alone; `None` if out of the root.
    pub(super) fn sibling(&self, target: &OsStr) -> Option<Self> {
        let mut path = self.0.clone();
        path.pop();
        for component in target.as_bytes().split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => drop(path.pop()?),
                _ => path.push(OsString::from_vec(component.to_vec())),
            }
        }
        Some(Self(path)).filter(|_| !target.as_bytes().starts_with(b"/"))
    }

    pub(super) fn components(&self) -> &[OsString] {
        &self.0
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|name| name.to_string_lossy()).collect();
        f.write_str(if names.is_empty() { "." } else { "" })?;
        f.write_str(&names.join("/"))
    }
}

/// The content of an entry, and at which byte of the tar it starts.
pub(super) struct Content<'a> {
    pub(super) position: u64,
    reader: &'a mut dyn Read,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// Reads `tar` to its very end and hands every entry, with its content, to `each`.
pub(super) fn read<R: Read, E: From<EntryError>>(
    tar: R,
    mut each: impl FnMut(&Entry, Content<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut archive = tar::Archive::new(Padded {
        tar,
        count: 0,
        padding: None,
    });
    let mut extension = Extension::default();
    let mut end = 0;
    for raw in archive.entries().map_err(EntryError::Read)?.raw(true) {
        let mut raw = raw.map_err(EntryError::Read)?;
        end = raw.raw_file_position() + raw.size();
        if extension.take(&mut raw)? {
            continue;
        }
        let entry = std::mem::take(&mut extension).apply(raw.header())?;
        each(
            &entry,
            Content {
                position: raw.raw_file_position(),
                reader: &mut raw,
            },
        )?;
    }
    extension.check_used()?;
    let mut padded = archive.into_inner();
    ends_in_zeros(&mut padded)?;
    if padded.count < end {
        Err(EntryError::Read(io::ErrorKind::UnexpectedEof.into()).into())
    } else {
        Ok(())
    }
}

/// A tar with zeros behind it: some writers leave out the last entry's padding and the two zero blocks of the end.
struct Padded<R> {
    tar: R,
    /// Bytes of the tar itself.
    count: u64,
    /// Zeros still to come, once the tar has ended.
    padding: Option<u64>,
}

impl<R: Read> Read for Padded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.padding.is_none() {
            let count = self.tar.read(buffer)?;
            self.count += count as u64;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
        }
        let padding = self
            .padding
            .get_or_insert(self.count.next_multiple_of(512) - self.count + 1024);
        let count = io::repeat(0).take(*padding).read(buffer)?;
        *padding -= count as u64;
        Ok(count)
    }
}

/// Reads on to the end, so that the layer's digest covers all of it.
fn ends_in_zeros(mut rest: impl Read) -> Result<(), EntryError> {
    let mut buffer = [0; 16 << 10];
    loop {
        match rest.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) if buffer[..count].iter().all(|byte| *byte == 0) => {}
            Ok(_) => return Err(EntryError::Trailing),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(EntryError::Read(error)),
        }
    }
}

/// The extension headers seen since the last entry.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

impl Extension {
    /// Takes the header if it is an extension of the next one; `false` if it is an entry itself.
    fn take<R: Read>(&mut self, raw: &mut tar::Entry<'_, R>) -> Result<bool, EntryError> {
        let kind = raw.header().entry_type().as_byte();
        if !matches!(kind, b'x' | b'g' | b'L' | b'K') {
            return Ok(false);
        }
        let shown = raw.header().path_bytes().into_owned();
        let bytes = extension_bytes(raw, &shown)?;
        let pax = |bytes: &[u8]| Pax::parse(bytes).map_err(|source| EntryError::Pax(shown.clone(), source));
        let is_repeated = match kind {
            b'L' => self.name.replace(gnu_name(bytes)).is_some(),
            b'K' => self.link.replace(gnu_name(bytes)).is_some(),
            b'g' if pax(&bytes)?.is_empty() => false,
            b'g' => return Err(EntryError::Refused(shown, GLOBAL)),
            _ => self.pax.replace(pax(&bytes)?).is_some(),
        };
        if is_repeated {
            Err(EntryError::Refused(shown, REPEATED))
        } else {
            Ok(true)
        }
    }

    fn apply(self, header: &tar::Header) -> Result<Entry, EntryError> {
        let pax = self.pax.unwrap_or_default();
        let in_header = header.path_bytes().into_owned();
        let refuse = |why| EntryError::Refused(in_header.clone(), why);
        if self.name.is_some() && pax.path.is_some() || self.link.is_some() && pax.linkpath.is_some() {
            return Err(refuse("named by PAX and by GNU headers at once"));
        }
        let name = pax.path.or(self.name).unwrap_or_else(|| in_header.clone());
        let link = pax
            .linkpath
            .or(self.link)
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        let size = header.entry_size().map_err(EntryError::Read)?;
        if pax.size.is_some_and(|stated| stated != size) {
            return Err(refuse("its headers state two different sizes"));
        }
        let path = EntryPath::parse(&name).map_err(|why| EntryError::Name(name.clone(), why))?;
        let kind = kind(header, &name, link.as_deref(), size)?;
        Ok(Entry {
            path,
            kind,
            mode: header.mode().map_err(EntryError::Read)? & 0o7777,
            uid: id(pax.uid, header.uid()).ok_or_else(|| refuse("its user id is out of range"))?,
            gid: id(pax.gid, header.gid()).ok_or_else(|| refuse("its group id is out of range"))?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => (i64::try_from(header.mtime().map_err(EntryError::Read)?).unwrap_or(0), 0),
            },
            xattrs: pax.xattrs,
        })
    }

    fn check_used(&self) -> Result<(), EntryError> {
        let is_unused = self.name.is_some() || self.link.is_some() || self.pax.is_some();
        if is_unused {
            Err(EntryError::Refused(Vec::new(), "an extended header without an entry"))
        } else {
            Ok(())
        }
    }
}

/// The content of an extension header, bounded and whole.
fn extension_bytes<R: Read>(raw: &mut tar::Entry<'_, R>, shown: &[u8]) -> Result<Vec<u8>, EntryError> {
    if raw.size() > EXTENSION_BYTES {
        return Err(EntryError::Refused(
            shown.to_owned(),
            "an extended header of more than 1 MiB",
        ));
    }
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).map_err(EntryError::Read)?;
    let is_whole = bytes.len() as u64 == raw.size();
    if is_whole {
        Ok(bytes)
    } else {
        Err(EntryError::Read(io::ErrorKind::UnexpectedEof.into()))
    }
}

const REPEATED: &str = "two extended headers of one kind in a row";
const GLOBAL: &str = "a global extended header that renames or resizes entries";

/// GNU long names end with one NUL.
fn gnu_name(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

/// The PAX value if there is one, else the header's; (uid_t)-1 means "unchanged" to the kernel and is no id.
fn id(pax: Option<u64>, header: io::Result<u64>) -> Option<u32> {
    pax.or(header.ok())
        .and_then(|id| u32::try_from(id).ok())
        .filter(|id| *id != u32::MAX)
}

fn kind(header: &tar::Header, name: &[u8], link: Option<&[u8]>, size: u64) -> Result<Kind, EntryError> {
    let refuse = |why| EntryError::Refused(name.to_owned(), why);
    let device = || match (header.device_major(), header.device_minor()) {
        (Ok(Some(major)), Ok(Some(minor))) => Ok((major, minor)),
        _ => Err(refuse("a device without numbers")),
    };
    let flag = header.entry_type().as_byte();
    if size != 0 && matches!(flag, b'1'..=b'6') {
        return Err(refuse("content behind a header that can have none"));
    }
    Ok(match flag {
        0 | b'0' if name.ends_with(b"/") => return Err(refuse("a regular file whose name ends in a slash")),
        0 | b'0' => Kind::File { size },
        b'1' => Kind::HardLink(link_path(name, link.unwrap_or_default())?),
        b'2' => Kind::Symlink(symlink_target(link.unwrap_or_default()).ok_or_else(|| refuse("a bad link target"))?),
        b'3' => device().map(|(major, minor)| Kind::Character { major, minor })?,
        b'4' => device().map(|(major, minor)| Kind::Block { major, minor })?,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'S' => return Err(refuse("a sparse file, which layers can't have")),
        _ => return Err(refuse("a kind of entry that layers can't have")),
    })
}

fn link_path(name: &[u8], link: &[u8]) -> Result<EntryPath, EntryError> {
    EntryPath::parse(link).map_err(|why| EntryError::LinkName([name, b" -> ", link].concat(), why))
}

fn symlink_target(link: &[u8]) -> Option<OsString> {
    let is_target = !link.is_empty() && link.len() <= PATH_BYTES && !link.contains(&0);
    is_target.then(|| OsString::from_vec(link.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_root() {
        let parse = |name: &str| EntryPath::parse(name.as_bytes()).map(|path| path.to_string());
        for (name, expected) in [
            ("a", Ok("a")),
            ("./a/b/", Ok("a/b")),
            ("a//b", Ok("a/b")),
            ("./", Ok(".")),
            ("a..b/...", Ok("a..b/...")),
            ("", Err(NameError::Empty)),
            ("/a", Err(NameError::Absolute)),
            ("//", Err(NameError::Absolute)),
            ("../a", Err(NameError::Parent)),
            ("./../a", Err(NameError::Parent)),
            ("a/../b", Err(NameError::Parent)),
            ("a/..", Err(NameError::Parent)),
            ("a\0b", Err(NameError::Nul)),
            (&"a".repeat(256), Err(NameError::ComponentTooLong)),
            (&"a/".repeat(257), Err(NameError::TooDeep)),
            (&"abcdefgh/".repeat(500), Err(NameError::TooLong)),
        ] {
            assert_eq!(parse(name), expected.map(str::to_owned), "{name:?}");
        }
    }

    fn archive(names: &[String], content: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(1);
            header.set_uid(0);
            header.set_gid(0);
            builder.append_data(&mut header, name, content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn entries(tar: &[u8]) -> Result<Vec<(String, Vec<u8>)>, EntryError> {
        let mut entries = Vec::new();
        read(tar, |entry, mut content| {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes).map_err(EntryError::Read)?;
            assert!(
                entry
                    .path
                    .components()
                    .iter()
                    .all(|name| name != ".." && !name.as_bytes().contains(&b'/'))
            );
            entries.push((entry.path.to_string(), bytes));
            Ok::<_, EntryError>(())
        })?;
        Ok(entries)
    }

    proptest::proptest! {
        #[test]
        fn what_the_tar_crate_writes_is_read(names in proptest::collection::vec("[a-z]{1,9}(/[a-z]{90}){0,3}", 0..5), content: Vec<u8>) {
            let expected: Vec<_> = names.iter().map(|name| (name.clone(), content.clone())).collect();
            proptest::prop_assert_eq!(entries(&archive(&names, &content)).unwrap(), expected);
        }

        #[test]
        fn a_damaged_archive_never_panics(content: Vec<u8>, damage: Vec<(u16, u8)>, fixed: bool) {
            let mut bytes = archive(&["a".repeat(120), "b".to_owned()], &content);
            for (at, value) in damage {
                let at = usize::from(at) % bytes.len();
                bytes[at] = value;
            }
            if fixed {
                // A right checksum lets the damage through to the fields.
                let sum: u32 = bytes[..512].iter().enumerate().map(|(i, byte)| if (148..156).contains(&i) { 32 } else { u32::from(*byte) }).sum();
                bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            let _ = entries(&bytes);
        }
    }
}
