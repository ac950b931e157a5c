//! OCI runtime: plans a container from its spec, creates it with one `clone3`, and supervises it per pod.
//!
//! Synchronous and single-threaded; it knows nothing of pods in a cluster, images or networks.
//!
//! | module | what it is |
//! |---|---|
//! | [`plan`] | OCI spec in, flat list of steps out; decides everything before the clone |
//! | [`container`] | the OCI verbs: create, start, exec, kill, wait |
//! | [`cgroup`] | the cgroup v2 tree: create, limit, freeze, kill, watch |
//! | [`guard`] | the guards against known attacks, by name |
//! | [`proto`] | what the agent and a podshim say to each other |
//! | [`client`] | the agent's side of a podshim's socket |
//! | [`sys`] | thin wrappers of system calls, the only home of `unsafe` |
#![deny(unsafe_code)]

/// The newest version of the OCI runtime specification that is honoured.
pub const SPEC_VERSION: &str = "1.3.0";

pub mod cgroup;
pub mod client;
pub mod container;
pub mod guard;
pub mod plan;
pub mod proto;
pub mod shim;
pub mod spec;
pub mod sys;

mod container_path;
pub mod criu;
mod field;
mod filter;
#[cfg(feature = "floor")]
pub mod floor;
mod home;
mod init;
mod mapping;
mod netlink;
mod prepare;
mod privileges;
mod proc;
#[cfg(test)]
mod random;
mod report;
mod resctrl;
mod security;
mod step;
mod tree;

pub use field::capabilities::capabilities_of;
