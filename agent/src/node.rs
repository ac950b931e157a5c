//! The node: what every task shares of it, what it can and can't do, and how it shows itself.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agent_core::pod::{NodeFacts, Time};
use agent_core::service::host_port::Published;
use cni::pod_network::NodeNetwork;
use k8s_openapi::api::core::v1::{Node as NodeObject, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time as K8sTime};
use k8s_openapi::jiff::Timestamp;

use oci_spec::runtime::Capabilities;
use tokio::sync::watch;

use crate::config::Config;
use crate::events::Events;
use crate::hands::cgroup::missing_controllers;
use crate::hands::inspector::Inspector;
use crate::image::{Store, StoreError};
use crate::status::Board;

/// The name of the agent's own pod network; CNI's networks have other names.
pub const NETWORK: &str = "orlop";
/// The bit of CAP_SYS_RESOURCE in a capability set, capabilities(7).
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// What every task shares.
pub struct Node {
    /// The configuration.
    pub config: Config,
    /// What pods need to know of the node.
    pub facts: NodeFacts,
    /// Where cgroup2 is mounted.
    pub cgroup_root: PathBuf,
    /// The pod network.
    pub network: NodeNetwork,
    /// What looks at the packets of pods; none where the kernel does not take it.
    pub inspector: Option<Inspector>,
    /// The image store.
    pub images: Store,
    /// Changes when an image was loaded or pulled by hand: pods that wait for one look again.
    pub new_images: watch::Sender<()>,
    /// Changes when a plugin's call may have attached or detached something.
    pub plugin_calls: watch::Sender<()>,
    /// What others have attached and ports of the node lead to; none before the first look.
    pub attached: watch::Sender<Option<Arc<[Published]>>>,
    /// What happened.
    pub events: Arc<Events>,
    /// The pods as they are.
    pub board: Board,
    /// The capabilities that it can give to containers.
    pub capabilities: Capabilities,
    /// What this host can't enforce, one sentence each.
    pub unenforced: Vec<String>,
    started: Time,
}

impl Node {
    /// Looks at the node and opens its store.
    pub fn open(config: Config) -> anyhow::Result<Node> {
        let cgroup_root = runtime::cgroup::root()?;
        let inspector = inspector();
        Ok(Node {
            facts: NodeFacts {
                name: config.node_name.clone(),
                addresses: addresses(),
                memory: memory(),
            },
            network: NodeNetwork {
                inspector: inspector.as_ref().map(Inspector::program),
                pacer: inspector.as_ref().map(Inspector::pacer),
                ..network_of(&config.places)
            },
            inspector,
            images: open_store(&config.places.state_dir)?,
            new_images: watch::channel(()).0,
            plugin_calls: watch::channel(()).0,
            attached: watch::channel(None).0,
            events: Arc::default(),
            board: Board::default(),
            capabilities: runtime::capabilities_of(capability_set("CapBnd:")),
            unenforced: unenforced(&cgroup_root),
            started: now(),
            cgroup_root,
            config,
        })
    }

    /// The node as a Kubernetes object.
    pub fn object(&self) -> NodeObject {
        NodeObject {
            metadata: ObjectMeta {
                name: Some(self.facts.name.clone()),
                creation_timestamp: Some(self.started.to_k8s()),
                labels: Some(labels(&self.facts.name)),
                ..ObjectMeta::default()
            },
            status: Some(NodeStatus {
                addresses: Some(self.addresses()),
                capacity: Some(capacity(self.facts.memory)),
                conditions: Some(vec![self.ready(), self.limits()]),
                node_info: Some(info()),
                ..NodeStatus::default()
            }),
            ..NodeObject::default()
        }
    }

    /// Where shims live: apart from the agent, so that whoever stops its cgroup leaves them running, and apart from
    /// their pods, so that the limits of a pod don't bind them.
    pub fn shims_cgroup(&self) -> PathBuf {
        shims_cgroup(&self.cgroup_root, &self.config.places)
    }

    fn addresses(&self) -> Vec<NodeAddress> {
        let of = |type_: &str, address: String| NodeAddress {
            type_: type_.into(),
            address,
        };
        let internal = self
            .facts
            .addresses
            .iter()
            .map(|address| of("InternalIP", address.to_string()));
        internal.chain([of("Hostname", self.facts.name.clone())]).collect()
    }

    fn ready(&self) -> NodeCondition {
        self.condition("Ready", true, "KubeletReady", "the agent keeps its pods".into())
    }

    fn limits(&self) -> NodeCondition {
        match self.unenforced.as_slice() {
            [] => self.condition(
                "LimitsUnenforced",
                false,
                "AllEnforced",
                "every limit can be enforced".into(),
            ),
            some => self.condition("LimitsUnenforced", true, "HostLacksMeans", some.join("; ")),
        }
    }

