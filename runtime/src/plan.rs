//! From an OCI spec to the list of steps that the child performs. Pure but for opening what the steps need.

/// A field of the spec that is not honoured, or that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FieldError {
    /// Path of the field as the OCI specification writes it, for example `linux.namespaces[2].path`.
    pub field: String,
    /// What is wrong with it, or why it is not honoured.
    pub reason: String,
}
