//! The IPv6 settings that netlink can't make, through `/proc/sys/net` of the calling thread's network namespace.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const IPV6_CONF: &str = "/proc/sys/net/ipv6/conf";

/// Why a setting was not made.
#[derive(Debug, thiserror::Error)]
#[error("write {value} to {path}")]
pub struct SysctlError {
    /// The setting's file.
    pub path: PathBuf,
    /// What was to be written.
    pub value: &'static str,
    /// Why.
    pub source: io::Error,
}

/// Lets a pod's link forward IPv6, or keeps IPv6 off it; in both cases the pod can't give the node routes by router
/// advertisements (CVE-2020-10749).
///
/// # Errors
/// When a setting exists and can't be made.
pub(crate) fn guard_link(link: &str, has_ipv6: bool) -> Result<(), SysctlError> {
    if !has_ipv6 {
        return set(link, "disable_ipv6", "1").map(drop);
    }
    set(link, "accept_ra", "0")?;
    // An inspector asks for routes, which the kernel answers on links that forward by this name alone.
    set(link, "forwarding", "1")?;
    set(link, "force_forwarding", "1").map(drop)
}

/// Lets the node forward IPv4 on all its links.
///
/// # Errors
/// When the setting can't be made.
pub(crate) fn forward_ipv4() -> Result<(), SysctlError> {
    let path = PathBuf::from("/proc/sys/net/ipv4/ip_forward");
    if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
        return Ok(());
    }
    let value = "1";
    fs::write(&path, value).map_err(|source| SysctlError { path, value, source })
}

/// Lets the node forward IPv6: on all its links when pods leave it, and where the kernel can't do so link by link (before
/// 6.17). Interfaces that get their routes
/// from router advertisements go on doing so, which a forwarding node would otherwise stop.
///
/// # Errors
/// When a setting exists and can't be made.
pub(crate) fn forward_ipv6(on_all_links: bool) -> Result<(), SysctlError> {
    let by_link = !on_all_links && Path::new(IPV6_CONF).join("all/force_forwarding").exists();
    if by_link || value("all", "forwarding").as_deref() == Some("1") {
        return Ok(());
    }
    for link in fs::read_dir(IPV6_CONF).into_iter().flatten().flatten() {
        let link = link.file_name().to_string_lossy().into_owned();
        if value(&link, "accept_ra").as_deref() == Some("1") {
            set(&link, "accept_ra", "2")?;
        }
    }
    set("all", "forwarding", "1").map(drop)
}

fn value(link: &str, key: &str) -> Option<String> {
    fs::read_to_string(Path::new(IPV6_CONF).join(link).join(key))
        .ok()
        .map(|value| value.trim().to_owned())
}

/// Answers whether the kernel has the setting.
fn set(link: &str, key: &str, value: &'static str) -> Result<bool, SysctlError> {
    let path = Path::new(IPV6_CONF).join(link).join(key);
    match fs::write(&path, value) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(SysctlError { path, value, source }),
    }
}
