//! `orlop-cni`: the CNI plugin binary.
#![forbid(unsafe_code)]

fn main() {}
