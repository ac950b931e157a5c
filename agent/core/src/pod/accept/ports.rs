//! The ports of containers, and those of the node that lead to them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ContainerPort as ManifestPort, PodSpec};

use crate::pod::{ContainerPort, Protocol};
use crate::{fault::Faults, syntax};

/// Reads the ports of one container. On the host's network each is a port of the node by itself.
pub(super) fn accept(
    path: &str,
    container: &Container,
    on_host_network: bool,
    faults: &mut Faults,
) -> Vec<ContainerPort> {
    let mut accepted: Vec<ContainerPort> = Vec::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let path = format!("{path}.ports[{index}]");
        if let Some(name) = &port.name {
            faults.check(&format!("{path}.name"), name, syntax::port_name);
            if accepted.iter().any(|earlier| earlier.name.as_ref() == Some(name)) {
                faults.duplicate(&format!("{path}.name"), name);
            }
        }
        let protocol = protocol(&path, port.protocol.as_deref(), faults);
        let host_port = host_port(&path, port, on_host_network, faults);
        let host_address = host_address(&path, port, faults);
        if let Some(number) = faults.port(&format!("{path}.containerPort"), port.container_port) {
            accepted.push(ContainerPort {
                name: port.name.clone(),
                number,
                protocol,
                host_port: host_port.or(on_host_network.then_some(number)),
                host_address,
            });
        }
    }
    accepted
}

/// The protocol of a port of a container or a Service.
pub(crate) fn protocol(path: &str, word: Option<&str>, faults: &mut Faults) -> Protocol {
    faults.choose(
        &format!("{path}.protocol"),
        word,
        &[("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)],
    )
}

/// Zero is none, as for the API server.
fn host_port(path: &str, port: &ManifestPort, on_host_network: bool, faults: &mut Faults) -> Option<u16> {
    let number = port.host_port.filter(|number| *number != 0)?;
    if on_host_network && number != port.container_port {
        let rule = "must match `hostPort` when `hostNetwork` is true";
        faults.invalid_number(&format!("{path}.containerPort"), port.container_port.into(), rule);
    }
    faults.port(&format!("{path}.hostPort"), number)
}

fn host_address(path: &str, port: &ManifestPort, faults: &mut Faults) -> Option<IpAddr> {
    let text = port.host_ip.as_deref().filter(|text| !text.is_empty())?;
    let address = text.parse();
    if address.is_err() {
        let rule = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        faults.invalid(&format!("{path}.hostIP"), text, rule);
    }
    address.ok()
}

/// No two ports of a pod are one port of the node.
pub(super) fn check(spec: &PodSpec, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (index, container) in spec.containers.iter().enumerate() {
        for (number, port) in container.ports.iter().flatten().enumerate() {
            let Some(host_port) = port.host_port.filter(|number| *number != 0) else {
                continue;
            };
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let address = port.host_ip.as_deref().unwrap_or_default();
            let key = format!("{protocol}/{address}/{host_port}");
            if seen.contains(&key) {
                faults.duplicate(&format!("spec.containers[{index}].ports[{number}].hostPort"), &key);
            }
            seen.insert(key);
        }
    }
}