    fn condition(&self, type_: &str, holds: bool, reason: &str, message: String) -> NodeCondition {
        NodeCondition {
            type_: type_.into(),
            status: if holds { "True" } else { "False" }.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_heartbeat_time: Some(now().to_k8s()),
            last_transition_time: Some(self.started.to_k8s()),
        }
    }
}

/// Its lock may be held a little longer by a child of an agent that was killed, like that of the run directory.
fn open_store(dir: &std::path::Path) -> Result<Store, StoreError> {
    let deadline = Instant::now() + crate::run::LOCK;
    loop {
        match Store::open(dir) {
            Err(StoreError::InUse(_)) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
}

/// The clock. Plans get it as an argument.
pub fn now() -> Time {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Time::from_unix_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The clock, as Kubernetes writes it, to the nanosecond.
pub fn timestamp() -> Timestamp {
    Timestamp::from_nanosecond(i128::from(now().unix_nanos())).unwrap_or(Timestamp::MAX)
}

/// A file's time, as Kubernetes writes it: in whole seconds.
pub fn k8s_time(time: SystemTime) -> K8sTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time::from_unix_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)).to_k8s()
}

/// Without it the kernel's own means keep pods from sending as others; the way between pods is a little longer.
fn inspector() -> Option<Inspector> {
    let loaded = Inspector::load();
    if let Err(error) = &loaded {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(%error, cause, "pods are not inspected by a program");
    }
    loaded.ok()
}

/// The cgroup of all shims.
pub fn shims_cgroup(cgroup_root: &std::path::Path, places: &crate::config::Places) -> PathBuf {
    cgroup_root.join(&places.cgroup_parent).join("podshims")
}

/// The pod network below these places.
pub fn network_of(places: &crate::config::Places) -> NodeNetwork {
    NodeNetwork {
        service_cidrs: vec![places.service_cidr],
        masquerade: places.masquerade,
        peers: places.peers.clone(),
        ..NodeNetwork::new(NETWORK, &places.pod_cidrs, &places.run_dir.join("network"))
    }
}

fn unenforced(cgroup_root: &std::path::Path) -> Vec<String> {
    let mut sentences = Vec::new();
    let missing = missing_controllers(cgroup_root);
    if !missing.is_empty() {
        let (root, missing) = (cgroup_root.display(), missing.join(", "));
        sentences.push(format!(
            "limits of {missing} can't be enforced: {root} has no such controllers"
        ));
    }
    if capability_set("CapEff:") & CAP_SYS_RESOURCE == 0 {
        sentences.push("negative oom_score_adj and raised rlimits can't be set: CAP_SYS_RESOURCE is missing".into());
    }
    sentences
}

/// One of this process's capability sets, as proc_pid_status(5) names it.
fn capability_set(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    field(&status, name)
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .unwrap_or(0)
}

fn memory() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: Option<u64> =
        field(&meminfo, "MemTotal:").and_then(|text| text.trim_end_matches(" kB").trim().parse().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// The value of a line `key value` of a proc file.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

/// The addresses that the default routes would speak from; sending nothing, connect(2) on a datagram socket tells.
fn addresses() -> Vec<IpAddr> {
    let towards = |local: &str, remote: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind(local.parse::<SocketAddr>().ok()?).ok()?;
        socket.connect(remote.parse::<SocketAddr>().ok()?).ok()?;
        socket
            .local_addr()
            .ok()
            .map(|address| address.ip())
            .filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
    };
    // Documentation addresses (RFC 5737, RFC 3849): nothing is sent to them.
    [
        towards("0.0.0.0:0", "192.0.2.1:9"),
        towards("[::]:0", "[2001:db8::1]:9"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn labels(name: &str) -> BTreeMap<String, String> {
    let labels = [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
    ];
    labels
        .into_iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

fn capacity(memory: u64) -> BTreeMap<String, Quantity> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    [
        ("cpu".to_string(), Quantity(cores.to_string())),
        ("memory".to_string(), Quantity(format!("{}Ki", memory / 1024))),
    ]
    .into()
}

/// The architecture as Go and image indexes name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn info() -> NodeSystemInfo {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
    let os_release = read("/etc/os-release");
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    NodeSystemInfo {
        architecture: architecture().into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: concat!("orlop://", env!("CARGO_PKG_VERSION")).into(),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: version.into(),
        kubelet_version: version.into(),
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".into(),
        os_image: field(&os_release, "PRETTY_NAME=")
            .unwrap_or("Linux")
            .trim_matches('"')
            .into(),
        ..NodeSystemInfo::default()
    }
}
