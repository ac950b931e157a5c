//! The OCI runtime on the real kernel, through `orlop-oci` and bundles of the host's static busybox.
//!
//! `orlop-oci` is a debug build here: it aborts when anything is allocated between clone and exec, so that every
//! container of these tests proves that nothing is.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests panic like the tests")]

mod attack;
mod bundle;
mod cgroup;
mod checkpoint;
mod crio;
mod describe;
mod detached;
mod door;
mod escape;
mod exec;
mod filesystem;
mod hooks;
mod labels;
mod lifecycle;
mod limits;
mod mounts;
mod namespaces;
mod peer;
mod process;
mod refused;
mod rest;
mod scheduling;
mod seccomp;
mod selinux;
mod systemd;
mod time;
mod user;
mod verbs;
