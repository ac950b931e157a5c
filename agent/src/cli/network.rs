//! `orlop network [POD]`: the pod network as the kernel has it; `orlop network check` mends it.

use std::fmt::Write;

use anyhow::bail;
use clap::Args;
use hyper::Method;

use super::client::{self, Client};
use super::table::render;
use crate::server::message::{NetworkCheck, NetworkPod, NetworkView};

/// Show the pod network: addresses, links, peers, what was dropped; or check it
#[derive(Args, Debug)]
pub(super) struct Network {
    /// A pod, as NAME, NAMESPACE/NAME, uid or container id; or the word check, to remove what no pod uses
    pod: Option<String>,
}

impl Network {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        if self.pod.as_deref() == Some("check") {
            let check: NetworkCheck = client.json(Method::POST, "/v1/network/check", client::empty()).await?;
            return super::print(&format!(
                "removed {} links and {} ports of pods that are gone\n",
                check.links, check.ports
            ));
        }
        let mut view: NetworkView = client.get("/v1/network").await?;
        let Some(pod) = self.pod else {
            return super::print(&(pods(&view.pods) + &rest(&view)?));
        };
        view.pods.retain(|attached| is_named(attached, &pod));
        if view.pods.is_empty() {
            bail!("no pod {pod} is attached");
        }
        super::print(&(pods(&view.pods) + &aliases(&view.pods)))
    }
}

/// A line for each pod that has any.
fn aliases(pods: &[NetworkPod]) -> String {
    let named = pods.iter().filter(|pod| !pod.aliases.is_empty());
    let line = |pod: &NetworkPod| format!("{} by name: {}\n", pod.container_id, pod.aliases.join(", "));
    named.map(line).collect()
}

fn is_named(attached: &NetworkPod, pod: &str) -> bool {
    let name = attached.name.as_deref().unwrap_or_default();
    attached.container_id == pod || name == pod || name.split_once('/').is_some_and(|(_, name)| name == pod)
}

fn pods(pods: &[NetworkPod]) -> String {
    let headings = [
        "POD",
        "NETWORK",
        "ADDRESSES",
        "LINK",
        "MAC",
        "MTU",
        "INGRESS",
        "EGRESS",
        "PORTS",
        "COMPLETE",
    ];
    let limit = |bits: Option<u64>| bits.map_or_else(|| "-".to_owned(), bits_per_second);
    let row = |pod: &NetworkPod| {
        let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        vec![
            pod.name.clone().unwrap_or_else(|| pod.container_id.clone()),
            pod.network.clone(),
            addresses.join(","),
            pod.link.clone(),
            pod.mac.clone(),
            pod.mtu.to_string(),
            limit(pod.ingress),
            limit(pod.egress),
            pod.ports.to_string(),
            pod.complete.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = pods.iter().map(row).collect();
    render(&headings, &rows)
}

/// As annotations write it: `8M`.
fn bits_per_second(bits: u64) -> String {
    let units = [("P", 15), ("T", 12), ("G", 9), ("M", 6), ("k", 3)];
    let whole = units
        .into_iter()
        .find(|(_, power)| bits.is_multiple_of(10_u64.pow(*power)));
    whole.map_or_else(
        || bits.to_string(),
        |(unit, power)| format!("{}{unit}", bits / 10_u64.pow(power)),
    )
}

fn rest(view: &NetworkView) -> anyhow::Result<String> {
    let mut text = String::new();
    writeln!(text, "\nnode: {}", view.pod_cidrs.join(", "))?;
    for peer in &view.peers {
        let addresses: Vec<String> = peer.addresses.iter().map(ToString::to_string).collect();
        writeln!(text, "peer: {} by {}", peer.pod_cidrs.join(", "), addresses.join(", "))?;
    }
    for (what, number) in &view.counts {
        writeln!(text, "packets {what}: {number}")?;
    }
    Ok(text)
}
