//! What the API server checks of a Service and an EndpointSlice.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{
    fault::Faults,
    pod::accept,
    service::{AddressRange, slice, table::may_be_taken},
    syntax,
};

/// The longest time that a client keeps its backend without being heard of, in seconds.
const MAX_AFFINITY: i32 = 86_400;
/// The most endpoints of a slice.
const MAX_ENDPOINTS: usize = 1000;
const NODE_PORTS: &str = "30000-32767";
const IP_RULE: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
/// The most ports of a Service.
const MAX_PORTS: usize = 100;

/// Checks a Service, defaults applied.
pub(super) fn service(service: &Service, faults: &mut Faults) {
    accept::check_metadata(&service.metadata, syntax::dns_1035_label, faults);
    let none = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&none);
    let types = [
        ("ClusterIP", Type::ClusterIp),
        ("NodePort", Type::NodePort),
        ("LoadBalancer", Type::LoadBalancer),
    ];
    let kind = faults.choose("spec.type", spec.type_.as_deref(), &types);
    for (key, value) in spec.selector.iter().flatten() {
        faults.check_in("spec.selector", key, key, syntax::qualified_name);
        faults.check_in("spec.selector", key, value, syntax::label_value);
    }
    cluster_ips(spec, faults);
    families(spec, faults);
    affinity(spec, faults);
    traffic(spec, kind, faults);
    outside(service, spec, kind, faults);
    ports(spec.ports.as_deref().unwrap_or_default(), kind, faults);
}

/// `spec.type`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Type {
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
}

fn affinity(spec: &ServiceSpec, faults: &mut Faults) {
    let kinds = [("None", false), ("ClientIP", true)];
    let is_sticky = faults.choose("spec.sessionAffinity", spec.session_affinity.as_deref(), &kinds);
    let Some(config) = &spec.session_affinity_config else {
        return;
    };
    if !is_sticky {
        faults.add(
            "spec.sessionAffinityConfig",
            "Forbidden: must not be set when session affinity is None".to_owned(),
        );
    }
    let seconds = config.client_ip.as_ref().and_then(|client| client.timeout_seconds);
    if let Some(seconds) = seconds.filter(|seconds| !(1..=MAX_AFFINITY).contains(seconds)) {
        let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        faults.invalid_number(
            path,
            i64::from(seconds),
            &format!("must be between 1 and {MAX_AFFINITY}, inclusive"),
        );
    }
}

fn traffic(spec: &ServiceSpec, kind: Type, faults: &mut Faults) {
    let policies = [("Cluster", ()), ("Local", ())];
    let internal = spec.internal_traffic_policy.as_deref();
    faults.choose("spec.internalTrafficPolicy", internal, &policies);
    let external = spec.external_traffic_policy.as_deref();
    faults.choose("spec.externalTrafficPolicy", external, &policies);
    let is_external = kind != Type::ClusterIp || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    if external.is_some() && !is_external {
        let rule = "may only be set for externally-accessible services";
        faults.invalid("spec.externalTrafficPolicy", external.unwrap_or_default(), rule);
    }
    health_check(spec, kind, faults);
    let near = [("PreferClose", ()), ("PreferSameZone", ()), ("PreferSameNode", ())];
    faults.choose("spec.trafficDistribution", spec.traffic_distribution.as_deref(), &near);
}

/// Without one, load balancers ask the Service itself: a node by itself hands out none.
fn health_check(spec: &ServiceSpec, kind: Type, faults: &mut Faults) {
    let Some(number) = spec.health_check_node_port.filter(|number| *number != 0) else {
        return;
    };
    let path = "spec.healthCheckNodePort";
    let is_asked = kind == Type::LoadBalancer && spec.external_traffic_policy.as_deref() == Some("Local");
    if !is_asked {
        let rule = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        faults.invalid_number(path, i64::from(number), rule);
    } else if !(30_000..=32_767).contains(&number) {
        faults.invalid_number(path, i64::from(number), &format!("must be in the range {NODE_PORTS}"));
    }
}

/// What comes from outside: external addresses, those of the load balancer, and who may use them.
fn outside(service: &Service, spec: &ServiceSpec, kind: Type, faults: &mut Faults) {
    for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
        address(&format!("spec.externalIPs[{index}]"), ip, faults);
    }
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    for (index, range) in ranges.enumerate() {
        let path = format!("spec.loadBalancerSourceRanges[{index}]");
        if kind != Type::LoadBalancer {
            faults.add(
                &path,
                "Forbidden: may only be used when `type` is 'LoadBalancer'".to_owned(),
            );
        }
        if range.trim().parse::<AddressRange>().is_err() {
            faults.invalid(
                &path,
                range,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            );
        }
    }
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    for (index, ingress) in ingress.enumerate() {
        let path = format!("status.loadBalancer.ingress[{index}]");
        if kind != Type::LoadBalancer {
            faults.add(
                &path,
                "Forbidden: may only be used when `spec.type` is 'LoadBalancer'".to_owned(),
            );
        }
        if let Some(ip) = &ingress.ip {
            address(&format!("{path}.ip"), ip, faults);
        }
        let modes = [("VIP", ()), ("Proxy", ())];
        faults.choose(&format!("{path}.ipMode"), ingress.ip_mode.as_deref(), &modes);
    }
}

