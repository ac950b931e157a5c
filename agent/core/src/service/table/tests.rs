//! Objects and what they mean.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort as PortSpec, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use proptest::prelude::*;

use super::super::slice::Slice;
use super::super::{ContainerPort, Protocol, ReadyPod};
use super::*;

fn pod(name: &str, address: &str, ready: bool) -> ReadyPod {
    let http = |number| ContainerPort {
        name: Some("http".into()),
        number,
        protocol: Protocol::Tcp,
    };
    ReadyPod {
        namespace: "default".into(),
        name: name.into(),
        labels: [("app".into(), "web".into()), ("pod".into(), name.into())].into(),
        addresses: vec![address.parse().unwrap(), "fd00:244::1".parse().unwrap()],
        ports: vec![http(if name == "a" { 8080 } else { 9090 })],
        ready,
        terminating: false,
        namespace_cookie: None,
        netns: None,
    }
}

fn service(edit: impl FnOnce(&mut ServiceSpec)) -> Service {
    let mut spec = ServiceSpec {
        selector: Some([("app".into(), "web".into())].into()),
        ports: Some(vec![PortSpec {
            port: 80,
            ..Default::default()
        }]),
        ..Default::default()
    };
    edit(&mut spec);
    let metadata = ObjectMeta {
        name: Some("web".into()),
        namespace: Some("default".into()),
        ..Default::default()
    };
    Service {
        metadata,
        spec: Some(spec),
        status: None,
    }
}

/// The backends of the Service's one port, by its IPv4 address.
fn backends(edit: impl FnOnce(&mut ServiceSpec)) -> Vec<String> {
    let name = ServiceName {
        namespace: "default".into(),
        name: "web".into(),
    };
    let addresses = [(name, vec!["10.96.0.1".parse().unwrap()])].into();
    let pods = [
        pod("a", "10.244.0.1", true),
        pod("b", "10.244.0.2", true),
        pod("c", "10.244.0.3", false),
    ];
    let assignment = Assignment {
        addresses,
        ..Assignment::default()
    };
    let services = [service(edit).into()].into_iter().collect();
    let objects = Objects {
        services: &services,
        slices: &Shelf::default(),
        pods: &pods,
    };
    let table = table(objects, &assignment, &NodeFacts::default());
    let entry = table.frontends.values().next();
    entry.map_or_else(Vec::new, |entry| {
        entry.backends.iter().map(ToString::to_string).collect()
    })
}

fn target(spec: &mut ServiceSpec, target: &IntOrString) {
    for port in spec.ports.iter_mut().flatten() {
        port.target_port = Some(target.clone());
    }
}

#[test]
fn ready_pods_that_the_selector_matches_are_backends() {
    assert_eq!(backends(|_| ()), ["10.244.0.1:80", "10.244.0.2:80"]);
    let one = |spec: &mut ServiceSpec| {
        spec.selector.as_mut().unwrap().insert("pod".into(), "b".into());
    };
    assert_eq!(backends(one), ["10.244.0.2:80"]);
    assert_eq!(backends(|spec| spec.selector = None), [""; 0]);
}

#[test]
fn a_target_port_is_a_number_or_each_pods_own_name_for_it() {
    assert_eq!(
        backends(|spec| target(spec, &IntOrString::Int(8000))),
        ["10.244.0.1:8000", "10.244.0.2:8000"]
    );
    let http = IntOrString::String("http".into());
    assert_eq!(
        backends(|spec| target(spec, &http)),
        ["10.244.0.1:8080", "10.244.0.2:9090"]
    );
    assert_eq!(
        backends(|spec| target(spec, &IntOrString::String("other".into()))),
        [""; 0]
    );
}

#[test]
fn pods_that_are_not_ready_count_where_the_service_says_so() {
    let all = ["10.244.0.1:80", "10.244.0.2:80", "10.244.0.3:80"];
    assert_eq!(backends(|spec| spec.publish_not_ready_addresses = Some(true)), all);
}

#[test]
fn a_protocol_that_is_not_balanced_is_said() {
    let strange = service(|spec| spec.ports.as_mut().unwrap()[0].protocol = Some("DCCP".into()));
    let objects = Objects {
        services: &[strange.into()].into_iter().collect(),
        slices: &Shelf::default(),
        pods: &[],
    };
    let table = table(objects, &Assignment::default(), &NodeFacts::default());
    let status = table.services.values().next().unwrap();
    assert_eq!(status.problems, ["spec.ports: protocol DCCP is not balanced"]);
}

#[test]
fn a_cluster_address_of_sctp_is_served_as_the_others_are() {
    let service = service(|spec| {
        spec.ports
            .iter_mut()
            .flatten()
            .for_each(|port| port.protocol = Some("SCTP".into()))
    });
    let objects = Objects {
        services: &[service.into()].into_iter().collect(),
        slices: &Shelf::default(),
        pods: &[],
    };
    let table = table(objects, &Assignment::default(), &NodeFacts::default());
    let problems: Vec<&String> = table.services.values().flat_map(|status| &status.problems).collect();
    assert_eq!(problems, [] as [&String; 0]);
}

