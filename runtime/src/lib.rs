//! OCI runtime: plans a container from its spec, creates it with one `clone3`, and supervises it per pod.
//!
//! Synchronous and single-threaded; it knows nothing of pods in a cluster, images or networks.
#![deny(unsafe_code)]
