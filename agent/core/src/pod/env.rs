//! The environment of a container as a kubelet makes it: `envFrom`, then `env`, then Services; and `$(VAR)`.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::ConfigMap;

use super::{DesiredContainer, DesiredPod, EnvFrom, EnvValue, FieldRef};
use crate::syntax;

/// The longest variable and argument that the kernel takes (`MAX_ARG_STRLEN`), in bytes. `$(VAR)` could pass it.
pub const MAX_VALUE: usize = 128 * 1024;
/// The most bytes of an environment: what fits beside the arguments on a stack of the usual size.
pub const MAX_TOTAL: usize = 1024 * 1024;

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
    #[error("environment variable {name:?} is longer than {MAX_VALUE} bytes after expansion")]
    TooLong { name: String },
    #[error("the environment is longer than {MAX_TOTAL} bytes after expansion")]
    TooMuch,
}

/// The variables of `container`, each name once, in the order in which they were first named. References to variables
/// of Services resolve only while [`DesiredPod::enable_service_links`] is set.
///
/// # Errors
/// When a ConfigMap or a key that is not optional is missing, or expansion grows beyond what a process can be given.
pub fn resolve(
    pod: &DesiredPod,
    container: &DesiredContainer,
    facts: &EnvFacts<'_>,
) -> Result<Vec<(String, String)>, EnvError> {
    let services = if pod.enable_service_links { facts.services } else { &[] };
    let mut vars = Vars::default();
    for source in &container.env_from {
        for (name, value) in config_map_vars(source, facts)? {
            vars.set(&name, value)?;
        }
    }
    for var in &container.env {
        let value = match &var.value {
            EnvValue::Literal(text) => {
                let service = |name: &str| services.iter().find(|(known, _)| known == name).map(|(_, value)| value);
                Some(expand(text, |name| {
                    vars.get(name).or_else(|| service(name)).map(String::as_str)
                }))
            }
            EnvValue::Field(field) => Some(field_value(pod, field, facts)),
            EnvValue::ConfigMapKey { name, key, optional } => config_map_key(pod, name, key, *optional, facts)?,
        };
        if let Some(value) = value {
            vars.set(&var.name, value)?;
        }
    }
    for (name, value) in services {
        if vars.get(name).is_none() {
            vars.set(name, value.clone())?;
        }
    }
    Ok(vars
        .order
        .into_iter()
        .filter_map(|name| vars.values.remove_entry(&name))
        .collect())
}

/// `text` with `$(VAR)` replaced by what `lookup` says; what it does not know stays as it is, and `$$` is one `$`
/// (third_party/forked/golang/expansion).
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if expanded.len() > MAX_VALUE {
            return expanded;
        }
        rest = after;
        if let Some(escaped) = after.strip_prefix('$') {
            expanded.push('$');
            rest = escaped;
        } else if let Some((name, following)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.extend(["$(", name, ")"]),
            }
            rest = following;
        } else {
            expanded.push('$');
        }
    }
    expanded + rest
}

/// Variables as they are found; a name that is set again keeps its place.
#[derive(Default)]
struct Vars {
    order: Vec<String>,
    values: BTreeMap<String, String>,
    bytes: usize,
}

impl Vars {
    fn get(&self, name: &str) -> Option<&String> {
        self.values.get(name)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), EnvError> {
        if value.len() > MAX_VALUE {
            return Err(EnvError::TooLong { name: name.to_owned() });
        }
        self.bytes += name.len() + value.len() + 2;
        if self.bytes > MAX_TOTAL {
            return Err(EnvError::TooMuch);
        }
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
        Ok(())
    }
}

/// The keys of a whole ConfigMap; those that make no name of a variable are left out, as a kubelet does.
fn config_map_vars(source: &EnvFrom, facts: &EnvFacts<'_>) -> Result<Vec<(String, String)>, EnvError> {
    match facts.config_maps.get(&source.config_map) {
        Some(map) => {
            let named = map
                .data
                .iter()
                .flatten()
                .map(|(key, value)| (format!("{}{key}", source.prefix), value.clone()));
            Ok(named.filter(|(name, _)| syntax::env_name(name).is_ok()).collect())
        }
        None if source.optional => Ok(Vec::new()),
        None => Err(EnvError::NoConfigMap {
            name: source.config_map.clone(),
        }),
    }
}

fn config_map_key(
    pod: &DesiredPod,
    name: &str,
    key: &str,
    optional: bool,
    facts: &EnvFacts<'_>,
) -> Result<Option<String>, EnvError> {
    let Some(map) = facts.config_maps.get(name) else {
        return if optional {
            Ok(None)
        } else {
            Err(EnvError::NoConfigMap { name: name.to_owned() })
        };
    };
    match map.data.as_ref().and_then(|data| data.get(key)) {
        Some(value) => Ok(Some(value.clone())),
        None if optional => Ok(None),
        None => Err(EnvError::NoKey {
            namespace: pod.namespace.clone(),
            name: name.to_owned(),
            key: key.to_owned(),
        }),
    }
}

