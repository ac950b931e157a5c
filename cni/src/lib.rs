//! The pod network: addresses, links and routes of pods, as a library and as a CNI plugin.
//!
//! Start at [`pod_network`]: it looks at the kernel, asks [`plan`] for [`step`]s and has [`netlink`] do them. There is no
//! database. An address is held by the one link that bears it as an alternative name, which the kernel keeps unique; a
//! link that is gone holds nothing. [`plugin`] is the same by CNI's verbs.
#![forbid(unsafe_code)]

pub mod answer;
mod attach;
pub mod bandwidth;
pub mod cidr;
pub mod config;
pub mod detours;
pub mod firewall;
mod forwarding;
mod hints;
pub mod identity;
pub mod ipam;
pub mod lease;
pub mod mapping;
pub mod message;
mod names;
pub mod netfilter;
pub mod netlink;
pub mod netns;
pub mod nft;
mod node_network;
mod observe;
pub mod pacer;
pub mod plan;
pub mod plugin;
pub mod pod_network;
mod ports;
pub mod protocol;
pub mod relay;
pub mod served;
pub mod step;
mod sysctl;
pub mod wishes;
