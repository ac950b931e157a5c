//! The pod network: addresses, links and routes of pods, as a library and as a CNI plugin.
#![forbid(unsafe_code)]
