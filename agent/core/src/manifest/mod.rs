//! Manifests: YAML and JSON as a `kubectl` user writes them, read with positions and refused where a field is not
//! honoured. Nothing here opens a file.
//!
//! A file becomes a tree with positions and limits (`tree.rs`); the tree is brought into the shape of the honoured
//! fields (`shape.rs`, `honoured.rs`); that becomes a Kubernetes type, gets its defaults (`defaults.rs`) and is checked
//! as the API server would (`check.rs`, [`DesiredPod::accept`]). What is wrong is told with file, line, column and path.

mod check;
mod defaults;
mod honoured;
mod json;
mod service;
mod shape;
mod tree;

use std::collections::BTreeSet;

use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::{
    shape::{Misfit, Shape},
    tree::{Node, Position, Tree},
};
use crate::{
    fault::{Faults, FieldError},
    pod::{Backoffs, DesiredPod, Goal, NodeFacts},
};

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 8 * 1024 * 1024;
/// The most errors that one file is told.
const MAX_ERRORS: usize = 100;

/// One object of a manifest, defaults applied.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Pod; `metadata.uid` and `metadata.namespace` are always there, and [`DesiredPod::accept`] takes it.
    Pod(Box<Pod>),
    /// A Service.
    Service(Box<Service>),
    /// A ConfigMap.
    ConfigMap(Box<ConfigMap>),
    /// An EndpointSlice: backends of a Service that are no pods of this node.
    EndpointSlice(Box<EndpointSlice>),
}

/// One thing wrong with a manifest, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {}{message}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct ManifestError {
    /// The file, as the caller names it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The field, as `spec.containers[0].image`; empty for the document as a whole.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Reads the objects of a file.
///
/// # Errors
/// Everything that is wrong with it, at most a hundred things, in the order of the file. Either the whole file is good or
/// none of it is used.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Vec<Object>, Vec<ManifestError>> {
    let documents = read(bytes).map_err(|misfit| vec![locate(file, misfit)])?;
    let (mut objects, mut misfits, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for document in &documents {
        match object(document) {
            Ok(object) if !seen.insert(object.identity()) => {
                let message = format!("{} is already in this file", object.identity());
                misfits.push(Misfit {
                    at: document.at,
                    path: String::new(),
                    message,
                });
            }
            Ok(object) => objects.push(object),
            Err(found) => misfits.extend(found),
        }
    }
    if misfits.is_empty() {
        return Ok(objects);
    }
    misfits.sort_by_key(|misfit| (misfit.at.line, misfit.at.column));
    misfits.truncate(MAX_ERRORS);
    Err(misfits.into_iter().map(|misfit| locate(file, misfit)).collect())
}

impl Object {
    /// What is named after `metadata`.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Pod(pod) => &pod.metadata,
            Self::Service(service) => &service.metadata,
            Self::ConfigMap(map) => &map.metadata,
            Self::EndpointSlice(slice) => &slice.metadata,
        }
    }

    /// `Pod default/web`: no two objects of a node share it.
    pub fn identity(&self) -> String {
        let kind = match self {
            Self::Pod(_) => "Pod",
            Self::Service(_) => "Service",
            Self::ConfigMap(_) => "ConfigMap",
            Self::EndpointSlice(_) => "EndpointSlice",
        };
        let meta = self.metadata();
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{kind} {}/{}", part(&meta.namespace), part(&meta.name))
    }
}

/// The documents of a file that has a fitting size and encoding.
fn read(bytes: &[u8]) -> Result<Vec<Node>, Misfit> {
    let start = Position { line: 1, column: 1 };
    let whole = |at, message: String| Misfit {
        at,
        path: String::new(),
        message,
    };
    if bytes.len() > MAX_FILE_BYTES {
        let message = format!(
            "{} bytes are too many: a manifest may have at most {MAX_FILE_BYTES}",
            bytes.len()
        );
        return Err(whole(start, message));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        let column = 1 + before
            .iter()
            .rev()
            .take_while(|&&byte| byte != b'\n')
            .filter(|&&byte| byte & 0xc0 != 0x80)
            .count();
        whole(Position { line, column }, "not UTF-8 text".to_owned())
    })?;
    let text = text.trim_start_matches('\u{feff}');
    let text = &json::join_surrogates(text);
    tree::documents(text).map_err(|error| whole(within(text, error.at), error.message))
}

/// The parser notices a missing end on the line after the last one; a user looks for it on the last.
fn within(text: &str, at: Position) -> Position {
    let count = text.split_inclusive('\n').count().max(1);
    let last = text.lines().last().unwrap_or_default();
    if at.line <= count {
        at
    } else {
        Position {
            line: count,
            column: last.chars().count() + 1,
        }
    }
}

