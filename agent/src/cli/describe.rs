//! `orlop describe`: one object with its status and events, for people.

use std::fmt::Write;

use clap::Args;
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::client::Client;
use super::row::Resource;
use super::{table, yaml};
use crate::events::{Event, Kind};
use crate::server::message::Description;

/// Show pods, services, configmaps or the node in full
#[derive(Args, Debug)]
pub(super) struct Describe {
    /// What to show
    resource: Resource,
    /// Their names; all of the namespace without any
    names: Vec<String>,
    #[command(flatten)]
    namespace: super::Namespace,
}

impl Describe {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let path = self.resource.path();
        if !self.resource.is_namespaced() && self.resource != Resource::Node {
            anyhow::bail!("{path} can't be described; `orlop get {path} -o yaml` shows all there is");
        }
        let namespace = &self.namespace.namespace;
        let names = if self.names.is_empty() {
            self.all(client).await?
        } else {
            self.names.clone()
        };
        let mut texts = Vec::new();
        for name in names {
            let description: Description = client.get(&format!("/v1/describe/{path}/{namespace}/{name}")).await?;
            texts.push(text(self.resource, &description)?);
        }
        super::print(&texts.join("\n\n"))
    }

    async fn all(&self, client: &Client) -> anyhow::Result<Vec<String>> {
        let objects: Vec<Value> = client.get(&format!("/v1/{}", self.resource.path())).await?;
        let in_namespace = |object: &&Value| {
            !self.resource.is_namespaced() || super::row::namespace(object) == self.namespace.namespace
        };
        Ok(objects
            .iter()
            .filter(in_namespace)
            .map(|object| self.resource.name(object))
            .collect())
    }
}

fn text(resource: Resource, description: &Description) -> anyhow::Result<String> {
    let mut out = String::new();
    let now = crate::node::timestamp();
    let object = description.object.clone();
    match resource {
        Resource::Pods => pod(&mut out, &serde_json::from_value(object)?, description),
        Resource::Services => service(&mut out, &serde_json::from_value(object)?, description),
        Resource::Node => node(&mut out, &serde_json::from_value(object)?, description),
        Resource::Configmaps | Resource::Images | Resource::Manifests => out.push_str(&yaml::to_string(&object)),
    }
    if matches!(resource, Resource::Pods | Resource::Node) {
        events(&mut out, &description.events, now);
    }
    Ok(out)
}

/// A line `Key:   value` with the values below each other.
fn line(out: &mut String, indent: usize, key: &str, value: &str) {
    let width = 18_usize.saturating_sub(indent).max(key.len() + 2);
    let value = if value.is_empty() { "<none>" } else { value };
    let _ = writeln!(out, "{:indent$}{:width$}{value}", "", format!("{key}:"));
}

fn pod(out: &mut String, pod: &Pod, description: &Description) {
    let (spec, status) = (
        pod.spec.clone().unwrap_or_default(),
        pod.status.clone().unwrap_or_default(),
    );
    let statuses = status.container_statuses.clone().unwrap_or_default();
    line(out, 0, "Name", pod.metadata.name.as_deref().unwrap_or_default());
    line(
        out,
        0,
        "Namespace",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
    );
    line(out, 0, "UID", pod.metadata.uid.as_deref().unwrap_or_default());
    line(out, 0, "Node", spec.node_name.as_deref().unwrap_or_default());
    line(
        out,
        0,
        "Start Time",
        &status.start_time.map(|time| time.0.to_string()).unwrap_or_default(),
    );
    line(out, 0, "Labels", &pairs(pod.metadata.labels.iter().flatten()));
    line(out, 0, "Annotations", &pairs(pod.metadata.annotations.iter().flatten()));
    line(out, 0, "Defined in", description.origin.as_deref().unwrap_or_default());
    line(out, 0, "Status", &super::row::pod_status(pod, &statuses));
    for (key, value) in [("Reason", &status.reason), ("Message", &status.message)] {
        if let Some(value) = value {
            line(out, 0, key, value);
        }
    }
    line(out, 0, "IP", status.pod_ip.as_deref().unwrap_or_default());
    line(out, 0, "QoS Class", status.qos_class.as_deref().unwrap_or_default());
    out.push_str("Containers:\n");
    for container in &spec.containers {
        container_text(
            out,
            container,
            statuses.iter().find(|status| status.name == container.name),
        );
    }
    out.push_str("Conditions:\n");
    for condition in status.conditions.iter().flatten() {
        let note = [condition.reason.as_deref(), condition.message.as_deref()];
        let note: Vec<&str> = note.into_iter().flatten().filter(|text| !text.is_empty()).collect();
        let _ = writeln!(out, "  {:28}{:8}{}", condition.type_, condition.status, note.join(": "));
    }
}

fn container_text(out: &mut String, container: &Container, status: Option<&ContainerStatus>) {
    let _ = writeln!(out, "  {}:", container.name);
    if let Some(status) = status {
        line(
            out,
            4,
            "Container ID",
            status.container_id.as_deref().unwrap_or_default(),
        );
    }
    line(out, 4, "Image", container.image.as_deref().unwrap_or_default());
    line(
        out,
        4,
        "Image ID",
        status.map(|status| status.image_id.as_str()).unwrap_or_default(),
    );
    let ports = container.ports.iter().flatten();
    let ports: Vec<String> = ports
        .map(|port| format!("{}/{}", port.container_port, port.protocol.as_deref().unwrap_or("TCP")))
        .collect();
    line(out, 4, "Ports", &ports.join(", "));
    for (key, words) in [("Command", &container.command), ("Args", &container.args)] {
        if let Some(words) = words {
            line(out, 4, key, &words.join(" "));
        }
    }
    if let Some(status) = status {
        state(out, "State", status.state.as_ref());
        if status
            .last_state
            .as_ref()
            .is_some_and(|state| state.terminated.is_some())
        {
            state(out, "Last State", status.last_state.as_ref());
        }
        line(out, 4, "Ready", if status.ready { "True" } else { "False" });
        line(out, 4, "Restart Count", &status.restart_count.to_string());
    }
    asked(out, container);
}

