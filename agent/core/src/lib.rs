//! What the agent decides: facts and time in, steps out. No tokio, nix, file system or clock in here.
//!
//! [`manifest`] reads what the user wrote, [`pod`] decides what is done for one pod, [`service`] where Services lead.
#![forbid(unsafe_code)]

mod fault;
pub mod manifest;
pub mod network;
pub mod pod;
pub mod service;
mod syntax;

pub use fault::FieldError;
