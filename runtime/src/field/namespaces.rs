//! `linux.namespaces`: which are new, which are joined.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use crate::plan::{FieldError, Steps};
use crate::step::{InitStep, NamespaceFile};

/// The namespaces of a container.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` of each that is listed, and its path when it is joined.
    listed: BTreeMap<libc::c_int, Option<PathBuf>>,
}

impl Namespaces {
    /// Reads the list. A mount namespace of its own is what makes a container; user and time namespaces are not
    /// honoured.
    pub(crate) fn of(list: &[LinuxNamespace]) -> Result<Self, FieldError> {
        let mut namespaces = Self::default();
        for (index, namespace) in list.iter().enumerate() {
            let field = format!("linux.namespaces[{index}]");
            let kind = clone_flag(&field, namespace.typ())?;
            let path = namespace.path().clone().filter(|path| !path.as_os_str().is_empty());
            if path.is_some() && kind == libc::CLONE_NEWNS {
                return Err(FieldError::new(
                    format!("{field}.path"),
                    "joining a mount namespace is not supported",
                ));
            }
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err(FieldError::new(
                    format!("{field}.path"),
                    "the path of a namespace must be absolute",
                ));
            }
            if namespaces.listed.insert(kind, path).is_some() {
                return Err(FieldError::new(field, "the namespace is listed twice"));
            }
        }
        if !namespaces.has(libc::CLONE_NEWNS) {
            return Err(FieldError::new(
                "linux.namespaces",
                "a container without a mount namespace is not supported",
            ));
        }
        Ok(namespaces)
    }

    /// Whether the container has a namespace of `kind` (`CLONE_NEW*`) apart from the host's.
    pub(crate) fn has(&self, kind: libc::c_int) -> bool {
        self.listed.contains_key(&kind)
    }

    /// Every listed kind, as flags of setns(2) with a pidfd. Not the pid namespace: that is the parent's to set.
    pub(crate) fn to_enter(&self) -> libc::c_int {
        self.listed
            .keys()
            .filter(|kind| **kind != libc::CLONE_NEWPID)
            .fold(0, |flags, kind| flags | kind)
    }

    /// Flags for clone3(2). Not the cgroup namespace: clone3 would root it at the parent's cgroup.
    pub(crate) fn to_clone(&self) -> libc::c_int {
        let new = self
            .listed
            .iter()
            .filter(|(_, path)| path.is_none())
            .map(|(kind, _)| *kind);
        new.filter(|kind| *kind != libc::CLONE_NEWCGROUP)
            .fold(0, |flags, kind| flags | kind)
    }

    /// The pid namespace to be born in, if it is an existing one.
    pub(crate) fn joined_pid_namespace(&self) -> Option<&PathBuf> {
        self.listed.get(&libc::CLONE_NEWPID).and_then(Option::as_ref)
    }

    /// What is left to do in the child.
    pub(crate) fn steps(&self, steps: &mut Steps) {
        for (kind, path) in &self.listed {
            match path {
                Some(path) if *kind != libc::CLONE_NEWPID => {
                    let namespace = NamespaceFile {
                        path: path.clone(),
                        kind: *kind,
                        file: None,
                    };
                    steps.push("linux.namespaces", InitStep::JoinNamespace(namespace));
                }
                None if *kind == libc::CLONE_NEWCGROUP => {
                    steps.push("linux.namespaces", InitStep::NewCgroupNamespace);
                }
                None if *kind == libc::CLONE_NEWNET => steps.push("linux.namespaces", InitStep::BringLoopbackUp),
                Some(_) | None => {}
            }
        }
    }
}

fn clone_flag(field: &str, kind: LinuxNamespaceType) -> Result<libc::c_int, FieldError> {
    match kind {
        LinuxNamespaceType::Mount => Ok(libc::CLONE_NEWNS),
        LinuxNamespaceType::Cgroup => Ok(libc::CLONE_NEWCGROUP),
        LinuxNamespaceType::Uts => Ok(libc::CLONE_NEWUTS),
        LinuxNamespaceType::Ipc => Ok(libc::CLONE_NEWIPC),
        LinuxNamespaceType::Pid => Ok(libc::CLONE_NEWPID),
        LinuxNamespaceType::Network => Ok(libc::CLONE_NEWNET),
        LinuxNamespaceType::User => Err(FieldError::new(field, "user namespaces are not supported")),
        LinuxNamespaceType::Time => Err(FieldError::new(field, "time namespaces are not supported")),
    }
}
