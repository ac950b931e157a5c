//! `orlop services`: how Services are answered on this node, from the kernel's maps.

use std::net::{IpAddr, SocketAddr};

use clap::{Args, Subcommand};

use super::client::Client;
use super::table;
use crate::services::detail::{PortDetail, Trace};

/// Show how Services are answered: addresses, backends, weights, drops, clients that keep to a backend
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Services {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// The Service; all of the namespace without one
    name: Option<String>,
    #[command(flatten)]
    namespace: super::Namespace,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Tell what a new connection would meet, and why
    Trace {
        /// Who connects: an address of the node, of a pod, or of a client outside
        source: IpAddr,
        /// Whom they connect to
        #[arg(value_name = "ADDRESS:PORT")]
        destination: SocketAddr,
        /// TCP, UDP or SCTP
        #[arg(long, default_value = "TCP", ignore_case = true, value_parser = ["TCP", "UDP", "SCTP"])]
        protocol: String,
    },
}

impl Services {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        match &self.verb {
            Some(Verb::Trace {
                source,
                destination,
                protocol,
            }) => {
                let (address, port) = (destination.ip(), destination.port());
                let protocol = protocol.to_uppercase();
                let path = format!("/v1/services/trace/{protocol}/{source}/{address}/{port}");
                let trace: Trace = client.get(&path).await?;
                super::print(&trace.lines.join("\n"))
            }
            None => self.show(client).await,
        }
    }

    async fn show(&self, client: &Client) -> anyhow::Result<()> {
        let all: Vec<PortDetail> = client.get("/v1/services/details").await?;
        let is_meant = |port: &&PortDetail| {
            port.namespace == self.namespace.namespace && self.name.as_ref().is_none_or(|name| *name == port.service)
        };
        let meant: Vec<&PortDetail> = all.iter().filter(is_meant).collect();
        if meant.is_empty() {
            let whose = self
                .name
                .as_deref()
                .map_or("no Services".into(), |name| format!("no Service {name:?}"));
            anyhow::bail!("{whose} with an address in namespace {:?}", self.namespace.namespace);
        }
        let texts: Vec<String> = meant.into_iter().map(text).collect();
        super::print(&texts.join("\n"))
    }
}

fn text(port: &PortDetail) -> String {
    let rows: Vec<Vec<String>> = port
        .frontends
        .iter()
        .map(|frontend| {
            let backends: Vec<String> = frontend
                .backends
                .iter()
                .map(|(backend, weight)| format!("{backend} ({weight:.0}%)"))
                .collect();
            let or_none = |text: String| if text.is_empty() { "<none>".into() } else { text };
            vec![
                frontend.address.clone(),
                frontend.kind.clone(),
                frontend.scope.clone(),
                or_none(backends.join(" ")),
                frontend.rules.join("; "),
            ]
        })
        .collect();
    let counters: Vec<String> = port
        .counters
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let mut text = format!("{} {}\n", port.service, port.port);
    text += &table::render(&["ADDRESS", "KIND", "FOR", "BACKENDS", "RULES"], &rows);
    text += &format!(
        "connections: {}; flows from outside: {}\n",
        counters.join(", "),
        port.flows
    );
    for (client, backend, silent) in &port.affinities {
        text += &format!("client {client} keeps to {backend}, heard of {silent} s ago\n");
    }
    text
}
