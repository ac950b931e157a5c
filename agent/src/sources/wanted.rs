//! What is wanted on this node: the objects of all sources, each once, and from which file it comes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_core::manifest::Object;
use agent_core::service::slice::Slice;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::manifests::{Directory, ManifestFile};
use crate::server::message::ManifestView;

/// An object's namespace and name.
pub type Key = (String, String);

/// An object and the file that defines it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced<T> {
    /// The object.
    pub object: T,
    /// The file.
    pub file: PathBuf,
}

/// All wanted objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Pods; the uid is in their metadata.
    pub pods: BTreeMap<Key, Sourced<Pod>>,
    /// Services.
    pub services: BTreeMap<Key, Sourced<Arc<Service>>>,
    /// ConfigMaps.
    pub config_maps: BTreeMap<Key, Sourced<ConfigMap>>,
    /// EndpointSlices.
    pub slices: BTreeMap<Key, Sourced<Arc<Slice>>>,
    /// The files and what is wrong with them.
    pub files: Vec<ManifestView>,
}

impl Wanted {
    /// Puts the directories together; of two objects of one kind and name the first one stands.
    pub fn merge(directories: &[Directory]) -> Wanted {
        let mut wanted = Wanted::default();
        for directory in directories {
            if let Some(complaint) = directory.complaint() {
                let file = directory.path().display().to_string();
                wanted.files.push(ManifestView {
                    file,
                    objects: Vec::new(),
                    errors: vec![complaint.into()],
                });
            }
            for (path, file) in directory.files() {
                wanted.add_file(path, file);
            }
        }
        wanted
    }

    fn add_file(&mut self, path: &Path, file: &ManifestFile) {
        let mut view = ManifestView {
            file: path.display().to_string(),
            objects: file.objects.iter().map(described).collect(),
            errors: file.errors.clone(),
        };
        let created = file.written.map(crate::node::k8s_time);
        for object in &file.objects {
            if let Err(first) = self.add(object, path, created.as_ref()) {
                let first = first.display();
                view.errors.push(format!(
                    "{}: {} is already defined in {first}",
                    path.display(),
                    described(object)
                ));
            }
        }
        self.files.push(view);
    }

    /// Adds the object, or tells which file has it already.
    fn add(&mut self, object: &Object, path: &Path, created: Option<&Time>) -> Result<(), PathBuf> {
        match object {
            Object::Pod(pod) => {
                let mut pod = pod.as_ref().clone();
                stamp(&mut pod.metadata, created);
                insert(&mut self.pods, key(&pod.metadata), pod, path)
            }
            Object::Service(service) => {
                let mut service = service.as_ref().clone();
                stamp(&mut service.metadata, created);
                insert(&mut self.services, key(&service.metadata), Arc::new(service), path)
            }
            Object::ConfigMap(map) => {
                let mut map = map.as_ref().clone();
                stamp(&mut map.metadata, created);
                insert(&mut self.config_maps, key(&map.metadata), map, path)
            }
            Object::EndpointSlice(slice) => {
                let read = Arc::new(Slice::of(slice));
                insert(&mut self.slices, key(&slice.metadata), read, path)
            }
        }
    }
}

/// The key of an object with this metadata.
pub fn key(metadata: &ObjectMeta) -> Key {
    let namespace = metadata.namespace.clone().unwrap_or_else(|| "default".into());
    (namespace, metadata.name.clone().unwrap_or_default())
}

/// The kind, namespace and name of an object: `Pod default/web`.
fn described(object: &Object) -> String {
    let (kind, metadata) = kind_and_metadata(object);
    let (namespace, name) = key(metadata);
    format!("{kind} {namespace}/{name}")
}

/// The kind and the metadata of an object.
pub fn kind_and_metadata(object: &Object) -> (&'static str, &ObjectMeta) {
    match object {
        Object::Pod(pod) => ("Pod", &pod.metadata),
        Object::Service(service) => ("Service", &service.metadata),
        Object::ConfigMap(map) => ("ConfigMap", &map.metadata),
        Object::EndpointSlice(slice) => ("EndpointSlice", &slice.metadata),
    }
}

/// Manifests say nothing of their age; the file's time does.
fn stamp(metadata: &mut ObjectMeta, created: Option<&Time>) {
    if metadata.creation_timestamp.is_none() {
        metadata.creation_timestamp = created.cloned();
    }
}

fn insert<T>(objects: &mut BTreeMap<Key, Sourced<T>>, key: Key, object: T, path: &Path) -> Result<(), PathBuf> {
    match objects.entry(key) {
        Entry::Occupied(first) => Err(first.get().file.clone()),
        Entry::Vacant(place) => {
            place.insert(Sourced {
                object,
                file: path.into(),
            });
            Ok(())
        }
    }
}
