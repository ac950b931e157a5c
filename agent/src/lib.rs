//! The node agent: sources of manifests, one task per pod, the hands that touch the world, and the local command line.
//!
//! It decides nothing about pods or services: that is `agent-core`. It never forks: pods live under `podshim`.
#![forbid(unsafe_code)]

pub mod config;
pub mod hands;
pub mod image;
pub mod services;
