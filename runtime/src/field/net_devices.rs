//! `linux.netDevices`: devices of the host that move into the container.

use std::collections::BTreeSet;

use oci_spec::runtime::Linux;

use super::namespaces::Namespaces;
use crate::plan::FieldError;

/// Longest name of a device (`IFNAMSIZ` without the null byte).
const NAME_LIMIT: usize = 15;

/// A device and what it is called in the container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NetDevice {
    pub(crate) outside: String,
    pub(crate) inside: String,
}

/// The devices by their names outside.
pub(crate) fn of(linux: &Linux, namespaces: &Namespaces) -> Result<Vec<NetDevice>, FieldError> {
    let mut devices = Vec::new();
    let mut taken = BTreeSet::new();
    for (outside, device) in linux.net_devices().iter().flatten() {
        let inside = device
            .name()
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or(outside);
        let refuse = |reason: String| FieldError::new(format!("linux.netDevices[{outside}]"), reason);
        if !namespaces.has(libc::CLONE_NEWNET) {
            return Err(refuse("needs a network namespace to move to".into()));
        }
        if let Some(name) = [outside, inside].into_iter().find(|name| !is_name(name)) {
            return Err(refuse(format!("{name:?} is no name of a network device")));
        }
        if !taken.insert(inside) {
            return Err(refuse(format!(
                "another device is called {inside} in the container, too"
            )));
        }
        devices.push(NetDevice {
            outside: outside.clone(),
            inside: inside.to_owned(),
        });
    }
    devices.sort();
    Ok(devices)
}

/// As the kernel takes them (`dev_valid_name` in net/core/dev.c); a `%` asks it for a number.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    !matches!(name, "" | "." | "..") && name.len() <= NAME_LIMIT && name.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
    use serde_json::json;

    use super::*;

    fn devices(json: &serde_json::Value) -> Result<Vec<NetDevice>, FieldError> {
        let linux: Linux = serde_json::from_value(json!({ "netDevices": json })).unwrap();
        let mut list = vec![LinuxNamespace::default(), LinuxNamespace::default()];
        list[0].set_typ(LinuxNamespaceType::Mount);
        list[1].set_typ(LinuxNamespaceType::Network);
        of(&linux, &Namespaces::of(&list).unwrap())
    }

    #[test]
    fn a_device_keeps_its_name_unless_it_gets_another() {
        let found = devices(&json!({ "eth1": {}, "eth0": { "name": "c0" } })).unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|device| (device.outside.as_str(), device.inside.as_str()))
            .collect();
        assert_eq!(names, [("eth0", "c0"), ("eth1", "eth1")]);
    }

    #[test]
    fn names_that_are_none_and_names_that_are_taken_are_refused() {
        for json in [
            json!({ "a/b": {} }),
            json!({ "eth0": { "name": "0123456789abcdef" } }),
            json!({ "eth0": { "name": ".." } }),
            json!({ "eth0": { "name": "e%d" } }),
            json!({ "eth0": { "name": "x" }, "eth1": { "name": "x" } }),
        ] {
            assert!(devices(&json).is_err(), "{json}");
        }
    }
}
