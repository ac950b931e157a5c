//! The node agent: sources of manifests, one task per pod, the hands that touch the world, and the local command line.
//!
//! It decides nothing about pods or services: that is `agent-core`. It never forks: pods live under `podshim`.
//!
//! | module | what it is |
//! |---|---|
//! | [`run`] | wires everything together; the only place that sees all of it |
//! | [`sources`] | manifests in, wanted objects out |
//! | [`pods`], [`pod_task`] | one task per pod: look, plan, perform, look again |
//! | [`observe`] | gathers what the node says about a pod |
//! | [`hands`] | performs steps, one outside system a file |
//! | [`services`] | keeps the kernel's Service maps right |
//! | [`image`] | the image store |
//! | [`server`], [`cli`] | the local API and its command line |
//! | [`orphans`], [`cleanup`] | remove what pods left whose records are gone; and all that an agent left |
#![forbid(unsafe_code)]

mod accept;
pub mod cleanup;
pub mod cli;
pub mod config;
pub mod events;
pub mod hands;
mod host_ports;
pub mod image;
pub mod node;
pub mod observe;
pub mod orphans;
pub mod paths;
pub mod pod_task;
pub mod pods;
pub mod record;
pub mod run;
pub mod server;
pub mod service_env;
pub mod services;
pub mod sources;
pub mod status;