/// TestHealthCheckNodePortWhenTerminating of kube-proxy's nftables.
#[test]
fn a_balancer_is_told_of_ready_endpoints_alone() {
    let told = |ready: bool, terminating: bool| {
        let service = service(|spec| {
            spec.type_ = Some("LoadBalancer".into());
            spec.external_traffic_policy = Some("Local".into());
            spec.health_check_node_port = Some(30_000);
        });
        let mut pods = ["10.244.0.1", "10.244.0.2", "10.244.0.3"].map(|address| pod("a", address, ready));
        pods.iter_mut().for_each(|pod| pod.terminating = terminating);
        let unready = pod("b", "10.244.0.4", false);
        let objects = Objects {
            services: &[service.into()].into_iter().collect(),
            slices: &Shelf::default(),
            pods: &[&pods[..], &[unready]].concat(),
        };
        let table = table(objects, &Assignment::default(), &NodeFacts::default());
        let check = table.services.values().next().unwrap().health_check;
        check.map(|check| check.local_endpoints[0])
    };
    assert_eq!(told(true, false), Some(3));
    assert_eq!(told(true, true), Some(0));
    assert_eq!(told(false, true), Some(0));
}

#[test]
fn each_family_has_its_own_backends() {
    let name = ServiceName {
        namespace: "default".into(),
        name: "web".into(),
    };
    let both = vec!["10.96.0.1".parse().unwrap(), "fd00:96::1".parse().unwrap()];
    let assignment = Assignment {
        addresses: [(name, both)].into(),
        ..Assignment::default()
    };
    let objects = Objects {
        services: &[service(|_| ()).into()].into_iter().collect(),
        slices: &Shelf::default(),
        pods: &[pod("a", "10.244.0.1", true)],
    };
    let table = table(objects, &assignment, &NodeFacts::default());
    let backends: Vec<_> = table
        .frontends
        .values()
        .flat_map(|entry| &*entry.backends)
        .map(ToString::to_string)
        .collect();
    assert_eq!(backends, ["10.244.0.1:80", "[fd00:244::1]:80"]);
}

/// A turn of history: what each Service is by now, `None` for one that is gone.
type Turn = BTreeMap<u8, Option<Shape>>;

/// The external addresses that a Service claims, its ports, its endpoints in a slice, and whether it selects pods.
#[derive(Clone, Debug)]
struct Shape {
    claims: u8,
    ports: u8,
    endpoints: u8,
    selects: bool,
}

fn turns() -> impl Strategy<Value = Vec<(Turn, u8)>> {
    let shape = (0..8_u8, 1..4_u8, 0..8_u8, any::<bool>()).prop_map(|(claims, ports, endpoints, selects)| Shape {
        claims,
        ports,
        endpoints,
        selects,
    });
    let turn = proptest::collection::btree_map(0..6_u8, proptest::option::weighted(0.8, shape), 0..4);
    proptest::collection::vec((turn, 0..8_u8), 1..10)
}

fn bits(set: u8) -> impl Iterator<Item = u8> {
    (0..8).filter(move |bit| set & (1 << bit) != 0)
}

fn shaped(number: u8, shape: &Shape) -> (Arc<Service>, Arc<Slice>) {
    let mut made = service(|spec| {
        spec.external_ips = Some(bits(shape.claims).map(|bit| format!("203.0.113.{bit}")).collect());
        let port = |bit| PortSpec {
            name: Some(format!("p{bit}")),
            port: 80 + i32::from(bit),
            ..Default::default()
        };
        spec.ports = Some(bits(shape.ports).map(port).collect());
        spec.selector = spec.selector.take().filter(|_| shape.selects);
    });
    made.metadata.name = Some(format!("s{number}"));
    let endpoints: Vec<_> = bits(shape.endpoints)
        .map(|bit| serde_json::json!({"addresses": [format!("10.244.9.{bit}")]}))
        .collect();
    let slice = serde_json::json!({
        "metadata": {"name": format!("s{number}"), "namespace": "default", "labels": {"kubernetes.io/service-name": format!("s{number}")}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "p0", "port": 8080}, {"name": "p1", "port": 8081}],
    });
    (
        made.into(),
        Arc::new(Slice::of(&serde_json::from_value(slice).unwrap())),
    )
}

proptest! {
    /// Services that compete for addresses, read one after the other as they change, are what they are when all are read.
    #[test]
    fn a_table_that_follows_changes_is_the_table(turns in turns()) {
        let node = NodeFacts { external_ips: true, ..NodeFacts::default() };
        let mut objects: BTreeMap<u8, (Arc<Service>, Arc<Slice>)> = BTreeMap::new();
        let (mut catalog, mut followed) = (Catalog::default(), ServiceTable::default());
        let (mut services, mut slices, mut pods) = (Shelf::default(), Shelf::default(), Vec::new());
        for (turn, ready) in turns {
            for (number, shape) in turn {
                match shape {
                    Some(shape) => drop(objects.insert(number, shaped(number, &shape))),
                    None => drop(objects.remove(&number)),
                }
            }
            let now_services = objects.values().map(|(service, _)| Arc::clone(service)).collect();
            let now_slices = objects.values().map(|(_, slice)| Arc::clone(slice)).collect();
            let now_pods: Vec<ReadyPod> = (0..3).map(|bit| pod("a", &format!("10.244.0.{bit}"), ready & (1 << bit) != 0)).collect();
            let before = Objects { services: &services, slices: &slices, pods: &pods };
            let now = Objects { services: &now_services, slices: &now_slices, pods: &now_pods };
            let affected = catalog.update(before, now);
            let was = followed.frontends.clone();
            let change = followed.update(affected.names, &catalog, &Assignment::default(), &node);
            prop_assert_eq!(&followed, &table(now, &Assignment::default(), &node));
            // What is not of the change is as it was.
            let mut rebuilt = was;
            rebuilt.retain(|frontend, _| !change.before.contains_key(frontend));
            let after = followed.frontends_of(&change.names);
            rebuilt.extend(after.into_iter().map(|(frontend, entry)| (frontend, entry.clone())));
            prop_assert_eq!(&rebuilt, &followed.frontends);
            (services, slices, pods) = (now_services, now_slices, now_pods);
        }
    }
}