fn object(document: &Node) -> Result<Object, Vec<Misfit>> {
    let (kind, shape) = kind(document).map_err(|misfit| vec![misfit])?;
    let mut misfits = Vec::new();
    let value = shape::fit(document, shape, "", &mut misfits).unwrap_or_default();
    if !misfits.is_empty() {
        return Err(misfits);
    }
    let object = match kind {
        "Pod" => typed(document, value).map(|pod| Object::Pod(Box::new(pod))),
        "Service" => typed(document, value).map(|service| Object::Service(Box::new(service))),
        "EndpointSlice" => typed(document, value).map(|slice| Object::EndpointSlice(Box::new(slice))),
        _ => typed(document, value).map(|map| Object::ConfigMap(Box::new(map))),
    };
    let object = defaulted(object.map_err(|misfit| vec![misfit])?);
    let errors = check(&object);
    if errors.is_empty() {
        Ok(object)
    } else {
        Err(errors.into_iter().map(|error| place(document, error)).collect())
    }
}

/// The kind of a document and its shape.
fn kind(document: &Node) -> Result<(&'static str, Shape), Misfit> {
    let misfit = |path: &str, message: String| {
        Err(Misfit {
            at: tree::locate(document, path),
            path: path.to_owned(),
            message,
        })
    };
    let Tree::Mapping(entries) = &document.tree else {
        return misfit(
            "",
            "must be a Kubernetes object: a mapping with apiVersion, kind and metadata".to_owned(),
        );
    };
    let text = |name: &str| {
        entries
            .iter()
            .find(|entry| entry.key == name)
            .and_then(|entry| match &entry.value.tree {
                Tree::Scalar { text, .. } => Some(text.as_str()),
                Tree::List(_) | Tree::Mapping(_) => None,
            })
    };
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        let missing = if text("apiVersion").is_none() {
            "apiVersion"
        } else {
            "kind"
        };
        return misfit(
            missing,
            "Required value: an object has an apiVersion and a kind, both text".to_owned(),
        );
    };
    let named = || honoured::KINDS.iter().filter(|(_, name, _)| *name == kind);
    if let Some((_, kind, shape)) = named().find(|(known, ..)| *known == version) {
        return Ok((kind, *shape));
    }
    match named().next() {
        Some((known, ..)) => misfit(
            "apiVersion",
            format!("unknown version {version:?} of {kind}: must be {known:?}"),
        ),
        None => misfit(
            "kind",
            format!("kind {kind:?} is not honoured yet: only Pod, Service, ConfigMap and EndpointSlice are"),
        ),
    }
}

/// The shape leaves little that a type could refuse: numbers out of range, and bytes that are not base64.
fn typed<T: DeserializeOwned>(document: &Node, value: Value) -> Result<T, Misfit> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        Misfit {
            at: tree::locate(document, &path),
            path,
            message: error.inner().to_string(),
        }
    })
}

fn defaulted(mut object: Object) -> Object {
    match &mut object {
        Object::Pod(pod) => {
            defaults::metadata(&mut pod.metadata);
            defaults::uid(pod);
            defaults::pod(pod);
        }
        Object::Service(service) => {
            defaults::metadata(&mut service.metadata);
            defaults::service(service);
        }
        Object::ConfigMap(map) => defaults::metadata(&mut map.metadata),
        Object::EndpointSlice(slice) => defaults::metadata(&mut slice.metadata),
    }
    object
}

fn check(object: &Object) -> Vec<FieldError> {
    let mut faults = Faults::default();
    match object {
        Object::Pod(pod) => {
            let accepted = DesiredPod::accept(pod, Goal::Run, &NodeFacts::default(), Backoffs::default());
            return accepted.err().unwrap_or_default();
        }
        Object::Service(service) => service::service(service, &mut faults),
        Object::EndpointSlice(slice) => service::endpoint_slice(slice, &mut faults),
        Object::ConfigMap(map) => check::config_map(map, &mut faults),
    }
    faults.into_errors()
}

fn place(document: &Node, error: FieldError) -> Misfit {
    Misfit {
        at: tree::locate(document, &error.path),
        path: error.path,
        message: error.message,
    }
}

fn locate(file: &str, misfit: Misfit) -> ManifestError {
    let Misfit {
        at: Position { line, column },
        path,
        message,
    } = misfit;
    ManifestError {
        file: file.to_owned(),
        line,
        column,
        path,
        message,
    }
}
