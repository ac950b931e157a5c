//! From a Pod with its defaults applied to a [`DesiredPod`]: everything is parsed and checked once, with the API server's
//! words, and nothing afterwards meets a string where an enum would do. A container is read in `container.rs`, its ports in
//! `ports.rs`.

mod bandwidth;
mod container;
pub(crate) mod ports;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{Pod, PodSecurityContext, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{Backoffs, Bandwidth, DesiredContainer, DesiredPod, DnsPolicy, Goal, NodeFacts, PodUid, RestartPolicy};
use crate::{
    fault::{Faults, FieldError},
    syntax,
};

/// The most containers of one pod.
const MAX_CONTAINERS: usize = 100;
/// The most bytes of annotations.
const MAX_ANNOTATIONS: usize = 256 * 1024;
/// The longest hostname that the kernel takes, less one.
const MAX_HOSTNAME: usize = 63;

impl DesiredPod {
    /// The pod as it shall be on `node`. It has its uid and its defaults already ([`crate::manifest::parse`] or an API
    /// server gave them).
    ///
    /// # Errors
    /// Every field that is missing, wrong or not honoured.
    pub fn accept(pod: &Pod, goal: Goal, node: &NodeFacts, backoffs: Backoffs) -> Result<Self, Vec<FieldError>> {
        let mut faults = Faults::default();
        let uid = check_uid(&pod.metadata, &mut faults);
        check_metadata(&pod.metadata, syntax::subdomain, &mut faults);
        let no_spec = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&no_spec);
        let containers = accept_containers(spec, &mut faults);
        let restart_policy = restart_policy(spec, &mut faults);
        let grace = grace(spec, &mut faults);
        let dns = dns_policy(spec, &mut faults);
        let bandwidth = bandwidth::accept(&pod.metadata, &mut faults);
        let hostname = hostname(pod, spec, node, &mut faults);
        let supplemental_groups = groups(spec.security_context.as_ref(), &mut faults);
        let found = faults.into_errors();
        let (Some(uid), []) = (uid, found.as_slice()) else {
            return Err(found);
        };
        Ok(Self {
            uid,
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            annotations: pod.metadata.annotations.clone().unwrap_or_default(),
            containers,
            restart_policy,
            hostname,
            host_network: spec.host_network.unwrap_or(false),
            enable_service_links: spec.enable_service_links.unwrap_or(true),
            dns,
            bandwidth,
            supplemental_groups,
            grace,
            refusal: None,
            goal,
            backoffs,
            node: node.clone(),
        })
    }

    /// A pod of which only its uid is known, because its manifest and its record are gone: there is only one thing to
    /// do with it.
    pub fn orphan(uid: PodUid, since: crate::pod::Time, grace: Duration) -> Self {
        Self {
            name: uid.to_string(),
            uid,
            namespace: String::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            containers: Vec::new(),
            restart_policy: RestartPolicy::Never,
            hostname: String::new(),
            host_network: false,
            enable_service_links: false,
            dns: DnsPolicy::Default,
            bandwidth: Bandwidth::default(),
            supplemental_groups: Vec::new(),
            grace,
            refusal: None,
            goal: Goal::Stop { since, grace },
            backoffs: Backoffs::default(),
            node: NodeFacts::default(),
        }
    }
}

/// Name, namespace, labels and annotations of any object.
pub(crate) fn check_metadata(meta: &ObjectMeta, name: fn(&str) -> syntax::Broken, faults: &mut Faults) {
    faults.check("metadata.name", meta.name.as_deref().unwrap_or_default(), name);
    faults.check(
        "metadata.namespace",
        meta.namespace.as_deref().unwrap_or_default(),
        syntax::label,
    );
    for (key, value) in meta.labels.iter().flatten() {
        faults.check_in("metadata.labels", key, key, syntax::qualified_name);
        faults.check_in("metadata.labels", key, value, syntax::label_value);
    }
    let annotations = || meta.annotations.iter().flatten();
    for (key, _) in annotations() {
        faults.check_in("metadata.annotations", key, &key.to_lowercase(), syntax::qualified_name);
    }
    if annotations().map(|(key, value)| key.len() + value.len()).sum::<usize>() > MAX_ANNOTATIONS {
        faults.add(
            "metadata.annotations",
            format!("Too long: may not be more than {MAX_ANNOTATIONS} bytes"),
        );
    }
}

