//! What is wanted: a Pod manifest after defaults and validation, with every quantity and enum parsed once. The way from
//! a manifest to here is in `accept`.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{Backoffs, ContainerName, PodUid, Time};

/// One pod as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredPod {
    /// Its uid: `metadata.uid`, for a manifest without one a hash ([`crate::manifest`]).
    pub uid: PodUid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its containers, in the order in which they start.
    pub containers: Vec<DesiredContainer>,
    /// What happens when a container ends.
    pub restart_policy: RestartPolicy,
    /// The hostname in its uts namespace; the node's name on the host network.
    pub hostname: String,
    /// It uses the node's network, ports and hostname.
    pub host_network: bool,
    /// Its containers get the environment variables of Services.
    pub enable_service_links: bool,
    /// Where its `/etc/resolv.conf` comes from.
    pub dns: DnsPolicy,
    /// How much it may receive and send.
    pub bandwidth: Bandwidth,
    /// Groups that every container's first process has besides its own.
    pub supplemental_groups: Vec<u32>,
    /// How long its containers may take to end, unless [`Goal::Stop`] says otherwise.
    pub grace: Duration,
    /// Why the node has not taken it on, if it has not.
    pub refusal: Option<Refusal>,
    /// Whether it shall run or go.
    pub goal: Goal,
    /// How long failures are waited out.
    pub backoffs: Backoffs,
    /// The node that it runs on.
    pub node: NodeFacts,
}

/// What shall become of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goal {
    /// It runs, or has run to its end.
    #[default]
    Run,
    /// Nothing of it is left.
    Stop {
        /// When that was asked for. The agent keeps it across its own restarts, or the grace begins anew.
        since: Time,
        /// From `since`, what is left then is killed.
        grace: Duration,
    },
}

/// Why a node does not take a pod on, for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A port of the node is another pod's: which, and whose.
    NodePorts(String),
}

impl Refusal {
    /// As a kubelet names it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NodePorts(_) => "NodePorts",
        }
    }

    /// A kubelet's words, and what it does not say.
    pub fn message(&self) -> String {
        let Self::NodePorts(port) = self;
        format!("Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports: {port}")
    }
}

/// What a pod needs to know of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its addresses, the primary one first: `status.hostIPs`.
    pub addresses: Vec<IpAddr>,
    /// Its memory in bytes: the measure of `oom_score_adj`.
    pub memory: u64,
}

/// What happens when a container ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// It starts again.
    #[default]
    Always,
    /// It starts again unless it exited with 0.
    OnFailure,
    /// It stays ended.
    Never,
}

/// Where `/etc/resolv.conf` comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsPolicy {
    /// The node's own. `ClusterFirst` means this too as long as the node knows no cluster DNS, as with a kubelet.
    #[default]
    Default,
}

/// Limits on a pod's traffic in bits a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Of what it receives.
    pub ingress: Option<u64>,
    /// Of what it sends.
    pub egress: Option<u64>,
}

/// One container as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredContainer {
    /// Its name.
    pub name: ContainerName,
    /// Its image, as the manifest names it.
    pub image: String,
    /// When the registry is asked for the image.
    pub pull_policy: PullPolicy,
    /// Instead of the image's entrypoint, unless empty; `$(VAR)` is not expanded yet.
    pub command: Vec<String>,
    /// Instead of the image's cmd, unless empty; `$(VAR)` is not expanded yet.
    pub args: Vec<String>,
    /// Instead of the image's working directory.
    pub working_dir: Option<String>,
    /// Whole ConfigMaps as variables; what [`Self::env`] names wins.
    pub env_from: Vec<EnvFrom>,
    /// Variables, in order.
    pub env: Vec<EnvVar>,
    /// Ports, for Services to name and users to read.
    pub ports: Vec<ContainerPort>,
    /// What it asks for and may use.
    pub resources: Resources,
    /// Who it runs as and what that may do.
    pub security: Security,
}

/// When the registry is asked for an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// For every attempt.
    Always,
    /// When the image is not in the store.
    #[default]
    IfNotPresent,
    /// Never.
    Never,
}

/// One variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Where its value comes from.
    pub value: EnvValue,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    /// The manifest; `$(VAR)` is not expanded yet.
    Literal(String),
    /// The pod itself.
    Field(FieldRef),
    /// A key of a ConfigMap of the pod's namespace.
    ConfigMapKey {
        /// The ConfigMap's name.
        name: String,
        /// The key.
        key: String,
        /// Whether the variable is left out when there is no such key.
        optional: bool,
    },
}

/// A field of the pod that a variable can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldRef {
    /// `metadata.name`
    Name,
    /// `metadata.namespace`
    Namespace,
    /// `metadata.uid`
    Uid,
    /// `metadata.labels['key']`
    Label(String),
    /// `metadata.annotations['key']`
    Annotation(String),
    /// `spec.nodeName`
    NodeName,
    /// `status.podIP`
    PodIp,
    /// `status.podIPs`
    PodIps,
    /// `status.hostIP`
    HostIp,
    /// `status.hostIPs`
    HostIps,
}

/// A whole ConfigMap as variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvFrom {
    /// Its name.
    pub config_map: String,
    /// Put before every key.
    pub prefix: String,
    /// Whether its absence is no error.
    pub optional: bool,
}

/// A port that the container listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// Its name, for `targetPort` of Services.
    pub name: Option<String>,
    /// Its number.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the node that leads to it; on the host's network, that it is.
    pub host_port: Option<u16>,
    /// The one address of the node that has that port.
    pub host_address: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP
    #[default]
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

/// Requests and limits; a request without a value is its limit, as the API server defaults it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// In thousandths of a core.
    pub cpu_request: Option<u64>,
    /// In thousandths of a core.
    pub cpu_limit: Option<u64>,
    /// In bytes.
    pub memory_request: Option<u64>,
    /// In bytes.
    pub memory_limit: Option<u64>,
}

/// The security context of a container, the pod's merged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Security {
    /// Instead of the image's user.
    pub user: Option<u32>,
    /// Instead of the group of that user.
    pub group: Option<u32>,
    /// Refuse to run as uid 0.
    pub must_be_non_root: bool,
    /// The root file system can't be written.
    pub read_only_root: bool,
    /// Whether a set-uid program may gain what the process does not have.
    pub may_escalate: bool,
    /// Every capability and device.
    pub privileged: bool,
    /// Capabilities besides the default ones, without `CAP_`; `ALL` for every one.
    pub add_capabilities: Vec<String>,
    /// Default capabilities to leave out, without `CAP_`; `ALL` for every one.
    pub drop_capabilities: Vec<String>,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            user: None,
            group: None,
            must_be_non_root: false,
            read_only_root: false,
            may_escalate: true,
            privileged: false,
            add_capabilities: Vec::new(),
            drop_capabilities: Vec::new(),
        }
    }
}

impl DesiredPod {
    /// The container called `name`.
    pub fn container(&self, name: &ContainerName) -> Option<&DesiredContainer> {
        self.containers.iter().find(|container| container.name == *name)
    }

    /// `name_namespace(uid)`, as a kubelet's messages write a pod.
    pub fn described(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }
}
