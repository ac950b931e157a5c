//! Objects and what they mean.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::ContainerPort;
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
        problems: BTreeMap::new(),
    };
    let services = [service(edit)];
    let objects = Objects {
        services: &services,
        slices: &[],
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
        services: &[strange],
        slices: &[],
        pods: &[],
    };
    let table = table(objects, &Assignment::default(), &NodeFacts::default());
    let status = table.services.values().next().unwrap();
    assert_eq!(status.problems, ["spec.ports: protocol DCCP is not balanced"]);
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
        problems: BTreeMap::new(),
    };
    let objects = Objects {
        services: &[service(|_| ())],
        slices: &[],
        pods: &[pod("a", "10.244.0.1", true)],
    };
    let table = table(objects, &assignment, &NodeFacts::default());
    let backends: Vec<_> = table
        .frontends
        .values()
        .flat_map(|entry| &entry.backends)
        .map(ToString::to_string)
        .collect();
    assert_eq!(backends, ["10.244.0.1:80", "[fd00:244::1]:80"]);
}
