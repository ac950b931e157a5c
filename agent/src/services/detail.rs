//! What is said of a Service in full, and of a connection that might be made: `orlop services`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use agent_core::service::image::number;
use agent_core::service::table::{Entry, Frontend, Kind, Scope};
use agent_core::service::{Protocol, ServicePort};
use ebpf_common::lookup::{Choice, Drop};
use ebpf_common::maps::Traits;
use serde::{Deserialize, Serialize};

use super::{Keeper, UpdateError, node};
use crate::hands::maps::look::{Finding, Question};

/// One port of a Service.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortDetail {
    /// Its Service's namespace.
    pub namespace: String,
    /// Its Service's name.
    pub service: String,
    /// `80/TCP`.
    pub port: String,
    /// Where clients connect to.
    pub frontends: Vec<FrontendDetail>,
    /// Counted in the kernel, by what became of the connections.
    pub counters: BTreeMap<String, u64>,
    /// Clients that keep to a backend, the backend, and the seconds since they were heard of.
    pub affinities: Vec<(String, String, u32)>,
    /// Flows of clients outside that are remembered.
    pub flows: usize,
}

/// One address of a port.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendDetail {
    /// Address and port.
    pub address: String,
    /// What it is of the Service.
    pub kind: String,
    /// For whom: sockets of the node, or packets from outside.
    pub scope: String,
    /// Its backends and their weights, in hundredths of all connections.
    pub backends: Vec<(String, f64)>,
    /// What else holds, one sentence each.
    pub rules: Vec<String>,
}

/// What would become of a connection.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Trace {
    /// What would happen, one line each, from the program that is met to the backend.
    pub lines: Vec<String>,
}

impl Keeper {
    pub(super) fn details(&self) -> Result<Vec<PortDetail>, UpdateError> {
        let mut frontends: BTreeMap<&ServicePort, Vec<FrontendDetail>> = BTreeMap::new();
        for (frontend, entry) in self.table.frontends.iter().chain(&self.host_ports.frontends) {
            frontends.entry(&entry.owner).or_default().push(detail(frontend, entry));
        }
        let flows = self.maps.flow_counts()?;
        let counters = self.counters()?;
        let of_port = |(owner, frontends): (&ServicePort, Vec<FrontendDetail>)| {
            let id = self.ledger.ids().get(owner).copied().unwrap_or(0);
            let affinities = self.maps.affinities(id)?;
            let now = node::seconds_since_boot();
            Ok(PortDetail {
                namespace: owner.service.namespace.to_string(),
                service: owner.service.name.to_string(),
                port: format!("{}/{}", owner.port, owner.protocol),
                frontends,
                counters: counters
                    .of(id)
                    .named()
                    .into_iter()
                    .map(|(name, count)| (name.into(), count))
                    .collect(),
                affinities: affinities
                    .iter()
                    .map(|(key, value)| {
                        let backend = value.backend();
                        let backend = SocketAddr::new(backend.ip(), u16::from_be(backend.port));
                        (
                            key.client().to_string(),
                            backend.to_string(),
                            now.wrapping_sub(value.last),
                        )
                    })
                    .collect(),
                flows: flows.get(&id).copied().unwrap_or(0),
            })
        };
        frontends.into_iter().map(of_port).collect()
    }

    pub(super) fn trace(&self, question: &Question) -> Result<Trace, UpdateError> {
        let finding = self.maps.look(question, node::seconds_since_boot())?;
        Ok(Trace {
            lines: self.explain(question, &finding),
        })
    }

    fn explain(&self, question: &Question, finding: &Finding) -> Vec<String> {
        let mut lines = vec![program(question, finding)];
        let Some(service) = finding.service else {
            lines.push(format!(
                "{} is no Service's: it goes where it wants to go",
                question.destination
            ));
            return lines;
        };
        let owner = self.ledger.ids().iter().find(|(_, id)| **id == service.id);
        let owner = owner.map_or_else(
            || format!("id {}", service.id),
            |(owner, _)| match self.host_ports.pods.contains_key(&owner.service) {
                true => format!("{}, port {}/{} of the node", owner.service, owner.port, owner.protocol),
                false => format!("Service {} port {}/{}", owner.service, owner.port, owner.protocol),
            },
        );
        lines.push(format!("{} belongs to {owner}", question.destination));
        if let Some((backend, silent)) = finding.kept {
            lines.push(format!(
                "the client was given {backend} and last heard of {silent} s ago"
            ));
        }
        lines.push(outcome(finding));
        lines
    }
}