fn check_uid(meta: &ObjectMeta, faults: &mut Faults) -> Option<PodUid> {
    let text = meta.uid.as_deref().unwrap_or_default();
    let uid = PodUid::parse(text);
    if let Err(error) = &uid {
        faults.invalid("metadata.uid", text, &error.to_string());
    }
    uid.ok()
}

fn accept_containers(spec: &PodSpec, faults: &mut Faults) -> Vec<DesiredContainer> {
    if spec.containers.is_empty() {
        faults.required("spec.containers");
    }
    if spec.containers.len() > MAX_CONTAINERS {
        faults.add(
            "spec.containers",
            format!("Too many: must have at most {MAX_CONTAINERS} items"),
        );
        return Vec::new();
    }
    let mut accepted: Vec<DesiredContainer> = Vec::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let path = format!("spec.containers[{index}]");
        if accepted.iter().any(|earlier| earlier.name.as_str() == container.name) {
            faults.duplicate(&format!("{path}.name"), &container.name);
        }
        accepted.extend(container::accept(&path, container, spec, faults));
    }
    ports::check(spec, faults);
    accepted
}

fn restart_policy(spec: &PodSpec, faults: &mut Faults) -> RestartPolicy {
    let choices = [
        ("Always", RestartPolicy::Always),
        ("OnFailure", RestartPolicy::OnFailure),
        ("Never", RestartPolicy::Never),
    ];
    faults.choose("spec.restartPolicy", spec.restart_policy.as_deref(), &choices)
}

fn dns_policy(spec: &PodSpec, faults: &mut Faults) -> DnsPolicy {
    let choices = [("Default", DnsPolicy::Default), ("ClusterFirst", DnsPolicy::Default)];
    faults.choose("spec.dnsPolicy", spec.dns_policy.as_deref(), &choices)
}

fn grace(spec: &PodSpec, faults: &mut Faults) -> Duration {
    let seconds = spec.termination_grace_period_seconds.unwrap_or(30);
    if seconds < 0 {
        faults.invalid_number(
            "spec.terminationGracePeriodSeconds",
            seconds,
            "must be greater than or equal to 0",
        );
    }
    Duration::from_secs(seconds.max(0).unsigned_abs())
}

/// The node's name on the host network; else the hostname that is asked for, or the pod's name as far as it fits.
fn hostname(pod: &Pod, spec: &PodSpec, node: &NodeFacts, faults: &mut Faults) -> String {
    if let Some(hostname) = spec.hostname.as_deref() {
        faults.check("spec.hostname", hostname, syntax::label);
    }
    if spec.host_network.unwrap_or(false) {
        return node.name.clone();
    }
    if let Some(hostname) = &spec.hostname {
        return hostname.clone();
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    name.chars()
        .take(MAX_HOSTNAME)
        .collect::<String>()
        .trim_end_matches(['-', '.'])
        .to_owned()
}

fn groups(context: Option<&PodSecurityContext>, faults: &mut Faults) -> Vec<u32> {
    let Some(context) = context else { return Vec::new() };
    let listed = context.supplemental_groups.iter().flatten().copied().enumerate();
    let mut groups: Vec<u32> = listed
        .filter_map(|(index, id)| faults.id(&format!("spec.securityContext.supplementalGroups[{index}]"), Some(id)))
        .collect();
    groups.extend(faults.id("spec.securityContext.fsGroup", context.fs_group));
    groups
}
