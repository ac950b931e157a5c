//! Applying manifests and taking applied objects back. What the manifest directory defines is changed there, not here.

use std::path::Path;

use agent_core::manifest::{self, Object};
use bytes::Bytes;
use hyper::Request;
use hyper::body::Incoming;

use super::Api;
use super::answer::{Answer, Problem, json, parameter, read};
use super::message::{Applied, Deleted};
use super::objects::wanted;
use crate::sources::applied;
use crate::sources::wanted::{Key, Wanted, key, kind_and_metadata};

pub(super) async fn apply(api: &Api, request: Request<Incoming>) -> Result<Answer, Problem> {
    let objects = parse(request).await?;
    let wanted = wanted(api);
    for object in &objects {
        let (kind, metadata) = kind_and_metadata(object);
        check_origin(api, &wanted, kind, &key(metadata))?;
    }
    let dir = api.node.config.places.applied();
    let mut answers = Vec::new();
    for object in &objects {
        let (kind, metadata) = kind_and_metadata(object);
        let (namespace, name) = key(metadata);
        let outcome = applied::store(&dir, object).map_err(|error| failed("store", kind, &name, error))?;
        answers.push(Applied {
            object: format!("{}/{name}", kind.to_lowercase()),
            namespace,
            outcome,
        });
    }
    api.rescan.now().await;
    json(&answers)
}

pub(super) async fn delete_file(api: &Api, request: Request<Incoming>) -> Result<Answer, Problem> {
    let objects = parse(request).await?;
    let mut deleted = Vec::new();
    for object in &objects {
        let (kind, metadata) = kind_and_metadata(object);
        deleted.push(remove(api, kind, &key(metadata))?);
    }
    api.rescan.now().await;
    json(&deleted)
}

pub(super) async fn delete(api: &Api, resource: &str, namespace: &str, name: &str) -> Result<Answer, Problem> {
    let kind = match resource {
        "pods" => "Pod",
        "services" => "Service",
        "configmaps" => "ConfigMap",
        "endpointslices" => "EndpointSlice",
        other => return Err(Problem::invalid(format!("{other} can't be deleted"))),
    };
    let deleted = remove(api, kind, &(namespace.into(), name.into()))?;
    api.rescan.now().await;
    json(&deleted)
}

async fn parse(request: Request<Incoming>) -> Result<Vec<Object>, Problem> {
    let file = parameter(&request, "file").unwrap_or_else(|| "manifest".into());
    let bytes: Bytes = read(request.into_body(), manifest::MAX_FILE_BYTES).await?;
    let parsed = tokio::task::spawn_blocking(move || manifest::parse(&file, &bytes))
        .await
        .map_err(Problem::failed)?;
    parsed.map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Problem::invalid(lines.join("\n"))
    })
}

fn remove(api: &Api, kind: &str, key: &Key) -> Result<Deleted, Problem> {
    let name = &key.1;
    let word = kind.to_lowercase();
    check_origin(api, &wanted(api), kind, key)?;
    let dir = api.node.config.places.applied();
    let was_there = applied::remove(&dir, kind, key).map_err(|error| failed("delete", kind, name, error))?;
    if !was_there {
        return Err(Problem::not_found(format!("{word}s {name:?} not found")));
    }
    Ok(Deleted {
        object: format!("{word} {name:?}"),
        pod_uid: pod_uid(api, kind, key),
    })
}

/// Refuses what a file of the manifest directory defines.
fn check_origin(api: &Api, wanted: &Wanted, kind: &str, key: &Key) -> Result<(), Problem> {
    let origin: Option<&Path> = match kind {
        "Pod" => wanted.pods.get(key).map(|sourced| sourced.file.as_path()),
        "Service" => wanted.services.get(key).map(|sourced| sourced.file.as_path()),
        "EndpointSlice" => wanted.slices.get(key).map(|sourced| sourced.file.as_path()),
        _ => wanted.config_maps.get(key).map(|sourced| sourced.file.as_path()),
    };
    match origin {
        Some(file) if !file.starts_with(api.node.config.places.applied()) => Err(Problem::conflict(format!(
            "{} {:?} is defined in {}; change or remove it there",
            kind.to_lowercase(),
            key.1,
            file.display()
        ))),
        Some(_) | None => Ok(()),
    }
}

fn pod_uid(api: &Api, kind: &str, (namespace, name): &Key) -> Option<String> {
    let pods = api.node.board.now();
    let mut ours = pods
        .values()
        .filter(|view| view.desired.namespace == *namespace && view.desired.name == *name);
    ours.next()
        .filter(|_| kind == "Pod")
        .map(|view| view.desired.uid.as_str().to_string())
}

fn failed(what: &str, kind: &str, name: &str, error: std::io::Error) -> Problem {
    Problem::failed(anyhow::Error::from(error).context(format!("{what} {} {name:?}", kind.to_lowercase())))
}
