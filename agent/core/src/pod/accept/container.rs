//! One container of a manifest, parsed and checked. The pod around it is in `mod.rs`.

use std::{collections::BTreeMap, str::FromStr};

use k8s_openapi::{
    api::core::v1::{
        Container, EnvFromSource, EnvVar as ManifestVar, EnvVarSource, PodSecurityContext, PodSpec,
        ResourceRequirements, SecurityContext,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use oci_spec::runtime::Capability;

use super::ports;
use crate::pod::{
    Amount, ContainerName, DesiredContainer, EnvFrom, EnvValue, EnvVar, FieldRef, PullPolicy, Resources, Security,
};
use crate::{fault::Faults, syntax};

/// Reads one container; none when it has no usable name, which is a fault by then.
pub(super) fn accept(
    path: &str,
    container: &Container,
    spec: &PodSpec,
    faults: &mut Faults,
) -> Option<DesiredContainer> {
    faults.check(&format!("{path}.name"), &container.name, syntax::label);
    let image = container.image.clone().unwrap_or_default();
    faults.check(&format!("{path}.image"), &image, image_name);
    let pull_policy = pull_policy(path, container, faults);
    let env_from = env_from(path, container.env_from.as_deref().unwrap_or_default(), faults);
    let env = env(path, container.env.as_deref().unwrap_or_default(), faults);
    let ports = ports::accept(path, container, spec.host_network.unwrap_or(false), faults);
    let resources = resources(path, container.resources.as_ref(), faults);
    let security = security(
        path,
        container.security_context.as_ref(),
        spec.security_context.as_ref(),
        faults,
    );
    Some(DesiredContainer {
        name: ContainerName::parse(&container.name).ok()?,
        image,
        pull_policy,
        command: container.command.clone().unwrap_or_default(),
        args: container.args.clone().unwrap_or_default(),
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        env_from,
        env,
        ports,
        resources,
        security,
    })
}

fn image_name(value: &str) -> syntax::Broken {
    if value.trim() == value {
        Ok(())
    } else {
        Err("must not have leading or trailing whitespace".to_owned())
    }
}

fn pull_policy(path: &str, container: &Container, faults: &mut Faults) -> PullPolicy {
    let choices = [
        ("Always", PullPolicy::Always),
        ("IfNotPresent", PullPolicy::IfNotPresent),
        ("Never", PullPolicy::Never),
    ];
    faults.choose(
        &format!("{path}.imagePullPolicy"),
        container.image_pull_policy.as_deref(),
        &choices,
    )
}

fn env_from(path: &str, sources: &[EnvFromSource], faults: &mut Faults) -> Vec<EnvFrom> {
    let mut read = |(index, source): (usize, &EnvFromSource)| {
        let path = format!("{path}.envFrom[{index}]");
        let prefix = source.prefix.clone().unwrap_or_default();
        if !prefix.is_empty() {
            faults.check(&format!("{path}.prefix"), &prefix, syntax::env_name);
        }
        let Some(map) = &source.config_map_ref else {
            faults.required(&format!("{path}.configMapRef"));
            return None;
        };
        faults.check(&format!("{path}.configMapRef.name"), &map.name, syntax::subdomain);
        Some(EnvFrom {
            config_map: map.name.clone(),
            prefix,
            optional: map.optional.unwrap_or(false),
        })
    };
    sources.iter().enumerate().filter_map(&mut read).collect()
}

fn env(path: &str, vars: &[ManifestVar], faults: &mut Faults) -> Vec<EnvVar> {
    let mut read = |(index, var): (usize, &ManifestVar)| {
        let path = format!("{path}.env[{index}]");
        faults.check(&format!("{path}.name"), &var.name, syntax::env_name);
        let literal = var.value.clone().unwrap_or_default();
        let value = match &var.value_from {
            None => EnvValue::Literal(literal),
            Some(source) => {
                if !literal.is_empty() {
                    faults.invalid(
                        &format!("{path}.valueFrom"),
                        "",
                        "may not be specified when `value` is not empty",
                    );
                }
                env_source(&format!("{path}.valueFrom"), source, faults)?
            }
        };
        Some(EnvVar {
            name: var.name.clone(),
            value,
        })
    };
    vars.iter().enumerate().filter_map(&mut read).collect()
}

fn env_source(path: &str, source: &EnvVarSource, faults: &mut Faults) -> Option<EnvValue> {
    match (&source.field_ref, &source.config_map_key_ref) {
        (Some(field), None) => {
            let known = field_ref(&field.field_path);
            if known.is_none() {
                let message = format!("Unsupported value: {:?}: supported values: {FIELDS}", field.field_path);
                faults.add(&format!("{path}.fieldRef.fieldPath"), message);
            }
            known.map(EnvValue::Field)
        }
        (None, Some(key)) => {
            faults.check(&format!("{path}.configMapKeyRef.name"), &key.name, syntax::subdomain);
            faults.check(&format!("{path}.configMapKeyRef.key"), &key.key, syntax::config_key);
            let (name, optional) = (key.name.clone(), key.optional.unwrap_or(false));
            Some(EnvValue::ConfigMapKey {
                name,
                key: key.key.clone(),
                optional,
            })
        }
        (None, None) => {
            faults.add(
                path,
                "Invalid value: must specify one of: `configMapKeyRef` or `fieldRef`".to_owned(),
            );
            None
        }
        (Some(_), Some(_)) => {
            faults.add(
                path,
                "Invalid value: may not have more than one field specified at a time".to_owned(),
            );
            None
        }
    }
}

const FIELDS: &str = r#""metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels['key']", "metadata.annotations['key']", "spec.nodeName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs""#;

fn field_ref(path: &str) -> Option<FieldRef> {
    Some(match path {
        "metadata.name" => FieldRef::Name,
        "metadata.namespace" => FieldRef::Namespace,
        "metadata.uid" => FieldRef::Uid,
        "spec.nodeName" => FieldRef::NodeName,
        "status.podIP" => FieldRef::PodIp,
        "status.podIPs" => FieldRef::PodIps,
        "status.hostIP" => FieldRef::HostIp,
        "status.hostIPs" => FieldRef::HostIps,
        _ => {
            let (map, key) = path.strip_suffix("']")?.split_once("['")?;
            let of = match map {
                "metadata.labels" => FieldRef::Label,
                "metadata.annotations" => FieldRef::Annotation,
                _ => return None,
            };
            of(key.to_owned())
        }
    })
}

fn resources(path: &str, wanted: Option<&ResourceRequirements>, faults: &mut Faults) -> Resources {
    let Some(wanted) = wanted else {
        return Resources::default();
    };
    let (cpu_request, cpu_limit) = request_and_limit(path, "cpu", wanted, faults);
    let (memory_request, memory_limit) = request_and_limit(path, "memory", wanted, faults);
    Resources {
        cpu_request: cpu_request.map(Amount::thousandths),
        cpu_limit: cpu_limit.map(Amount::thousandths),
        memory_request: memory_request.map(Amount::ones),
        memory_limit: memory_limit.map(Amount::ones),
    }
}

/// A request is its limit unless it says otherwise, so that one fault is not told twice.
fn request_and_limit(
    path: &str,
    resource: &str,
    wanted: &ResourceRequirements,
    faults: &mut Faults,
) -> (Option<Amount>, Option<Amount>) {
    let text = |side: &Option<BTreeMap<String, Quantity>>| Some(side.as_ref()?.get(resource)?.0.clone());
    let (request_text, limit_text) = (text(&wanted.requests), text(&wanted.limits));
    let mut read = |side: &str, text: &Option<String>| {
        faults.amount(&format!("{path}.resources.{side}.{resource}"), text.as_ref()?)
    };
    let limit = read("limits", &limit_text);
    let own = request_text.filter(|text| Some(text) != limit_text.as_ref());
    let request = read("requests", &own);
    if let (Some(request), Some(limit), Some(own), Some(most)) = (request, limit, &own, &limit_text)
        && request > limit
    {
        let rule = format!("must be less than or equal to {resource} limit of {most}");
        faults.invalid(&format!("{path}.resources.requests"), own, &rule);
    }
    (request.or(limit), limit)
}

fn security(
    path: &str,
    own: Option<&SecurityContext>,
    pod: Option<&PodSecurityContext>,
    faults: &mut Faults,
) -> Security {
    let path = format!("{path}.securityContext");
    let none = SecurityContext::default();
    let own = own.unwrap_or(&none);
    let user = faults.id(&format!("{path}.runAsUser"), own.run_as_user);
    let group = faults.id(&format!("{path}.runAsGroup"), own.run_as_group);
    let pod_user = faults.id("spec.securityContext.runAsUser", pod.and_then(|pod| pod.run_as_user));
    let pod_group = faults.id("spec.securityContext.runAsGroup", pod.and_then(|pod| pod.run_as_group));
    let mut capabilities = |name: &str, listed: Option<&Vec<String>>| {
        capabilities(
            &format!("{path}.capabilities.{name}"),
            listed.map_or(&[], Vec::as_slice),
            faults,
        )
    };
    let add_capabilities = capabilities("add", own.capabilities.as_ref().and_then(|listed| listed.add.as_ref()));
    let drop_capabilities = capabilities(
        "drop",
        own.capabilities.as_ref().and_then(|listed| listed.drop.as_ref()),
    );
    let privileged = own.privileged.unwrap_or(false);
    let may_escalate = own.allow_privilege_escalation.unwrap_or(true);
    check_escalation(&path, may_escalate, privileged, &add_capabilities, faults);
    Security {
        user: user.or(pod_user),
        group: group.or(pod_group),
        must_be_non_root: own.run_as_non_root.or_else(|| pod?.run_as_non_root).unwrap_or(false),
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        may_escalate,
        privileged,
        add_capabilities,
        drop_capabilities,
    }
}

fn check_escalation(path: &str, may_escalate: bool, privileged: bool, added: &[String], faults: &mut Faults) {
    if may_escalate {
        return;
    }
    let rule = "cannot set `allowPrivilegeEscalation` to false and ";
    if privileged {
        faults.add(path, format!("Invalid value: {rule}`privileged` to true"));
    }
    if added.iter().any(|name| name == "SYS_ADMIN") {
        faults.add(path, format!("Invalid value: {rule}`capabilities.Add` CAP_SYS_ADMIN"));
    }
}

/// Names without their `CAP_`, as Kubernetes writes them; with it, as users also do.
fn capabilities(path: &str, listed: &[String], faults: &mut Faults) -> Vec<String> {
    let mut read = |(index, name): (usize, &String)| {
        let short = name.strip_prefix("CAP_").unwrap_or(name);
        if short != "ALL" && Capability::from_str(short).is_err() {
            faults.invalid(
                &format!("{path}[{index}]"),
                name,
                "not a capability that this node knows",
            );
            return None;
        }
        Some(short.to_owned())
    };
    listed.iter().enumerate().filter_map(&mut read).collect()
}
