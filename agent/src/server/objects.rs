//! Lists, single objects and descriptions, each with its present status.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use agent_core::service::image::number;
use agent_core::service::{PortStatus, Protocol, ServiceName, ServiceStatus, ServicesStatus};
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Service, ServiceStatus as ServiceObjectStatus};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;

use super::Api;
use super::answer::{Answer, Problem, json};
use super::message::{self, Description, ServicePortView};
use crate::events::Subject;
use crate::hands::maps::look::Question;
use crate::services::Query;
use crate::sources::wanted::{Sourced, Wanted};

pub(super) fn version(api: &Api) -> Result<Answer, Problem> {
    json(&message::Version {
        version: env!("CARGO_PKG_VERSION").into(),
        api_version: message::API_VERSION.into(),
        node: api.node.facts.name.clone(),
    })
}

pub(super) async fn list(api: &Api, resource: &str) -> Result<Answer, Problem> {
    match resource {
        "images" => json(&super::images::list(api)),
        "manifests" => json(&wanted(api).files),
        _ => json(&objects(api, resource).await?),
    }
}

pub(super) async fn get(api: &Api, resource: &str, namespace: &str, name: &str) -> Result<Answer, Problem> {
    json(&find(objects(api, resource).await?, resource, namespace, name)?)
}

pub(super) async fn describe(api: &Api, resource: &str, namespace: &str, name: &str) -> Result<Answer, Problem> {
    let object = find(objects(api, resource).await?, resource, namespace, name)?;
    let key = (namespace.to_string(), name.to_string());
    let wanted = wanted(api);
    let mut description = Description {
        object,
        origin: None,
        events: Vec::new(),
        ports: Vec::new(),
        manifests: Vec::new(),
    };
    match resource {
        "pods" => {
            let uid = description
                .object
                .pointer("/metadata/uid")
                .and_then(Value::as_str)
                .unwrap_or_default();
            description.events = api.node.events.of(&Subject::Pod(uid.into()));
            description.origin = pod_origin(api, uid);
        }
        "services" => {
            let status = services_status(api).await;
            description.ports = ports(&status, namespace, name);
            description.origin = wanted.services.get(&key).map(origin);
        }
        "configmaps" => description.origin = wanted.config_maps.get(&key).map(origin),
        _ => {
            description.events = api.node.events.of(&Subject::Node);
            description.manifests = wanted
                .files
                .iter()
                .filter(|file| !file.errors.is_empty())
                .cloned()
                .collect();
        }
    }
    json(&description)
}

fn origin<T>(sourced: &Sourced<T>) -> String {
    sourced.file.display().to_string()
}

fn pod_origin(api: &Api, uid: &str) -> Option<String> {
    let pods = api.node.board.now();
    let view = pods.values().find(|view| view.desired.uid.as_str() == uid)?;
    view.origin.as_deref().map(Path::display).map(|path| path.to_string())
}

/// What is wanted now; nothing before the first full list.
pub(super) fn wanted(api: &Api) -> std::sync::Arc<Wanted> {
    api.wanted.borrow().clone().unwrap_or_default()
}

async fn objects(api: &Api, resource: &str) -> Result<Vec<Value>, Problem> {
    match resource {
        "pods" => values("Pod", api.node.board.now().into_values().map(|view| view.pod.clone())),
        "services" => {
            let status = services_status(api).await;
            let wanted = wanted(api);
            values(
                "Service",
                wanted
                    .services
                    .values()
                    .map(|service| with_status(&service.object, &status)),
            )
        }
        "configmaps" => values(
            "ConfigMap",
            wanted(api).config_maps.values().map(|map| map.object.clone()),
        ),
        "nodes" => values("Node", [api.node.object()]),
        other => Err(Problem::not_found(format!("there are no {other:?} here"))),
    }
}

fn values<T: Serialize>(kind: &str, objects: impl IntoIterator<Item = T>) -> Result<Vec<Value>, Problem> {
    objects.into_iter().map(|object| value(kind, &object)).collect()
}

fn value(kind: &str, object: &impl Serialize) -> Result<Value, Problem> {
    let mut value = serde_json::to_value(object).map_err(Problem::failed)?;
    value["kind"] = kind.into();
    value["apiVersion"] = "v1".into();
    Ok(value)
}

fn find(objects: Vec<Value>, resource: &str, namespace: &str, name: &str) -> Result<Value, Problem> {
    let text = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_string);
    let is_it = |object: &Value| {
        let in_namespace = text(object, "/metadata/namespace").is_none_or(|of_object| of_object == namespace);
        in_namespace && text(object, "/metadata/name").as_deref() == Some(name)
    };
    objects
        .into_iter()
        .find(is_it)
        .ok_or_else(|| Problem::not_found(format!("{resource} {name:?} not found")))
}

