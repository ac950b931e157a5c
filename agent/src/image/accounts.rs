//! The files of an image that say which users and groups it has. What they mean is decided in `agent-core`.
//!
//! They come from the image and may hold anything: links are followed only within the image, something else than a
//! regular file is an error, and so is a file of more than 1 MiB.

use std::io;

use super::Image;
use super::view::View;

const FILE_BYTES: u64 = 1 << 20;

/// The text of an image's user database; empty where the image has none, bytes that aren't UTF-8 replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// `/etc/passwd` (passwd(5)).
    pub passwd: String,
    /// `/etc/group` (group(5)).
    pub group: String,
}

/// Why an image's user database can't be read.
#[derive(Debug, thiserror::Error)]
#[error("read {file} of image {image}")]
pub struct AccountsError {
    file: &'static str,
    image: String,
    source: io::Error,
}

impl Image {
    /// Reads the image's users and groups, as a container of it would find them. Blocks.
    pub fn accounts(&self) -> Result<Accounts, AccountsError> {
        let read = |file: &'static str| {
            let content = View::open(&self.layers).and_then(|view| view.read(file, FILE_BYTES));
            let failed = |source| AccountsError {
                file,
                image: self.reference.to_string(),
                source,
            };
            Ok(String::from_utf8_lossy(&content.map_err(failed)?.unwrap_or_default()).into_owned())
        };
        Ok(Accounts {
            passwd: read("/etc/passwd")?,
            group: read("/etc/group")?,
        })
    }
}