fn detail(frontend: &Frontend, entry: &Entry) -> FrontendDetail {
    let rules = &entry.rules;
    let weight = 100.0 / f64::from(u32::try_from(entry.backends.len()).unwrap_or(u32::MAX).max(1));
    let mut sentences = Vec::new();
    if let Some(seconds) = rules.affinity {
        sentences.push(format!("a client keeps its backend for {seconds} s"));
    }
    if let Some(ranges) = &rules.ranges {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        sentences.push(format!("clients come from {}", ranges.join(", ")));
    }
    for (holds, sentence) in [
        (rules.local, "backends of this node only"),
        (
            rules.drops,
            "there are backends, but none for it: connections are dropped",
        ),
        (rules.node_only, "for the node itself only"),
        (
            rules.direct,
            "backends on other nodes answer clients outside themselves",
        ),
        (rules.maglev, "flows fall on backends by a Maglev table"),
    ] {
        if holds {
            sentences.push(sentence.into());
        }
    }
    FrontendDetail {
        address: frontend.address.to_string(),
        kind: match entry.kind {
            Kind::ClusterIp => "ClusterIP",
            Kind::NodePort => "NodePort",
            Kind::LoadBalancer => "LoadBalancer",
            Kind::ExternalIp => "ExternalIP",
            Kind::HostPort => "HostPort",
        }
        .into(),
        scope: match frontend.scope {
            Scope::Inside => "inside",
            Scope::Outside => "outside",
        }
        .into(),
        backends: entry
            .backends
            .iter()
            .map(|backend| (backend.to_string(), weight))
            .collect(),
        rules: sentences,
    }
}

fn program(question: &Question, finding: &Finding) -> String {
    let family = if question.destination.is_ipv6() { 6 } else { 4 };
    match finding.scope {
        Scope::Outside => format!(
            "{} is outside: its packet meets outside_arriving at an uplink",
            question.source
        ),
        Scope::Inside => {
            let who = if finding.is_node {
                "the node"
            } else {
                "a pod of this node"
            };
            if question.protocol == number(Protocol::Sctp) {
                let met = if finding.is_node {
                    "node_arriving at lo"
                } else {
                    "inside_arriving at its link"
                };
                return format!("{} is {who}: its packet meets {met}", question.source);
            }
            let hooks = if question.protocol == number(Protocol::Udp) {
                "connect, or sendmsg if it does not connect"
            } else {
                "connect"
            };
            format!(
                "{} is {who}: its socket meets service_connect{family} ({hooks})",
                question.source
            )
        }
    }
}

fn outcome(finding: &Finding) -> String {
    match &finding.choice {
        Choice::NotAService => "the address is for the node itself only: it goes where it wants to go".into(),
        Choice::Refused { .. } => "no endpoint: the connection is refused".into(),
        Choice::Dropped {
            why: Drop::NoLocalBackend,
            ..
        } => "the policy is Local and no endpoint is on this node: the connection is dropped".into(),
        Choice::Dropped {
            why: Drop::NotAllowed, ..
        } => "the client is in none of the source ranges: the connection is dropped".into(),
        Choice::Backend { backend, traits, .. } => {
            let backend = SocketAddr::new(backend.ip(), u16::from_be(backend.port));
            let is_kept = finding.kept.is_some_and(|(kept, _)| kept == backend);
            let mut all: Vec<String> = finding.slots.iter().map(ToString::to_string).collect();
            all.dedup();
            match traits {
                traits if traits.has(Traits::STICKY) && is_kept => format!("it keeps to {backend}"),
                traits if traits.has(Traits::MAGLEV) => {
                    all.sort_unstable();
                    all.dedup();
                    format!("its flow's hash gives one of {}", all.join(", "))
                }
                _ => format!("it gets, at random, one of {}", all.join(", ")),
            }
        }
    }
}