fn address(path: &str, text: &str, faults: &mut Faults) {
    match text.parse::<IpAddr>() {
        Err(_) => faults.invalid(path, text, IP_RULE),
        Ok(ip) if !may_be_taken(&ip) => faults.invalid(
            path,
            text,
            "may not be an unspecified, loopback, link-local or multicast address",
        ),
        Ok(_) => {}
    }
}

/// Checks an EndpointSlice, defaults applied.
pub(super) fn endpoint_slice(slice: &EndpointSlice, faults: &mut Faults) {
    accept::check_metadata(&slice.metadata, syntax::subdomain, faults);
    if slice::Slice::of(slice).owner().is_none() {
        let path = format!("metadata.labels[{}]", slice::SERVICE_LABEL);
        faults.add(
            &path,
            "Required value: names the Service that the endpoints belong to".to_owned(),
        );
    }
    let families = [("IPv4", Some(false)), ("IPv6", Some(true))];
    if slice.address_type.is_empty() {
        faults.required("addressType");
    }
    let is_v6 = faults.choose("addressType", Some(&slice.address_type), &families);
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    if endpoints.len() > MAX_ENDPOINTS {
        return faults.add(
            "endpoints",
            format!("Too many: must have at most {MAX_ENDPOINTS} items"),
        );
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = format!("endpoints[{index}].addresses");
        if endpoint.addresses.is_empty() {
            faults.required(&path);
        }
        for (index, text) in endpoint.addresses.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let is_other = |ip: IpAddr| is_v6.is_some_and(|is_v6| ip.is_ipv6() != is_v6);
            match text.parse::<IpAddr>() {
                Ok(ip) if is_other(ip) => faults.invalid(&path, text, "must be an address of the slice's addressType"),
                _ => address(&path, text, faults),
            }
        }
    }
    let mut names = BTreeSet::new();
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        let path = format!("ports[{index}]");
        if !names.insert(port.name.clone().unwrap_or_default()) {
            faults.duplicate(&format!("{path}.name"), port.name.as_deref().unwrap_or_default());
        }
        match port.port {
            Some(number) => drop(faults.port(&format!("{path}.port"), number)),
            None => faults.required(&format!("{path}.port")),
        }
        accept::ports::protocol(&path, port.protocol.as_deref(), faults);
    }
}

fn cluster_ips(spec: &ServiceSpec, faults: &mut Faults) {
    let first = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty());
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let mut check = |path: &str, ip: &str| match ip.parse::<IpAddr>() {
        Ok(_) => {}
        Err(_) if ip == "None" => {}
        Err(_) => faults.invalid(path, ip, IP_RULE),
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

fn ports(ports: &[ServicePort], kind: Type, faults: &mut Faults) {
    if ports.is_empty() {
        faults.required("spec.ports");
    }
    if ports.len() > MAX_PORTS {
        return faults.add("spec.ports", format!("Too many: must have at most {MAX_PORTS} items"));
    }
    let (mut names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
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
        let protocol = accept::ports::protocol(&path, port.protocol.as_deref(), faults);
        if !numbers.insert((port.port, protocol)) {
            faults.duplicate(&path, &port.port.to_string());
        }
        node_port(&path, port, kind, faults);
        if let Some(number) = port.node_port
            && !node_ports.insert((number, protocol))
        {
            faults.duplicate(&format!("{path}.nodePort"), &number.to_string());
        }
        match &port.target_port {
            Some(IntOrString::Int(number)) if *number == port.port => {}
            Some(IntOrString::Int(number)) => drop(faults.port(&format!("{path}.targetPort"), *number)),
            Some(IntOrString::String(name)) => faults.check(&format!("{path}.targetPort"), name, syntax::port_name),
            None => {}
        }
    }
}

/// A node by itself hands out no node ports: two of them would not agree.
fn node_port(path: &str, port: &ServicePort, kind: Type, faults: &mut Faults) {
    let path = format!("{path}.nodePort");
    match port.node_port {
        None if kind == Type::NodePort => faults.add(
            &path,
            format!("Required value: choose one of {NODE_PORTS}; this node hands out none"),
        ),
        None => {}
        Some(number) if kind == Type::ClusterIp => {
            faults.invalid_number(&path, i64::from(number), "may not be used when `type` is 'ClusterIP'")
        }
        Some(number) if !(30_000..=32_767).contains(&number) => {
            faults.invalid_number(&path, i64::from(number), &format!("must be in the range {NODE_PORTS}"));
        }
        Some(_) => {}
    }
}
