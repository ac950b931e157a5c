//! A path inside a container, taken apart beforehand so that the child can walk and make it without allocating.

use std::ffi::{CStr, CString};
use std::fmt;
use std::path::{Component, Path};

use crate::plan::FieldError;

/// A cleaned path inside a container, relative to its root.
///
/// Cleaned lexically, as all runtimes do: `..` goes up one component of the text and never above the root. Links of
/// the image are resolved later, by the kernel, inside the root.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ContainerPath {
    /// `a`, `a/b`, `a/b/c`; empty for the root itself.
    prefixes: Vec<CString>,
}

impl ContainerPath {
    /// The root itself.
    pub(crate) fn root() -> Self {
        Self { prefixes: Vec::new() }
    }

    /// Takes `path` apart; a relative one starts from the root. `field` is named if it can't be a path.
    pub(crate) fn new(field: impl fmt::Display, path: &Path) -> Result<Self, FieldError> {
        let mut prefixes: Vec<CString> = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => {
                    let prefix = join(prefixes.last(), name.as_encoded_bytes());
                    let prefix = CString::new(prefix);
                    prefixes.push(
                        prefix.map_err(|_| FieldError::new(field.to_string(), "a path can't contain a null byte"))?,
                    );
                }
                Component::ParentDir => {
                    prefixes.pop();
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(Self { prefixes })
    }

    /// The whole path from the root, without a leading slash; `.` for the root itself.
    pub(crate) fn relative(&self) -> &CStr {
        self.prefixes.last().map_or(c".", |path| path)
    }

    /// Every directory on the way, the path itself last.
    pub(crate) fn prefixes(&self) -> &[CString] {
        &self.prefixes
    }

    /// The path that holds this one and the name in it; none for the root.
    pub(crate) fn split(&self) -> Option<(&[CString], &CStr)> {
        let (last, parents) = self.prefixes.split_last()?;
        Some((parents, last_name(last)))
    }

    pub(crate) fn is_root(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// Whether this is `path` (absolute, clean).
    pub(crate) fn is(&self, path: &str) -> bool {
        path.strip_prefix('/')
            .is_some_and(|path| path.as_bytes() == self.prefixes.last().map_or(b"".as_slice(), |p| p.to_bytes()))
    }
}

impl fmt::Display for ContainerPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.prefixes.last().map_or(b"".as_slice(), |path| path.to_bytes());
        write!(formatter, "/{}", String::from_utf8_lossy(path))
    }
}

impl fmt::Debug for ContainerPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

/// A name in a directory, with room for the null at its end and for nothing else.
fn join(directory: Option<&CString>, name: &[u8]) -> Vec<u8> {
    let (directory, slash) = directory.map_or((&[][..], &[][..]), |directory| (directory.to_bytes(), b"/"));
    let mut path = Vec::with_capacity(directory.len() + slash.len() + name.len() + 1);
    path.extend_from_slice(directory);
    path.extend_from_slice(slash);
    path.extend_from_slice(name);
    path
}

/// The last name of a path, as the end of the same buffer.
pub(crate) fn last_name(path: &CStr) -> &CStr {
    let bytes = path.to_bytes_with_nul();
    let start = bytes
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |slash| slash + 1);
    bytes
        .get(start..)
        .and_then(|name| CStr::from_bytes_with_nul(name).ok())
        .unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ContainerPath {
        ContainerPath::new("mounts[0].destination", Path::new(text)).unwrap()
    }

    #[test]
    fn paths_are_cleaned_and_never_leave_the_root() {
        for (text, clean) in [
            ("/", "/"),
            ("", "/"),
            ("/a/b", "/a/b"),
            ("a//b/./c/", "/a/b/c"),
            ("/a/../b", "/b"),
            ("/../../etc", "/etc"),
            ("/a/b/../..", "/"),
        ] {
            assert_eq!(path(text).to_string(), clean, "{text:?}");
        }
    }

    #[test]
    fn a_path_knows_every_directory_on_its_way() {
        let path = path("/a/b/c");
        assert_eq!(
            path.prefixes(),
            [c"a".to_owned(), c"a/b".to_owned(), c"a/b/c".to_owned()]
        );
        let (parents, name) = path.split().unwrap();
        assert_eq!((parents.len(), name), (2, c"c"));
        assert_eq!(last_name(c"a"), c"a");
    }

    #[test]
    fn a_null_byte_is_refused_with_the_field() {
        let error = ContainerPath::new("mounts[3].destination", Path::new("/a\0b")).unwrap_err();
        assert_eq!(error.field, "mounts[3].destination");
    }
}
