//! Settings that netlink can't make, through `/proc/sys/net` of the calling thread's network namespace.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
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

/// Keeps the pod from giving the node routes by router advertisements (CVE-2020-10749), and lets its link forward IPv6 when
/// the pod has any.
///
/// The kernel takes its lock of all links for the latter two by asking for it over and over, which keeps a processor busy
/// while others attach pods. So they are written where they are not as they should be, and never to turn IPv6 off: what a
/// pod without it sends all the same has no source that is routed to its link, and is dropped before anything looks at it.
///
/// # Errors
/// When a setting exists and can't be made.
pub(crate) fn guard_link(link: &str, has_ipv6: bool) -> Result<(), SysctlError> {
    write(&setting(link, "accept_ra"), "0")?;
    if !has_ipv6 {
        return Ok(());
    }
    enable_ipv6(link)?;
    // An inspector asks for routes, which the kernel answers on links that forward by this name alone.
    let (forwarding, by_force) = (setting(link, "forwarding"), setting(link, "force_forwarding"));
    if !is_on(&forwarding) {
        write(&forwarding, "1")?;
    }
    if !is_on(&setting("all", "forwarding")) && !is_on(&by_force) {
        write(&by_force, "1")?;
    }
    Ok(())
}

/// Lets `lo` and the pod's end of its link have IPv6 addresses, wherever the namespace was made by somebody who turned IPv6
/// off in it, and keep them when the link is taken down or given to a VRF; as the reference plugins do. For a thread in the
/// pod's namespace.
///
/// # Errors
/// When a setting exists and can't be made.
pub(crate) fn allow_ipv6(ifname: &str) -> Result<(), SysctlError> {
    enable_ipv6("lo")?;
    enable_ipv6(ifname)?;
    write(&setting(ifname, "keep_addr_on_down"), "1").map(drop)
}

/// The kernel takes its lock of all links to write this one, too.
fn enable_ipv6(link: &str) -> Result<(), SysctlError> {
    let switch = setting(link, "disable_ipv6");
    if is_on(&switch) {
        write(&switch, "0")?;
    }
    Ok(())
}

fn setting(of: &str, key: &str) -> PathBuf {
    Path::new(IPV6_CONF).join(of).join(key)
}

fn is_on(path: &Path) -> bool {
    read(path).as_deref() == Some("1")
}

/// A setting's value, where the kernel has it. It is a number or a few, and read whole at once.
pub(crate) fn read(path: &Path) -> Option<String> {
    const BYTES_MAX: usize = 64;
    let mut bytes = [0; BYTES_MAX];
    let length = File::open(path).and_then(|mut file| file.read(&mut bytes)).ok()?;
    let value = str::from_utf8(bytes.get(..length)?).ok()?;
    Some(value.trim().to_owned())
}

/// Answers whether the kernel has the setting.
///
/// # Errors
/// When it has, and does not take the value.
pub(crate) fn write(path: &Path, value: &str) -> Result<bool, SysctlError> {
    // As a file that is made or cut where need be, it would be opened for a price that the whole rest has.
    let opened = OpenOptions::new().write(true).open(path);
    match opened.and_then(|mut file| file.write_all(value.as_bytes())) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(SysctlError::Write {
            path: path.into(),
            value: value.to_owned(),
            source,
        }),
    }
}
