//! What the API server checks of a Service and a ConfigMap. Pods are checked by [`crate::pod::DesiredPod::accept`].

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{fault::Faults, pod::accept, syntax};

/// The most bytes that a ConfigMap holds.
const MAX_DATA: usize = 1024 * 1024;
/// The most ports of a Service.
const MAX_PORTS: usize = 100;

/// Checks a Service, defaults applied.
pub(super) fn service(service: &Service, faults: &mut Faults) {
    accept::check_metadata(&service.metadata, syntax::dns_1035_label, faults);
    let none = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&none);
    faults.choose("spec.type", spec.type_.as_deref(), &[("ClusterIP", ())]);
    faults.choose(
        "spec.sessionAffinity",
        spec.session_affinity.as_deref(),
        &[("None", ())],
    );
    for (key, value) in spec.selector.iter().flatten() {
        faults.check_in("spec.selector", key, key, syntax::qualified_name);
        faults.check_in("spec.selector", key, value, syntax::label_value);
    }
    cluster_ips(spec, faults);
    families(spec, faults);
    ports(spec.ports.as_deref().unwrap_or_default(), faults);
}

fn cluster_ips(spec: &ServiceSpec, faults: &mut Faults) {
    let first = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty());
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let mut check = |path: &str, ip: &str| match ip.parse::<IpAddr>() {
        Ok(_) => {}
        Err(_) if ip == "None" => faults.add(path, "headless Services are not honoured yet".to_owned()),
        Err(_) => faults.invalid(
            path,
            ip,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
    };
    first.iter().for_each(|ip| check("spec.clusterIP", ip));
    listed
        .iter()
        .enumerate()
        .for_each(|(index, ip)| check(&format!("spec.clusterIPs[{index}]"), ip));
    let families: BTreeSet<bool> = listed
        .iter()
        .filter_map(|ip| ip.parse().ok())
        .map(|ip: IpAddr| ip.is_ipv4())
        .collect();
    if families.len() < listed.len().min(3) {
        faults.add(
            "spec.clusterIPs",
            "Invalid value: may hold at most one address of each IP family".to_owned(),
        );
    }
    if first.is_some() && listed.first().is_some_and(|ip| Some(ip.as_str()) != first) {
        faults.invalid("spec.clusterIPs[0]", &listed[0], "first value must match `clusterIP`");
    }
}

fn families(spec: &ServiceSpec, faults: &mut Faults) {
    let policies = [("SingleStack", ()), ("PreferDualStack", ()), ("RequireDualStack", ())];
    faults.choose("spec.ipFamilyPolicy", spec.ip_family_policy.as_deref(), &policies);
    let mut seen = BTreeSet::new();
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        let path = format!("spec.ipFamilies[{index}]");
        faults.choose(&path, Some(family), &[("IPv4", ()), ("IPv6", ())]);
        if !seen.insert(family) {
            faults.duplicate(&path, family);
        }
    }
}

fn ports(ports: &[ServicePort], faults: &mut Faults) {
    if ports.is_empty() {
        faults.required("spec.ports");
    }
    if ports.len() > MAX_PORTS {
        return faults.add("spec.ports", format!("Too many: must have at most {MAX_PORTS} items"));
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        match port.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => {
                faults.check(&format!("{path}.name"), name, syntax::label);
                if !names.insert(name) {
                    faults.duplicate(&format!("{path}.name"), name);
                }
            }
            None if ports.len() > 1 => faults.required(&format!("{path}.name")),
            None => {}
        }
        faults.port(&format!("{path}.port"), port.port);
        let protocol = accept::container::protocol(&path, port.protocol.as_deref(), faults);
        if !numbers.insert((port.port, protocol)) {
            faults.duplicate(&path, &port.port.to_string());
        }
        match &port.target_port {
            Some(IntOrString::Int(number)) if *number == port.port => {}
            Some(IntOrString::Int(number)) => drop(faults.port(&format!("{path}.targetPort"), *number)),
            Some(IntOrString::String(name)) => faults.check(&format!("{path}.targetPort"), name, syntax::port_name),
            None => {}
        }
    }
}

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
