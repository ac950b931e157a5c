//! Settings that netlink can't make, through `/proc/sys/net` of the calling thread's network namespace.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const IPV6_CONF: &str = "/proc/sys/net/ipv6/conf";

/// Why a setting was not made.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The kernel does not take it.
    #[error("write {value} to {path}")]
    Write {
        /// The setting's file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// What it was before can't be written down or read.
    #[error("use the record of settings {path}")]
    Record {
        /// The record.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Lets a pod's link forward IPv6, or keeps IPv6 off it; in both cases the pod can't give the node routes by router
/// advertisements (CVE-2020-10749).
///
/// # Errors
/// When a setting exists and can't be made.
pub(crate) fn guard_link(link: &str, has_ipv6: bool) -> Result<(), SysctlError> {
    let set = |key: &str, value| write(&Path::new(IPV6_CONF).join(link).join(key), value).map(drop);
    if !has_ipv6 {
        return set("disable_ipv6", "1");
    }
    set("accept_ra", "0")?;
    // An inspector asks for routes, which the kernel answers on links that forward by this name alone.
    set("forwarding", "1")?;
    set("force_forwarding", "1")
}

/// A setting's value, where the kernel has it.
pub(crate) fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|value| value.trim().to_owned())
}

/// Answers whether the kernel has the setting.
///
/// # Errors
/// When it has, and does not take the value.
pub(crate) fn write(path: &Path, value: &str) -> Result<bool, SysctlError> {
    match fs::write(path, value) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(SysctlError::Write {
            path: path.into(),
            value: value.to_owned(),
            source,
        }),
    }
}
