//! Pulls the images of pods into the store.

use std::sync::Arc;

use agent_core::pod::FailureKind;

use super::StepError;
use crate::image::{Image, PullOptions, Reference, Store};

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
