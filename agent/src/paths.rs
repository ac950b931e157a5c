//! Every path of one pod on this node, so that (pod uid, container, attempt) names exactly one directory, one cgroup and
//! one log. It touches no file.

use std::path::{Path, PathBuf};

use agent_core::pod::{ContainerName, DesiredPod, PodUid, qos_class};

use crate::config::Places;

/// The paths of one pod.
#[derive(Clone, Debug)]
pub struct PodPaths {
    /// Of what runs: gone after a reboot. It is also the shim's directory.
    pub run: PathBuf,
    /// Of the pod's files: what a kubelet keeps in /var/lib/kubelet/pods/<uid>.
    pub root: PathBuf,
    /// Of its logs.
    pub logs: PathBuf,
    /// Links to the logs of all pods.
    pub log_links: PathBuf,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Its cgroup as the containers' specs name it: from the root of the tree.
    pub cgroup_name: String,
    names: String,
    uid: PodUid,
}

impl PodPaths {
    /// The paths of `pod`; `cgroup_root` is where cgroup2 is mounted.
    pub fn new(places: &Places, cgroup_root: &Path, pod: &DesiredPod) -> PodPaths {
        let uid = pod.uid.as_str();
        let in_tree = places
            .cgroup_parent
            .join(qos_class(pod).tier())
            .join(format!("pod{uid}"));
        PodPaths {
            run: places.pod_runs().join(uid),
            root: places.root_dir.join("pods").join(uid),
            logs: places.log_dir.join(format!("{}_{}_{uid}", pod.namespace, pod.name)),
            log_links: places.container_log_dir.clone(),
            cgroup: cgroup_root.join(&in_tree),
            cgroup_name: format!("/{}", in_tree.display()),
            names: format!("{}_{}", pod.name, pod.namespace),
            uid: pod.uid.clone(),
        }
    }

    /// What the agent must know of the pod after its manifest is gone.
    pub fn record(&self) -> PathBuf {
        self.run.join(RECORD)
    }

    /// Pins of the namespaces that its containers share.
    pub fn namespaces(&self) -> PathBuf {
        self.run.join("ns")
    }

    /// The shared /dev/shm.
    pub fn shm(&self) -> PathBuf {
        self.run.join("shm")
    }

    /// The shim's socket.
    pub fn shim_socket(&self) -> PathBuf {
        self.run.join("shim.sock")
    }

    /// The shim's own complaints.
    pub fn shim_log(&self) -> PathBuf {
        self.run.join("shim.log")
    }

    /// Mounted as /etc/hosts.
    pub fn hosts(&self) -> PathBuf {
        self.root.join("etc-hosts")
    }

    /// Mounted as /etc/hostname.
    pub fn hostname(&self) -> PathBuf {
        self.root.join("etc-hostname")
    }

    /// Mounted as /etc/resolv.conf.
    pub fn resolv_conf(&self) -> PathBuf {
        self.root.join("etc-resolv.conf")
    }

    /// The log files of a container.
    pub fn container_logs(&self, container: &ContainerName) -> PathBuf {
        self.logs.join(container.as_str())
    }

    /// The log file of one attempt.
    pub fn log(&self, container: &ContainerName, attempt: u32) -> PathBuf {
        self.container_logs(container).join(format!("{attempt}.log"))
    }

    /// The link to an attempt's log, as log collectors expect it: `<pod>_<namespace>_<container>-<id>.log`.
    pub fn log_link(&self, container: &ContainerName, attempt: u32) -> PathBuf {
        let id = container_id(&self.uid, container, attempt);
        self.log_links.join(format!("{}_{container}-{id}.log", self.names))
    }

    /// The cgroup of one attempt.
    pub fn container_cgroup(&self, container: &ContainerName, attempt: u32) -> PathBuf {
        self.cgroup.join(format!("{container}-{attempt}"))
    }

    /// The cgroup of one attempt as its spec names it.
    pub fn container_cgroup_name(&self, container: &ContainerName, attempt: u32) -> String {
        format!("{}/{container}-{attempt}", self.cgroup_name)
    }
}

/// The file in a pod's run directory that outlives its manifest.
pub const RECORD: &str = "pod.json";

/// An id for tools that know containers by one word, as it stands in a pod's status.
pub fn container_id(uid: &PodUid, container: &ContainerName, attempt: u32) -> String {
    format!("{uid}.{container}.{attempt}")
}
