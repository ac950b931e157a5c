//! What `orlop apply` stored: one object a file, replaced whole or not at all. The files are read like any other manifest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use agent_core::manifest::Object;
use serde_json::{Value, json};

use super::wanted::{Key, key, kind_and_metadata};
use crate::record::replace;
use crate::server::message::AppliedOutcome;

/// Stores the object in `dir`.
pub fn store(dir: &Path, object: &Object) -> io::Result<AppliedOutcome> {
    let (kind, metadata) = kind_and_metadata(object);
    let path = path(dir, kind, &key(metadata));
    let text = serde_json::to_vec_pretty(&document(object)?)?;
    let outcome = match fs::read(&path) {
        Ok(before) if before == text => return Ok(AppliedOutcome::Unchanged),
        Ok(_) => AppliedOutcome::Configured,
        Err(error) if error.kind() == io::ErrorKind::NotFound => AppliedOutcome::Created,
        Err(error) => return Err(error),
    };
    replace(&path, &text)?;
    Ok(outcome)
}

/// Removes an object; false when it was not stored.
pub fn remove(dir: &Path, kind: &str, key: &Key) -> io::Result<bool> {
    match fs::remove_file(path(dir, kind, key)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where an object lies. Names are DNS names, checked when the manifest was parsed: `_` separates them.
fn path(dir: &Path, kind: &str, (namespace, name): &Key) -> PathBuf {
    dir.join(format!("{}_{namespace}_{name}.json", kind.to_lowercase()))
}

/// The object as a manifest. The uid is left out where parsing gave one: it is a hash of the rest.
fn document(object: &Object) -> io::Result<Value> {
    let value = match object {
        Object::Pod(pod) => serde_json::to_value(pod)?,
        Object::Service(service) => serde_json::to_value(service)?,
        Object::ConfigMap(map) => serde_json::to_value(map)?,
        Object::EndpointSlice(slice) => serde_json::to_value(slice)?,
    };
    let mut value = value;
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("uid");
    }
    if value.get("kind").is_none() {
        value["kind"] = json!(kind_and_metadata(object).0);
        value["apiVersion"] = json!("v1");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn config_map(value: &str) -> Object {
        let map = json!({"metadata": {"name": "m", "namespace": "default"}, "data": {"k": value}});
        Object::ConfigMap(Box::new(serde_json::from_value::<ConfigMap>(map).unwrap()))
    }

    #[test]
    fn an_object_is_created_configured_kept_and_removed() {
        let dir = std::env::temp_dir().join(format!("orlop-applied-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let key = ("default".to_string(), "m".to_string());
        assert_eq!(store(&dir, &config_map("1")).unwrap(), AppliedOutcome::Created);
        assert_eq!(store(&dir, &config_map("1")).unwrap(), AppliedOutcome::Unchanged);
        assert_eq!(store(&dir, &config_map("2")).unwrap(), AppliedOutcome::Configured);
        assert!(remove(&dir, "ConfigMap", &key).unwrap());
        assert!(!remove(&dir, "ConfigMap", &key).unwrap());
        fs::remove_dir(&dir).unwrap();
    }
}
