//! `linux.sysctl`: kernel parameters that belong to one of the container's own namespaces.

use std::collections::HashMap;

use super::namespaces::Namespaces;
use crate::plan::{FieldError, Steps, c_string};
use crate::step::InitStep;

/// Parameters of the IPC namespace (sysctl/kernel.rst of the kernel's documentation).
const IPC: [&str; 8] = [
    "msgmax",
    "msgmnb",
    "msgmni",
    "sem",
    "shmall",
    "shmmax",
    "shmmni",
    "shm_rmid_forced",
];

/// Plans them in the order of their names. One that would change the host is refused.
pub(crate) fn plan(
    values: &HashMap<String, String>,
    namespaces: &Namespaces,
    steps: &mut Steps,
) -> Result<(), FieldError> {
    let mut sorted: Vec<_> = values.iter().collect();
    sorted.sort();
    for (name, value) in sorted {
        let field = format!("linux.sysctl.{name}");
        let path = path(name);
        check(&field, &path, namespaces)?;
        let file = c_string(&field, format!("sys/{path}").as_ref())?;
        let value = c_string(&field, value.as_ref())?;
        steps.push(
            &field,
            InitStep::WriteSysctl {
                name: name.clone(),
                file,
                value,
            },
        );
    }
    Ok(())
}

/// sysctl(8): the first separator decides; with a dot, dots and slashes change places.
fn path(name: &str) -> String {
    match name.find(['.', '/']).and_then(|first| name.as_bytes().get(first)) {
        Some(b'.') => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn check(field: &str, path: &str, namespaces: &Namespaces) -> Result<(), FieldError> {
    let names: Vec<_> = path.split('/').collect();
    if names.iter().any(|name| matches!(*name, "" | "." | "..")) {
        return Err(FieldError::new(field, "is not the name of a sysctl"));
    }
    let (namespace, called) = match names.as_slice() {
        ["net", ..] => (libc::CLONE_NEWNET, "network"),
        ["fs", "mqueue", ..] => (libc::CLONE_NEWIPC, "ipc"),
        ["kernel", name] if IPC.contains(name) => (libc::CLONE_NEWIPC, "ipc"),
        ["kernel", "domainname"] => (libc::CLONE_NEWUTS, "uts"),
        _ => {
            return Err(FieldError::new(
                field,
                "does not belong to a namespace; it would change the host",
            ));
        }
    };
    if namespaces.has(namespace) {
        return Ok(());
    }
    Err(FieldError::new(
        field,
        format!("needs a {called} namespace; it would change the host"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths_as_sysctl_does_it() {
        for (name, expected) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("kernel", "kernel"),
        ] {
            assert_eq!(path(name), expected);
        }
    }
}