fn field_value(pod: &DesiredPod, field: &FieldRef, facts: &EnvFacts<'_>) -> String {
    let first = |addresses: &[IpAddr]| addresses.first().map(IpAddr::to_string).unwrap_or_default();
    let all = |addresses: &[IpAddr]| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    match field {
        FieldRef::Name => pod.name.clone(),
        FieldRef::Namespace => pod.namespace.clone(),
        FieldRef::Uid => pod.uid.to_string(),
        FieldRef::Label(key) => pod.labels.get(key).cloned().unwrap_or_default(),
        FieldRef::Annotation(key) => pod.annotations.get(key).cloned().unwrap_or_default(),
        FieldRef::NodeName => pod.node.name.clone(),
        FieldRef::PodIp => first(facts.addresses),
        FieldRef::PodIps => all(facts.addresses),
        FieldRef::HostIp => first(&pod.node.addresses),
        FieldRef::HostIps => all(&pod.node.addresses),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{EnvVar, sample};

    #[test]
    fn references_expand_as_in_a_kubelet() {
        let lookup = |name: &str| match name {
            "A" => Some("1"),
            "E" => Some(""),
            _ => None,
        };
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(E)", ""),
            ("$(NOPE)", "$(NOPE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$", "$$"),
            ("$", "$"),
            ("$A", "$A"),
            ("a$", "a$"),
            ("$(A", "$(A"),
            ("$()", "$()"),
            ("$(A)$(", "1$("),
            ("$ä(A)", "$ä(A)"),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }

    fn literal(name: &str, value: &str) -> EnvVar {
        EnvVar {
            name: name.to_owned(),
            value: EnvValue::Literal(value.to_owned()),
        }
    }

    const ADDRESS: &[IpAddr] = &[IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5))];

    fn facts<'a>(maps: &'a BTreeMap<String, ConfigMap>, services: &'a [(String, String)]) -> EnvFacts<'a> {
        EnvFacts {
            config_maps: maps,
            addresses: ADDRESS,
            services,
        }
    }

    fn maps() -> BTreeMap<String, ConfigMap> {
        let data =
            [("B", "map"), ("C", "map"), ("bad=key", "x")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        [(
            "m".to_owned(),
            ConfigMap {
                data: Some(data.into()),
                ..ConfigMap::default()
            },
        )]
        .into()
    }

    #[test]
    fn env_wins_over_env_from_and_both_over_services() {
        let mut pod = sample::pod();
        let container = &mut pod.containers[0];
        container.env_from = vec![EnvFrom {
            config_map: "m".to_owned(),
            prefix: String::new(),
            optional: false,
        }];
        container.env = vec![
            literal("A", "$(B)-$(C)-$(S)-$(LATER)"),
            literal("B", "own"),
            literal("LATER", "$(B)"),
            EnvVar {
                name: "IP".to_owned(),
                value: EnvValue::Field(FieldRef::PodIp),
            },
        ];
        let services = [
            ("S".to_owned(), "service".to_owned()),
            ("C".to_owned(), "service".to_owned()),
        ];
        let vars = resolve(&pod, &pod.containers[0], &facts(&maps(), &services)).unwrap();
        let text: Vec<String> = vars.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            text,
            [
                "B=own",
                "C=map",
                "A=map-map-service-$(LATER)",
                "LATER=own",
                "IP=10.0.0.5",
                "S=service"
            ]
        );
    }

    #[test]
    fn what_is_missing_is_an_error_unless_optional() {
        let mut pod = sample::pod();
        let mut resolved = |name: &str, key: &str, optional: bool| {
            let value = EnvValue::ConfigMapKey {
                name: name.to_owned(),
                key: key.to_owned(),
                optional,
            };
            pod.containers[0].env = vec![EnvVar {
                name: "X".to_owned(),
                value,
            }];
            resolve(&pod, &pod.containers[0], &facts(&maps(), &[])).map_err(|error| error.to_string())
        };
        assert_eq!(resolved("m", "B", false).unwrap(), [("X".to_owned(), "map".to_owned())]);
        assert_eq!(resolved("n", "B", false).unwrap_err(), "configmap \"n\" not found");
        assert_eq!(
            resolved("m", "Z", false).unwrap_err(),
            "couldn't find key Z in ConfigMap default/m"
        );
        assert_eq!(resolved("n", "B", true).unwrap(), []);
        assert_eq!(resolved("m", "Z", true).unwrap(), []);
    }

    #[test]
    fn expansion_that_multiplies_is_refused() {
        let mut pod = sample::pod();
        let doubled = |level: u32| literal(&format!("V{level}"), &format!("$(V{0})$(V{0})", level - 1));
        pod.containers[0].env = [literal("V0", &"x".repeat(64))]
            .into_iter()
            .chain((1..64).map(doubled))
            .collect();
        let error = resolve(&pod, &pod.containers[0], &facts(&maps(), &[])).unwrap_err();
        assert_eq!(error, EnvError::TooLong { name: "V12".to_owned() });
    }
}
