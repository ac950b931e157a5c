//! One object as the cells of its row, in the columns of `kubectl get` and `crictl images`.

use clap::ValueEnum;
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod, Service};
use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::table;
use crate::server::message::{ImageView, ManifestView, creation_time};

/// What can be listed, with the short names that kubectl knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Resource {
    /// Pods
    #[value(alias = "pod", alias = "po")]
    Pods,
    /// Services
    #[value(alias = "service", alias = "svc")]
    Services,
    /// ConfigMaps
    #[value(alias = "configmap", alias = "cm")]
    Configmaps,
    /// Images
    #[value(alias = "image")]
    Images,
    /// Files of the manifest directory and what is wrong with them
    #[value(alias = "manifest")]
    Manifests,
    /// The node
    #[value(alias = "nodes", alias = "no")]
    Node,
}

impl Resource {
    /// The word in the API's paths.
    pub(super) fn path(self) -> &'static str {
        match self {
            Resource::Pods => "pods",
            Resource::Services => "services",
            Resource::Configmaps => "configmaps",
            Resource::Images => "images",
            Resource::Manifests => "manifests",
            Resource::Node => "nodes",
        }
    }

    /// Whether its objects live in namespaces.
    pub(super) fn is_namespaced(self) -> bool {
        matches!(self, Resource::Pods | Resource::Services | Resource::Configmaps)
    }

    /// The name by which an item is asked for.
    pub(super) fn name(self, item: &Value) -> String {
        let text = |pointer: &str| {
            item.pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_string()
        };
        match self {
            Resource::Pods | Resource::Services | Resource::Configmaps | Resource::Node => text("/metadata/name"),
            Resource::Images if text("/tag").is_empty() => format!("{}@{}", text("/repository"), text("/digest")),
            Resource::Images => format!("{}:{}", text("/repository"), text("/tag")),
            Resource::Manifests => text("/file"),
        }
    }

    /// The name as `-o name` prints it.
    pub(super) fn full_name(self, item: &Value) -> String {
        match self {
            Resource::Pods => format!("pod/{}", self.name(item)),
            Resource::Services => format!("service/{}", self.name(item)),
            Resource::Configmaps => format!("configmap/{}", self.name(item)),
            Resource::Node => format!("node/{}", self.name(item)),
            Resource::Images | Resource::Manifests => self.name(item),
        }
    }
}

/// The object's namespace; empty where it has none.
pub(super) fn namespace(item: &Value) -> &str {
    item.pointer("/metadata/namespace")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The columns' headings.
pub(super) fn headings(resource: Resource, wide: bool) -> Vec<&'static str> {
    let (always, when_wide): (&[_], &[_]) = match resource {
        Resource::Pods => (&["NAME", "READY", "STATUS", "RESTARTS", "AGE"], &["IP", "NODE"]),
        Resource::Services => (
            &["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"],
            &["SELECTOR"],
        ),
        Resource::Configmaps => (&["NAME", "DATA", "AGE"], &[]),
        Resource::Images => (&["IMAGE", "TAG", "IMAGE ID", "SIZE"], &["DIGEST"]),
        Resource::Manifests => (&["FILE", "OBJECTS", "ERRORS"], &[]),
        Resource::Node => (
            &["NAME", "STATUS", "ROLES", "AGE", "VERSION"],
            &["INTERNAL-IP", "OS-IMAGE", "KERNEL-VERSION", "CONTAINER-RUNTIME"],
        ),
    };
    always
        .iter()
        .chain(when_wide.iter().filter(|_| wide))
        .copied()
        .collect()
}

/// The cells below [`headings`].
pub(super) fn cells(resource: Resource, item: &Value, wide: bool, now: Timestamp) -> Vec<String> {
    let age = table::age(creation_time(item), now);
    match resource {
        Resource::Pods => parsed(item, |pod: Pod| pod_cells(&pod, age, wide, now)),
        Resource::Services => parsed(item, |service: Service| service_cells(&service, age, wide)),
        Resource::Configmaps => {
            let count = |key: &str| item.get(key).and_then(Value::as_object).map_or(0, serde_json::Map::len);
            vec![
                resource.name(item),
                (count("data") + count("binaryData")).to_string(),
                age,
            ]
        }
        Resource::Images => parsed(item, |image: ImageView| image_cells(image, wide)),
        Resource::Manifests => parsed(item, |manifest: ManifestView| manifest_cells(&manifest)),
        Resource::Node => parsed(item, |node: Node| node_cells(&node, age, wide)),
    }
}

