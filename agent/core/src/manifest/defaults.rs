//! The API server's defaults, for the fields that are honoured, and the uid of a pod that nobody gave one.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec, ResourceRequirements, Service, ServicePort},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use sha2::{Digest, Sha256};

/// The namespace of an object that names none.
pub(super) fn metadata(meta: &mut ObjectMeta) {
    meta.namespace.get_or_insert_with(|| "default".to_owned());
}

/// The uid of a manifest that has none: of its namespace, name and spec, as they are written. A changed spec is another
/// pod, so that the old one ends with its grace and the new one starts afresh; a changed label is the same pod.
pub(super) fn uid(pod: &mut Pod) {
    let meta = &mut pod.metadata;
    if meta.uid.as_ref().is_some_and(|uid| !uid.is_empty()) {
        return;
    }
    let spec = serde_json::to_string(&pod.spec).expect("a pod spec has only text keys");
    let mut hash = Sha256::new();
    for part in [
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
        &spec,
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let hex: String = hash
        .finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let groups = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    meta.uid = Some(groups.join("-"));
}

/// The defaults of a Pod.
pub(super) fn pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    let PodSpec {
        restart_policy,
        dns_policy,
        termination_grace_period_seconds,
        enable_service_links,
        ..
    } = spec;
    text(restart_policy, "Always");
    text(dns_policy, "ClusterFirst");
    termination_grace_period_seconds.get_or_insert(30);
    enable_service_links.get_or_insert(true);
    spec.containers.iter_mut().for_each(container);
}

fn container(container: &mut Container) {
    let image = container.image.as_deref().unwrap_or_default();
    text(
        &mut container.image_pull_policy,
        if is_latest(image) { "Always" } else { "IfNotPresent" },
    );
    for port in container.ports.iter_mut().flatten() {
        text(&mut port.protocol, "TCP");
    }
    for source in container
        .env
        .iter_mut()
        .flatten()
        .filter_map(|var| var.value_from.as_mut())
    {
        if let Some(field) = &mut source.field_ref {
            text(&mut field.api_version, "v1");
        }
    }
    if let Some(ResourceRequirements {
        limits: Some(limits),
        requests,
        ..
    }) = &mut container.resources
    {
        let requests: &mut BTreeMap<String, Quantity> = requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
}

/// Whether an image has the tag `latest` or neither a tag nor a digest.
fn is_latest(image: &str) -> bool {
    let (name, digest) = image
        .split_once('@')
        .map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_none(),
    }
}

/// The defaults of a Service.
pub(super) fn service(service: &mut Service) {
    let Some(spec) = &mut service.spec else { return };
    text(&mut spec.type_, "ClusterIP");
    text(&mut spec.session_affinity, "None");
    for ServicePort {
        protocol,
        target_port,
        port,
        ..
    } in spec.ports.iter_mut().flatten()
    {
        text(protocol, "TCP");
        target_port.get_or_insert(IntOrString::Int(*port));
    }
}

fn text(field: &mut Option<String>, default: &str) {
    if field.as_ref().is_none_or(String::is_empty) {
        *field = Some(default.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_when_an_image_is_pulled() {
        for (image, expected) in [
            ("busybox", true),
            ("busybox:latest", true),
            ("registry:5000/busybox", true),
            ("registry:5000/busybox:1", false),
            ("busybox:1.36", false),
            ("busybox@sha256:00", false),
            ("busybox:latest@sha256:00", true),
        ] {
            assert_eq!(is_latest(image), expected, "{image}");
        }
    }
}
