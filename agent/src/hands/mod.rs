//! The hands: each file owns one outside system. Nothing here decides.

pub mod maps;
