//! Names that become parts of paths, checked once where they enter.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest name in bytes; a DNS label has 63, CRI ids 64.
pub const NAME_LIMIT: usize = 128;

/// A name is not usable as a part of a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("name {name:?} must be 1 to {NAME_LIMIT} of [A-Za-z0-9._-] and begin with a letter or a digit")]
pub struct NameError {
    /// The beginning of the name as it came.
    pub name: String,
}

fn check(name: String) -> Result<String, NameError> {
    let bytes = name.as_bytes();
    let well_formed = bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.len() <= NAME_LIMIT
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
    if well_formed {
        Ok(name)
    } else {
        Err(NameError {
            name: name.chars().take(NAME_LIMIT).collect(),
        })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                check(name).map(Self)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;
            fn try_from(name: &str) -> Result<Self, NameError> {
                check(name.to_owned()).map(Self)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of a container in its pod: one harmless path component.
    ContainerName
}

name! {
    /// The name that a client gives to an exec.
    ExecId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_harmless_path_component() {
        for good in ["a", "web", "web-1", "a.b_c", "0", &"x".repeat(NAME_LIMIT)] {
            assert!(ContainerName::try_from(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "-a",
            ".a",
            "a/b",
            "../a",
            "a b",
            "a\0",
            "é",
            &"x".repeat(NAME_LIMIT + 1),
        ] {
            assert!(ContainerName::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_name_is_refused_while_reading_json() {
        assert!(serde_json::from_str::<ExecId>(r#""../x""#).is_err());
        assert_eq!(serde_json::from_str::<ExecId>(r#""x""#).unwrap().as_str(), "x");
    }
}
