//! `cargo xtask`: set-up, build, demo, tests, VM, benchmarks.
#![forbid(unsafe_code)]

fn main() {}
