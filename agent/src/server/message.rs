//! The JSON of the local API, as the server writes and the command line reads it. Objects travel as Kubernetes types; what
//! has none stands here.

use std::net::IpAddr;

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::events::Event;

/// The protocol's version, answered by `GET /version`.
pub const API_VERSION: &str = "v1";

/// The body of every answer that is not a success.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong, for people.
    pub error: String,
}

/// `GET /version`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// The agent's release.
    pub version: String,
    /// [`API_VERSION`].
    pub api_version: String,
    /// The node's name.
    pub node: String,
}

/// `GET /v1/images`, one image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageView {
    /// Repository, `docker.io/library/busybox`.
    pub repository: String,
    /// Tag; empty when the image is known by digest only.
    pub tag: String,
    /// Digest of the configuration, `sha256:…`.
    pub id: String,
    /// Digest of the manifest, `sha256:…`.
    pub digest: String,
    /// Bytes on disk.
    pub size: u64,
}

/// `GET /v1/manifests`, one file of the manifest directory or one applied object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestView {
    /// The file.
    pub file: String,
    /// What it defines, `Pod default/web`.
    pub objects: Vec<String>,
    /// What is wrong with it, `file:line:column: path: message`.
    pub errors: Vec<String>,
}

/// `GET /v1/describe/…`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// The object with its status.
    pub object: Value,
    /// Where it is defined.
    pub origin: Option<String>,
    /// What happened to it.
    pub events: Vec<Event>,
    /// Of a Service: where its connections go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePortView>,
    /// Of the node: manifests that have errors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<ManifestView>,
}

/// One port of a Service as the kernel serves it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePortView {
    /// `http 80/TCP`, as the Service names it.
    pub port: String,
    /// Ready backends, `10.244.0.5:8080`.
    pub endpoints: Vec<String>,
    /// What the eBPF programs counted, by counter's name.
    pub counters: BTreeMap<String, u64>,
}

/// `POST /v1/logs`; the answer is text.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogsRequest {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container; may be left out where the pod has one.
    pub container: Option<String>,
    /// Go on until the container has ended for good.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Put the time before every line.
    pub timestamps: bool,
    /// The attempt before the present one.
    pub previous: bool,
}

/// `POST /v1/exec` with `Upgrade: orlop-exec`; then frames of [`super::frame`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecRequest {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container; may be left out where the pod has one.
    pub container: Option<String>,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Whether the process reads from the caller.
    pub stdin: bool,
    /// Whether the process has a terminal.
    pub tty: bool,
}

/// `POST /v1/apply`, one object's fate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// `pod/web`, as kubectl names it.
    pub object: String,
    /// Its namespace.
    pub namespace: String,
    /// What happened.
    pub outcome: AppliedOutcome,
}

/// What `apply` did with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AppliedOutcome {
    /// It is new.
    Created,
    /// It was there and is another now.
    Configured,
    /// It was there already.
    Unchanged,
}

/// `DELETE /v1/…` and `POST /v1/delete`, one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deleted {
    /// `pod "web"`, as kubectl names it.
    pub object: String,
    /// Of a pod: the uid to wait for.
    pub pod_uid: Option<String>,
}

/// `POST /v1/images/pull`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullRequest {
    /// The image, as a pod names it.
    pub image: String,
    /// Speak plain HTTP with the registry.
    pub insecure: bool,
}

/// `GET /v1/network`: the pod network as the kernel has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkView {
    /// What is attached.
    pub pods: Vec<NetworkPod>,
    /// Ranges of this node's pods.
    pub pod_cidrs: Vec<String>,
    /// The other nodes.
    pub peers: Vec<PeerView>,
    /// Packets of pods by what was done with them, since the agent started.
    pub counts: Vec<(String, u64)>,
}

/// One pod's link.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPod {
    /// `namespace/name`; none for what other runtimes attached.
    pub name: Option<String>,
    /// The network's name.
    pub network: String,
    /// The pod's uid, or another runtime's container id.
    pub container_id: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Hardware address of its end.
    pub mac: String,
    /// Name of the node's end.
    pub link: String,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Names that a resolver on the node may know it by.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// How many ports of the node lead to it.
    pub ports: usize,
    /// Bits a second that it receives at most.
    #[serde(default)]
    pub ingress: Option<u64>,
    /// Bits a second that it sends at most.
    #[serde(default)]
    pub egress: Option<u64>,
    /// Whether everything of it is there.
    pub complete: bool,
}

/// Another node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerView {
    /// Ranges of its pods.
    pub pod_cidrs: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// `POST /v1/network/check`: what was wrong and is so no more.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkCheck {
    /// Links of pods that are gone.
    pub links: usize,
    /// Ports that led to links that are gone.
    pub ports: usize,
}

/// The time of an object's creation, where it says so.
pub fn creation_time(object: &Value) -> Option<Timestamp> {
    object.pointer("/metadata/creationTimestamp")?.as_str()?.parse().ok()
}
