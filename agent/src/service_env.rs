//! The variables that tell containers of the Services of their namespace (`{NAME}_SERVICE_HOST` and Docker's link
//! variables), as `pkg/kubelet/envvars` makes them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use agent_core::service::{PortStatus, ServiceStatus, ServicesStatus};

/// Names and values, by namespace.
pub type ServiceVariables = BTreeMap<String, Vec<(String, String)>>;

/// The variables of the Services as they were told last.
#[derive(Debug, Default)]
pub struct Variables {
    /// None until Services are known. Where they can't work at all, pods run without them.
    pub told: Option<Arc<ServiceVariables>>,
    faces: u64,
}

impl Variables {
    /// Takes over what is known of the Services.
    pub fn follow(&mut self, services: &ServicesStatus) {
        if !self.are_of(services) {
            self.told = is_known(services).then(|| Arc::new(by_namespace(services)));
            self.faces = services.faces;
        }
    }

    /// Whether they say what these Services are; endpoints are no part of it.
    pub fn are_of(&self, services: &ServicesStatus) -> bool {
        self.told.is_some() == is_known(services) && self.faces == services.faces
    }
}

fn is_known(services: &ServicesStatus) -> bool {
    services.in_kernel || services.problem.is_some()
}

/// The variables by namespace.
pub fn by_namespace(services: &ServicesStatus) -> ServiceVariables {
    let mut variables = ServiceVariables::new();
    for (name, service) in &services.services {
        variables
            .entry(name.namespace.to_string())
            .or_default()
            .extend(of_service(&name.name, service));
    }
    variables
}

fn of_service(name: &str, service: &ServiceStatus) -> Vec<(String, String)> {
    let (Some(&address), Some(first)) = (service.addresses.first(), service.ports.first()) else {
        return Vec::new();
    };
    let name = variable_name(name);
    let mut variables = vec![
        (format!("{name}_SERVICE_HOST"), address.to_string()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    let named = service.ports.iter().filter(|port| !port.name.is_empty());
    variables.extend(named.map(|port| {
        (
            format!("{name}_SERVICE_PORT_{}", variable_name(&port.name)),
            port.port.to_string(),
        )
    }));
    variables.push((format!("{name}_PORT"), url(address, first)));
    variables.extend(
        service
            .ports
            .iter()
            .flat_map(|port| link_variables(&name, address, port)),
    );
    variables
}

/// What Docker's links told of one port.
fn link_variables(name: &str, address: IpAddr, port: &PortStatus) -> [(String, String); 4] {
    let prefix = format!("{name}_PORT_{}_{}", port.port, port.protocol);
    [
        (prefix.clone(), url(address, port)),
        (format!("{prefix}_PROTO"), port.protocol.to_string().to_lowercase()),
        (format!("{prefix}_PORT"), port.port.to_string()),
        (format!("{prefix}_ADDR"), address.to_string()),
    ]
}

fn url(address: IpAddr, port: &PortStatus) -> String {
    let protocol = port.protocol.to_string().to_lowercase();
    match address {
        IpAddr::V4(v4) => format!("{protocol}://{v4}:{}", port.port),
        IpAddr::V6(v6) => format!("{protocol}://[{v6}]:{}", port.port),
    }
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::service::{Counters, Protocol, ServiceName};

    #[test]
    fn a_service_is_told_as_a_kubelet_tells_it() {
        let port = PortStatus {
            node_port: None,
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            backends: Default::default(),
            counters: Counters::default(),
        };
        let service = ServiceStatus {
            addresses: vec!["10.96.0.9".parse().unwrap()],
            ports: vec![port],
            ..ServiceStatus::default()
        };
        let name = ServiceName {
            namespace: "default".into(),
            name: "my-web".into(),
        };
        let services = ServicesStatus {
            services: [(name, service.into())].into(),
            ..ServicesStatus::default()
        };
        let told: Vec<String> = by_namespace(&services)["default"]
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(
            told,
            [
                "MY_WEB_SERVICE_HOST=10.96.0.9",
                "MY_WEB_SERVICE_PORT=80",
                "MY_WEB_SERVICE_PORT_HTTP=80",
                "MY_WEB_PORT=tcp://10.96.0.9:80",
                "MY_WEB_PORT_80_TCP=tcp://10.96.0.9:80",
                "MY_WEB_PORT_80_TCP_PROTO=tcp",
                "MY_WEB_PORT_80_TCP_PORT=80",
                "MY_WEB_PORT_80_TCP_ADDR=10.96.0.9",
            ]
        );
    }
}
