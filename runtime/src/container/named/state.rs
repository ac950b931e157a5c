//! `state`: what is known of a container, in the shape of runc's answer.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::unistd::{Uid, User};
use serde::Serialize;

use super::error::VerbError;
use super::{Named, Status};

/// The state of a container as runc prints it; the first fields are the specification's.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Version of the specification that the state follows.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// Its init; 0 when it has ended.
    pub pid: u32,
    /// What it is doing.
    pub status: &'static str,
    /// Where it was made from.
    pub bundle: PathBuf,
    /// Its root filesystem.
    pub rootfs: PathBuf,
    /// When it was made (RFC 3339).
    pub created: String,
    /// Of its configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Name of the user who made it.
    pub owner: String,
}

impl Named {
    /// The container's state.
    pub fn state(&self) -> Result<State, VerbError> {
        let status = self.status();
        let pid = match status {
            Status::Stopped | Status::Creating => 0,
            Status::Created | Status::Running | Status::Paused => self.record.init.map_or(0, |init| init.pid),
        };
        let annotations = self.spec()?.annotations().clone().unwrap_or_default();
        Ok(State {
            oci_version: crate::SPEC_VERSION.into(),
            id: self.record.id.clone(),
            pid,
            status: status.as_str(),
            bundle: self.record.bundle.clone(),
            rootfs: self.record.rootfs.clone(),
            created: self.record.created.clone(),
            annotations: annotations.into_iter().collect(),
            owner: self.owner(),
        })
    }

    /// Who owns its state directory, by name; by number where there is none.
    fn owner(&self) -> String {
        let uid = std::fs::metadata(&self.directory).map_or(0, |metadata| metadata.uid());
        match User::from_uid(Uid::from_raw(uid)) {
            Ok(Some(user)) => user.name,
            _ => uid.to_string(),
        }
    }
}
