//! Pulls the images of pods into the store, and reads what an image says of its users.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use agent_core::pod::FailureKind;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::StepError;
use crate::image::{Image, PullOptions, Reference, Store};

/// The largest passwd or group file that is read; the rest of a longer one is not seen.
const ACCOUNTS_LIMIT: u64 = 1 << 20;

/// Pulls an image as a pod names it. Dropping the future stops the pull.
pub async fn pull(store: &Store, name: &str) -> Result<Arc<Image>, StepError> {
    let reference = reference(name)?;
    Ok(store.pull(&reference, &PullOptions::default()).await?)
}

/// The image that a pod names.
pub fn reference(name: &str) -> Result<Reference, StepError> {
    name.parse::<Reference>().map_err(|error| StepError {
        kind: FailureKind::ImageName,
        error: error.into(),
    })
}

/// The image's `/etc/passwd` and `/etc/group`, empty where it has none.
pub fn accounts(image: &Image) -> [String; 2] {
    ["etc/passwd", "etc/group"].map(|name| {
        image
            .layers
            .iter()
            .find_map(|layer| read_in(layer, name))
            .unwrap_or_default()
    })
}

/// A file of one layer. Links are not followed: in a layer by itself they lead anywhere.
fn read_in(layer: &Path, name: &str) -> Option<String> {
    let dir = File::open(layer).ok()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = File::from(rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve).ok()?);
    let mut bytes = Vec::new();
    // A whiteout is a device: the image has removed the file of the layers below.
    if file.metadata().ok()?.is_file() {
        file.take(ACCOUNTS_LIMIT).read_to_end(&mut bytes).ok()?;
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
