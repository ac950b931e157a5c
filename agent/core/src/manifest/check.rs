//! What the API server checks of a ConfigMap. Pods are checked by [`crate::pod::DesiredPod::accept`], Services in
//! `service.rs`.

use k8s_openapi::api::core::v1::ConfigMap;

use crate::{fault::Faults, pod::accept, syntax};

/// The most bytes that a ConfigMap holds.
const MAX_DATA: usize = 1024 * 1024;
/// Checks a ConfigMap.
pub(super) fn config_map(map: &ConfigMap, faults: &mut Faults) {
    accept::check_metadata(&map.metadata, syntax::subdomain, faults);
    for (key, _) in map.data.iter().flatten() {
        faults.check_in("data", key, key, syntax::config_key);
    }
    for (key, _) in map.binary_data.iter().flatten() {
        faults.check_in("binaryData", key, key, syntax::config_key);
        if map.data.as_ref().is_some_and(|data| data.contains_key(key)) {
            faults.duplicate(&format!("binaryData[{key}]"), key);
        }
    }
    let text: usize = map
        .data
        .iter()
        .flatten()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    let bytes: usize = map
        .binary_data
        .iter()
        .flatten()
        .map(|(key, value)| key.len() + value.0.len())
        .sum();
    if text + bytes > MAX_DATA {
        faults.add("data", format!("Too long: may not be more than {MAX_DATA} bytes"));
    }
}
