//! The environment of a container, in a kubelet's order: Services, `envFrom`, `env`; and `$(VAR)`.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::ConfigMap;

use super::{DesiredContainer, DesiredPod};

/// What variables can refer to.
#[derive(Clone, Copy, Debug)]
pub struct EnvFacts<'a> {
    /// The ConfigMaps of the pod's namespace, by name.
    pub config_maps: &'a BTreeMap<String, ConfigMap>,
    /// The pod's addresses: the network's, or the node's on the host network.
    pub addresses: &'a [IpAddr],
    /// The variables of Services; everything else wins over them.
    pub services: &'a [(String, String)],
}

/// A variable without a value: `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum EnvError {
    #[error("configmap {name:?} not found")]
    NoConfigMap { name: String },
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    NoKey {
        namespace: String,
        name: String,
        key: String,
    },
}

/// The variables of `container`, each name once, in the order in which they were first named.
///
/// # Errors
/// When a ConfigMap or a key that is not optional is missing.
pub fn resolve(
    _pod: &DesiredPod,
    _container: &DesiredContainer,
    _facts: &EnvFacts<'_>,
) -> Result<Vec<(String, String)>, EnvError> {
    Ok(Vec::new())
}