/// The status with fresh counters, or the last one known when the Services' task does not answer.
async fn services_status(api: &Api) -> ServicesStatus {
    let (ask, answer) = oneshot::channel();
    let fresh = async {
        api.queries.send(Query::Status(ask)).await.ok()?;
        answer.await.ok()
    };
    let known = || api.services.borrow().clone();
    tokio::time::timeout(std::time::Duration::from_secs(2), fresh)
        .await
        .ok()
        .flatten()
        .unwrap_or_else(known)
}

/// Every port of every Service in full.
pub(super) async fn service_details(api: &Api) -> Result<Answer, Problem> {
    let (ask, answer) = oneshot::channel();
    json(&asked(api, Query::Details(ask), answer).await?)
}

/// What would become of a connection: protocol, source, destination and its port.
pub(super) async fn trace(api: &Api, [protocol, source, address, port]: [&str; 4]) -> Result<Answer, Problem> {
    let wrong = |what: &str| Problem::invalid(format!("{what:?} is not what a trace takes"));
    let protocol = Protocol::parse(Some(protocol)).map_err(Problem::invalid)?;
    let address: IpAddr = address.parse().map_err(|_| wrong(address))?;
    let question = Question {
        source: source.parse().map_err(|_| wrong(source))?,
        destination: SocketAddr::new(address, port.parse().map_err(|_| wrong(port))?),
        protocol: number(protocol),
    };
    let (ask, answer) = oneshot::channel();
    json(&asked(api, Query::Trace(question, ask), answer).await?)
}

async fn asked<T>(api: &Api, query: Query, answer: oneshot::Receiver<T>) -> Result<T, Problem> {
    let answered = async {
        api.queries.send(query).await.ok()?;
        answer.await.ok()
    };
    let answered = tokio::time::timeout(std::time::Duration::from_secs(10), answered).await;
    let problem = || {
        Problem::failed(anyhow::anyhow!(
            "the Service maps can't be read now; `orlop get services` says why"
        ))
    };
    answered.ok().flatten().ok_or_else(problem)
}

/// The Service with the addresses that it was given, and what keeps it from working as its conditions.
fn with_status(service: &Service, status: &ServicesStatus) -> Service {
    let mut service = service.clone();
    let namespace = service.metadata.namespace.clone().unwrap_or_default();
    let Some(known) = of_service(status, &namespace, service.metadata.name.as_deref().unwrap_or_default()) else {
        return service;
    };
    let addresses: Vec<String> = known.addresses.iter().map(ToString::to_string).collect();
    if let (Some(spec), Some(first)) = (&mut service.spec, addresses.first()) {
        spec.cluster_ip = Some(first.clone());
        spec.cluster_ips = Some(addresses);
    }
    let conditions = known
        .problems
        .iter()
        .chain(&status.problem)
        .map(|problem| problem_condition(problem))
        .collect();
    let given: Option<LoadBalancerStatus> = service.status.take().and_then(|status| status.load_balancer);
    service.status = Some(ServiceObjectStatus {
        conditions: Some(conditions).filter(|conditions: &Vec<_>| !conditions.is_empty()),
        load_balancer: Some(given.unwrap_or_default()),
    });
    service
}

fn problem_condition(problem: &str) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
        type_: "Problem".into(),
        status: "True".into(),
        reason: "NotInKernel".into(),
        message: problem.into(),
        last_transition_time: crate::node::now().to_k8s(),
        observed_generation: None,
    }
}

fn of_service<'a>(status: &'a ServicesStatus, namespace: &str, name: &str) -> Option<&'a ServiceStatus> {
    let name = ServiceName {
        namespace: namespace.into(),
        name: name.into(),
    };
    status.services.get(&name).map(AsRef::as_ref)
}

fn ports(status: &ServicesStatus, namespace: &str, name: &str) -> Vec<ServicePortView> {
    of_service(status, namespace, name)
        .map(|service| service.ports.iter().map(port).collect())
        .unwrap_or_default()
}

fn port(port: &PortStatus) -> ServicePortView {
    let name = if port.name.is_empty() { "<unset>" } else { &port.name };
    ServicePortView {
        port: format!("{name} {}/{}", port.port, port.protocol),
        endpoints: port.backends.iter().map(ToString::to_string).collect(),
        counters: BTreeMap::from(port.counters.named().map(|(name, count)| (name.into(), count))),
    }
}