fn parsed<T: DeserializeOwned>(item: &Value, cells: impl FnOnce(T) -> Vec<String>) -> Vec<String> {
    match serde_json::from_value(item.clone()) {
        Ok(object) => cells(object),
        Err(error) => vec![format!("<unreadable: {error}>")],
    }
}

fn pod_cells(pod: &Pod, age: String, wide: bool, now: Timestamp) -> Vec<String> {
    let status = pod.status.as_ref();
    let containers = status
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default();
    let total = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let ready = containers.iter().filter(|container| container.ready).count();
    let mut cells = vec![
        pod.metadata.name.clone().unwrap_or_default(),
        format!("{ready}/{total}"),
        pod_status(pod, containers),
        restarts(containers, now),
        age,
    ];
    if wide {
        let none = || "<none>".to_string();
        cells.push(status.and_then(|status| status.pod_ip.clone()).unwrap_or_else(none));
        cells.push(
            pod.spec
                .as_ref()
                .and_then(|spec| spec.node_name.clone())
                .unwrap_or_else(none),
        );
    }
    cells
}

/// kubectl's STATUS: the worst container's reason, else the pod's reason or phase (`printPod` of kubectl's printers).
pub(super) fn pod_status(pod: &Pod, containers: &[ContainerStatus]) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "Terminating".into();
    }
    let status = pod.status.as_ref();
    let of_pod = status.and_then(|status| status.reason.clone().or_else(|| status.phase.clone()));
    let of_containers = containers.iter().rev().filter_map(container_reason).next_back();
    let has_running = containers.iter().any(|container| container.ready);
    match of_containers {
        Some(reason) if reason == "Completed" && has_running => "Running".into(),
        Some(reason) => reason,
        None => of_pod.unwrap_or_else(|| "Unknown".into()),
    }
}

fn container_reason(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        return waiting.reason.clone().filter(|reason| !reason.is_empty());
    }
    let ended = state.terminated.as_ref()?;
    let by_code = || match ended.signal {
        Some(signal) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", ended.exit_code),
    };
    Some(
        ended
            .reason
            .clone()
            .filter(|reason| !reason.is_empty())
            .unwrap_or_else(by_code),
    )
}

/// `3 (25s ago)`: restarts of all containers, and when the last one ended.
fn restarts(containers: &[ContainerStatus], now: Timestamp) -> String {
    let count: i32 = containers.iter().map(|container| container.restart_count).sum();
    let ended = |container: &ContainerStatus| {
        Some(
            container
                .last_state
                .as_ref()?
                .terminated
                .as_ref()?
                .finished_at
                .as_ref()?
                .0,
        )
    };
    match containers.iter().filter_map(ended).max() {
        Some(last) if count > 0 => format!("{count} ({} ago)", table::age(Some(last), now)),
        _ => count.to_string(),
    }
}

fn service_cells(service: &Service, age: String, wide: bool) -> Vec<String> {
    let none = || "<none>".to_string();
    let spec = service.spec.clone().unwrap_or_default();
    let port = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        match port.node_port {
            Some(node_port) if node_port != 0 => format!("{}:{node_port}/{protocol}", port.port),
            _ => format!("{}/{protocol}", port.port),
        }
    };
    let ports: Vec<String> = spec.ports.iter().flatten().map(port).collect();
    let mut cells = vec![
        service.metadata.name.clone().unwrap_or_default(),
        spec.type_.unwrap_or_else(|| "ClusterIP".into()),
        spec.cluster_ip.unwrap_or_else(none),
        none(),
        if ports.is_empty() { none() } else { ports.join(",") },
        age,
    ];
    if wide {
        let pairs: Vec<String> = spec
            .selector
            .iter()
            .flatten()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        cells.push(if pairs.is_empty() { none() } else { pairs.join(",") });
    }
    cells
}

