//! One file per part of the OCI spec: what the spec says in, steps out. Pure: nothing is opened or asked here.

pub(crate) mod architecture;
pub(crate) mod capabilities;
pub(crate) mod devices;
pub(crate) mod honoured;
pub(crate) mod intel_rdt;
pub(crate) mod labels;
pub(crate) mod mount_options;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod net_devices;
pub(crate) mod number_list;
pub(crate) mod paths;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod rlimits;
pub(crate) mod rootfs;
pub(crate) mod scheduling;
pub(crate) mod seccomp;
pub(crate) mod sysctl;
pub(crate) mod time;
pub(crate) mod user;
