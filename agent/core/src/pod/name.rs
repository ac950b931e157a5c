//! The ids of a pod: they name directories, cgroups and logs, so that they are checked once, here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest name of a pod's container and the longest uid.
const MAX_LENGTH: usize = 63;

/// The unique id of one pod: letters, digits and `-`, at most 63. It names directories and a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodUid(String);

/// The name of a container in its pod: an RFC 1123 label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(String);

/// A uid or container name that can't name a directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} must be 1 to 63 letters, digits and '-', starting and ending with a letter or digit")]
pub struct NameError {
    what: &'static str,
    value: String,
}

impl PodUid {
    /// Checks `value`.
    ///
    /// # Errors
    /// When it is empty, too long, or could leave its directory.
    pub fn parse(value: &str) -> Result<Self, NameError> {
        check("pod uid", value, |byte| byte.is_ascii_alphanumeric()).map(Self)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ContainerName {
    /// Checks `value`.
    ///
    /// # Errors
    /// When it is not an RFC 1123 label.
    pub fn parse(value: &str) -> Result<Self, NameError> {
        check("container name", value, |byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit()
        })
        .map(Self)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(what: &'static str, value: &str, is_letter: impl Fn(u8) -> bool) -> Result<String, NameError> {
    let bytes = value.as_bytes();
    let ends_well = bytes.first().is_some_and(|&b| is_letter(b)) && bytes.last().is_some_and(|&b| is_letter(b));
    if ends_well && bytes.len() <= MAX_LENGTH && bytes.iter().all(|&byte| is_letter(byte) || byte == b'-') {
        Ok(value.to_owned())
    } else {
        Err(NameError {
            what,
            value: value.chars().take(MAX_LENGTH + 1).collect(),
        })
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<PodUid> for String {
    fn from(uid: PodUid) -> Self {
        uid.0
    }
}

impl From<ContainerName> for String {
    fn from(name: ContainerName) -> Self {
        name.0
    }
}

impl TryFrom<String> for PodUid {
    type Error = NameError;

    fn try_from(value: String) -> Result<Self, NameError> {
        Self::parse(&value)
    }
}

impl TryFrom<String> for ContainerName {
    type Error = NameError;

    fn try_from(value: String) -> Result<Self, NameError> {
        Self::parse(&value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "a.b", "-a", "a-", "a b", "ä", &"a".repeat(64)] {
            assert!(PodUid::parse(bad).is_err(), "uid {bad:?}");
            assert!(ContainerName::parse(bad).is_err(), "name {bad:?}");
        }
        assert!(ContainerName::parse("Web").is_err());
        assert!(PodUid::parse("3F2504E0-4f89-11d3-9a0c-0305e82c3301").is_ok());
        assert!(ContainerName::parse("web-1").is_ok());
    }
}