fn image_cells(image: ImageView, wide: bool) -> Vec<String> {
    let short = |digest: &str| {
        digest
            .trim_start_matches("sha256:")
            .chars()
            .take(13)
            .collect::<String>()
    };
    let tag = if image.tag.is_empty() {
        "<none>".into()
    } else {
        image.tag
    };
    let mut cells = vec![image.repository, tag, short(&image.id), table::size(image.size)];
    if wide {
        cells.push(image.digest);
    }
    cells
}

fn manifest_cells(manifest: &ManifestView) -> Vec<String> {
    let join = |parts: &[String]| {
        if parts.is_empty() {
            "<none>".to_string()
        } else {
            parts.join(", ")
        }
    };
    vec![manifest.file.clone(), join(&manifest.objects), join(&manifest.errors)]
}

fn node_cells(node: &Node, age: String, wide: bool) -> Vec<String> {
    let status = node.status.clone().unwrap_or_default();
    let ready = status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let info = status.node_info.unwrap_or_default();
    let mut cells = vec![
        node.metadata.name.clone().unwrap_or_default(),
        if ready { "Ready".into() } else { "NotReady".into() },
        "<none>".into(),
        age,
        info.kubelet_version,
    ];
    if wide {
        let internal = |address: &&k8s_openapi::api::core::v1::NodeAddress| address.type_ == "InternalIP";
        let address = status
            .addresses
            .iter()
            .flatten()
            .find(internal)
            .map(|address| address.address.clone());
        cells.push(address.unwrap_or_else(|| "<none>".into()));
        cells.extend([info.os_image, info.kernel_version, info.container_runtime_version]);
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(state: &Value, extra: &Value) -> Value {
        let mut pod = json!({
            "metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "a"}], "nodeName": "n1"},
            "status": {"phase": "Running", "podIP": "10.244.0.2", "containerStatuses": [{
                "name": "a", "image": "i", "imageID": "d", "ready": state.get("running").is_some(), "restartCount": 2,
                "state": state, "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:01:00Z"}},
            }]},
        });
        if let (Some(pod), Some(extra)) = (pod["metadata"].as_object_mut(), extra.as_object()) {
            pod.extend(extra.clone());
        }
        pod
    }

    fn now() -> Timestamp {
        "2026-01-01T00:01:25Z".parse().unwrap()
    }

    #[test]
    fn a_running_pod_reads_as_kubectl_prints_it() {
        let cells = cells(Resource::Pods, &pod(&json!({"running": {}}), &json!({})), true, now());
        assert_eq!(
            cells,
            ["web", "1/1", "Running", "2 (25s ago)", "85s", "10.244.0.2", "n1"]
        );
    }

    #[test]
    fn the_containers_reason_is_the_pods_status() {
        let cases = [
            (
                json!({"waiting": {"reason": "CrashLoopBackOff"}}),
                json!({}),
                "CrashLoopBackOff",
            ),
            (
                json!({"terminated": {"exitCode": 3, "reason": "Error"}}),
                json!({}),
                "Error",
            ),
            (json!({"terminated": {"exitCode": 3}}), json!({}), "ExitCode:3"),
            (
                json!({"running": {}}),
                json!({"deletionTimestamp": "2026-01-01T00:01:00Z"}),
                "Terminating",
            ),
        ];
        for (state, extra, status) in cases {
            assert_eq!(cells(Resource::Pods, &pod(&state, &extra), false, now())[2], status);
        }
    }

    #[test]
    fn a_services_ports_are_joined() {
        let service = json!({
            "metadata": {"name": "web"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]},
        });
        let cells = cells(Resource::Services, &service, false, now());
        assert_eq!(
            cells,
            ["web", "ClusterIP", "10.96.0.1", "<none>", "80/TCP,53/UDP", "<unknown>"]
        );
    }

    #[test]
    fn an_image_has_a_short_id() {
        let image = json!({"repository": "docker.io/library/busybox", "tag": "1", "id": "sha256:0123456789abcdef", "digest": "d", "size": 4_270_000});
        let cells = cells(Resource::Images, &image, false, now());
        assert_eq!(cells, ["docker.io/library/busybox", "1", "0123456789abc", "4.27MB"]);
    }
}
