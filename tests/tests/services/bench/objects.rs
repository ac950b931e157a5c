//! Many Services, and one with a node port.

use std::net::Ipv4Addr;
use std::sync::Arc;

use agent_core::service::shelf::Shelf;
use agent_core::service::slice::Slice;
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

/// Endpoints of each Service: 10.0.0.1 and on, port [`PORT`].
pub(super) const BACKENDS: u8 = 3;
pub(super) const PORT: u16 = 8080;
/// Of UDP, to the first endpoint.
pub(super) const NODE_PORT: u16 = 30_080;

/// The address of a Service; its port is 80.
pub(super) fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 1, 0).to_bits() + number)
}

/// So many Services, and the one with a node port.
pub(super) fn services(size: u32) -> Shelf<Service> {
    let outside = json!({
        "metadata": {"name": "outside", "namespace": "default"},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ports": [{"port": 80, "nodePort": NODE_PORT, "protocol": "UDP"}]},
    });
    let outside = serde_json::from_value(outside).unwrap();
    (0..size).map(service).chain([Arc::new(outside)]).collect()
}

/// One Service.
pub(super) fn service(number: u32) -> Arc<Service> {
    let address = address(number);
    let service = json!({
        "metadata": {"name": format!("s{number}"), "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80, "protocol": "TCP"}]},
    });
    Arc::new(serde_json::from_value(service).unwrap())
}

/// The slices of so many Services with so many endpoints each, and the node port's.
pub(super) fn slices(size: u32, endpoints: u8) -> Shelf<Slice> {
    let outside = slice_of("outside", "UDP", 1);
    (0..size)
        .map(|number| slice(number, endpoints))
        .chain([outside])
        .collect()
}

/// The slice of one Service.
pub(super) fn slice(number: u32, endpoints: u8) -> Arc<Slice> {
    slice_of(&format!("s{number}"), "TCP", endpoints)
}

fn slice_of(service: &str, protocol: &str, endpoints: u8) -> Arc<Slice> {
    let endpoint =
        |last| json!({"addresses": [format!("10.0.0.{last}")], "nodeName": "here", "conditions": {"ready": true}});
    let endpoints: Vec<_> = (1..=endpoints).map(endpoint).collect();
    let slice = json!({
        "metadata": {"name": service, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"port": PORT, "protocol": protocol}], "endpoints": endpoints,
    });
    Arc::new(Slice::of(&serde_json::from_value(slice).unwrap()))
}