/// What the container asks for: resources and variables.
fn asked(out: &mut String, container: &Container) {
    let resources = container.resources.clone().unwrap_or_default();
    for (key, amounts) in [("Limits", resources.limits), ("Requests", resources.requests)] {
        if let Some(amounts) = amounts {
            line(
                out,
                4,
                key,
                &pairs(amounts.iter().map(|(name, amount)| (name, &amount.0))),
            );
        }
    }
    for variable in container.env.iter().flatten() {
        let value = variable.value.clone().unwrap_or_else(|| "<from elsewhere>".into());
        line(out, 4, "Environment", &format!("{}={value}", variable.name));
    }
}

fn state(out: &mut String, key: &str, state: Option<&ContainerState>) {
    let Some(state) = state else { return };
    let time = |time: Option<&Time>| time.map(|time| time.0.to_string()).unwrap_or_default();
    if let Some(running) = &state.running {
        line(out, 4, key, "Running");
        line(out, 6, "Started", &time(running.started_at.as_ref()));
    } else if let Some(ended) = &state.terminated {
        line(out, 4, key, "Terminated");
        reason(out, ended.reason.as_deref(), ended.message.as_deref());
        line(out, 6, "Exit Code", &ended.exit_code.to_string());
        line(out, 6, "Started", &time(ended.started_at.as_ref()));
        line(out, 6, "Finished", &time(ended.finished_at.as_ref()));
    } else if let Some(waiting) = &state.waiting {
        line(out, 4, key, "Waiting");
        reason(out, waiting.reason.as_deref(), waiting.message.as_deref());
    }
}

fn reason(out: &mut String, reason: Option<&str>, message: Option<&str>) {
    line(out, 6, "Reason", reason.unwrap_or_default());
    if let Some(message) = message {
        line(out, 6, "Message", message);
    }
}

fn service(out: &mut String, service: &Service, description: &Description) {
    let spec = service.spec.clone().unwrap_or_default();
    line(out, 0, "Name", service.metadata.name.as_deref().unwrap_or_default());
    line(
        out,
        0,
        "Namespace",
        service.metadata.namespace.as_deref().unwrap_or_default(),
    );
    line(out, 0, "Labels", &pairs(service.metadata.labels.iter().flatten()));
    line(out, 0, "Defined in", description.origin.as_deref().unwrap_or_default());
    line(out, 0, "Selector", &pairs(spec.selector.iter().flatten()));
    line(out, 0, "Type", spec.type_.as_deref().unwrap_or("ClusterIP"));
    line(out, 0, "IP", spec.cluster_ip.as_deref().unwrap_or_default());
    for port in &description.ports {
        line(out, 0, "Port", &port.port);
        line(out, 0, "Endpoints", &port.endpoints.join(","));
        let counters: Vec<String> = port
            .counters
            .iter()
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        line(out, 0, "Connections", &counters.join(", "));
    }
    for condition in service
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
    {
        line(out, 0, "Problem", &condition.message);
    }
}

fn node(out: &mut String, node: &Node, description: &Description) {
    let status = node.status.clone().unwrap_or_default();
    line(out, 0, "Name", node.metadata.name.as_deref().unwrap_or_default());
    line(out, 0, "Labels", &pairs(node.metadata.labels.iter().flatten()));
    out.push_str("Conditions:\n");
    for condition in status.conditions.iter().flatten() {
        let message = condition.message.as_deref().unwrap_or_default();
        let _ = writeln!(out, "  {:18}{:8}{message}", condition.type_, condition.status);
    }
    for address in status.addresses.iter().flatten() {
        line(out, 0, &address.type_, &address.address);
    }
    line(
        out,
        0,
        "Capacity",
        &pairs(status.capacity.iter().flatten().map(|(name, amount)| (name, &amount.0))),
    );
    if let Some(info) = &status.node_info {
        line(out, 0, "Kernel", &info.kernel_version);
        line(out, 0, "OS Image", &info.os_image);
        line(out, 0, "Agent", &info.kubelet_version);
    }
    if !description.manifests.is_empty() {
        out.push_str("Manifest errors:\n");
        for error in description.manifests.iter().flat_map(|manifest| &manifest.errors) {
            let _ = writeln!(out, "  {error}");
        }
    }
}

fn events(out: &mut String, events: &[Event], now: Timestamp) {
    if events.is_empty() {
        out.push_str("Events:           <none>\n");
        return;
    }
    out.push_str("Events:\n");
    let rows: Vec<Vec<String>> = events.iter().map(|event| event_row(event, now)).collect();
    for row in table::render(&["Type", "Reason", "Age", "Message"], &rows).lines() {
        let _ = writeln!(out, "  {row}");
    }
}

fn event_row(event: &Event, now: Timestamp) -> Vec<String> {
    let kind = match event.kind {
        Kind::Normal => "Normal",
        Kind::Warning => "Warning",
    };
    let last = table::age(Some(event.last_seen), now);
    let age = match event.count {
        1 => last,
        count => format!("{last} (x{count} over {})", table::age(Some(event.first_seen), now)),
    };
    vec![kind.into(), event.reason.clone(), age, event.message.clone()]
}

fn pairs<'a>(pairs: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    pairs
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(", ")
}
