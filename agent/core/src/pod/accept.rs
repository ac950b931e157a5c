//! From a Pod with its defaults applied to a [`DesiredPod`]: the second line of defence behind [`crate::manifest`], and
//! the first for pods from an API server.

use k8s_openapi::api::core::v1::Pod;

use super::{Backoffs, DesiredPod, Goal, NodeFacts};

/// A field that can't be honoured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// As `spec.containers[0].image`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl DesiredPod {
    /// The pod as it shall be on `node`.
    ///
    /// # Errors
    /// Every field that is missing or can't be honoured.
    pub fn accept(_pod: &Pod, _goal: Goal, _node: &NodeFacts, _backoffs: Backoffs) -> Result<Self, Vec<FieldError>> {
        Err(Vec::new())
    }
}
