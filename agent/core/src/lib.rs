//! What the agent decides: facts and time in, steps out. No tokio, nix, file system or clock in here.
#![forbid(unsafe_code)]
