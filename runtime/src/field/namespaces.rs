//! `linux.namespaces`: which are new, which are joined.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
    /// Reads the list.
    pub(crate) fn of(list: &[LinuxNamespace]) -> Result<Self, FieldError> {
        let mut namespaces = Self::default();
        for (index, namespace) in list.iter().enumerate() {
            let field = format!("linux.namespaces[{index}]");
            let kind = clone_flag(namespace.typ());
            let path = namespace.path().clone().filter(|path| !path.as_os_str().is_empty());
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
        if namespaces.has(libc::CLONE_NEWUSER) && !namespaces.has(libc::CLONE_NEWNS) {
            return Err(FieldError::new(
                "linux.namespaces",
                "a container with a user namespace needs a mount namespace: nobody in it may mount anything in the host's",
            ));
        }
        Ok(namespaces)
    }

    /// Whether nobody but the container is in its mount namespace.
    pub(crate) fn has_own_mounts(&self) -> bool {
        self.is_new(libc::CLONE_NEWNS)
    }

    /// Whether the container has a namespace of `kind` (`CLONE_NEW*`) apart from the host's.
    pub(crate) fn has(&self, kind: libc::c_int) -> bool {
        self.listed.contains_key(&kind)
    }

    /// Whether the container has a namespace of `kind` that nobody else is in.
    pub(crate) fn is_new(&self, kind: libc::c_int) -> bool {
        self.listed.get(&kind).is_some_and(Option::is_none)
    }

    /// Every listed kind that an added process enters itself, as flags of setns(2) with a pidfd.
    pub(crate) fn to_enter(&self) -> libc::c_int {
        let kinds = self.listed.keys().fold(0, |flags, kind| flags | kind);
        // A pid namespace is for the next child of who enters it.
        kinds & !self.entered_by_maker() & !libc::CLONE_NEWPID
    }

    /// The same as files below the /proc entry of a process that is in them.
    pub(crate) fn files_to_enter(&self) -> Vec<NamespaceFile> {
        let kinds = self.to_enter();
        let kinds = self.listed.keys().filter(|kind| kinds & **kind != 0);
        kinds
            .map(|kind| namespace_file(*kind, &Path::new("ns").join(file_name(*kind))))
            .collect()
    }

    /// What is entered before a process can be added to a container with a user namespace, all at once and as who this
    /// process is: only who is in the user namespace may enter the pid namespace that belongs to it, and nobody in it may
    /// enter one that was joined by its path and belongs to somebody else.
    pub(crate) fn entered_by_maker(&self) -> libc::c_int {
        if !self.has(libc::CLONE_NEWUSER) {
            return 0;
        }
        let joined = self.joined().fold(0, |flags, (kind, _)| flags | kind);
        let pid = self.listed.keys().find(|kind| **kind == libc::CLONE_NEWPID);
        libc::CLONE_NEWUSER | pid.copied().unwrap_or(0) | joined
    }

    /// Flags for clone3(2). Not the cgroup namespace: clone3 would root it at the parent's cgroup. Nor the time
    /// namespace: its clocks can't be set any more when somebody is in it.
    pub(crate) fn to_clone(&self) -> libc::c_int {
        let new = self
            .listed
            .iter()
            .filter(|(_, path)| path.is_none())
            .map(|(kind, _)| *kind);
        new.filter(|kind| !matches!(*kind, libc::CLONE_NEWCGROUP | libc::CLONE_NEWTIME))
            .fold(0, |flags, kind| flags | kind)
    }

    /// The pid namespace to be born in, if it is an existing one that the parent itself sends its children to.
    pub(crate) fn joined_pid_namespace(&self) -> Option<&PathBuf> {
        let path = self.listed.get(&libc::CLONE_NEWPID).and_then(Option::as_ref);
        path.filter(|_| !self.needs_door())
    }

    /// The existing namespaces to be in before the process is made: with a user namespace all of them. In a new one the
    /// process would have no rights over them, and an existing one can only be entered by somebody who makes the
    /// process there.
    pub(crate) fn through_door(&self) -> Vec<NamespaceFile> {
        if !self.needs_door() {
            return Vec::new();
        }
        self.joined().map(|(kind, path)| namespace_file(kind, path)).collect()
    }

    /// Whether one of them is there already.
    pub(crate) fn joins_any(&self) -> bool {
        self.joined().next().is_some()
    }

    fn needs_door(&self) -> bool {
        self.has(libc::CLONE_NEWUSER) && self.joins_any()
    }

    fn joined(&self) -> impl Iterator<Item = (libc::c_int, &PathBuf)> {
        self.listed
            .iter()
            .filter_map(|(kind, path)| Some((*kind, path.as_ref()?)))
    }

    /// The existing user namespace to be in.
    pub(crate) fn joined_user(&self) -> Option<&PathBuf> {
        self.listed.get(&libc::CLONE_NEWUSER).and_then(Option::as_ref)
    }

    /// The existing network namespace to be in.
    pub(crate) fn joined_network(&self) -> Option<&PathBuf> {
        self.listed.get(&libc::CLONE_NEWNET).and_then(Option::as_ref)
    }

    /// What is left to do in the child.
    pub(crate) fn steps(&self, steps: &mut Steps) {
        for (kind, path) in &self.listed {
            match path {
                Some(path) if *kind != libc::CLONE_NEWPID && !self.needs_door() => {
                    steps.push("linux.namespaces", InitStep::JoinNamespace(namespace_file(*kind, path)));
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

fn namespace_file(kind: libc::c_int, path: &Path) -> NamespaceFile {
    NamespaceFile {
        path: path.to_owned(),
        kind,
        file: None,
    }
}

/// Its file's name below `/proc/PID/ns`.
fn file_name(kind: libc::c_int) -> &'static str {
    match kind {
        libc::CLONE_NEWNS => "mnt",
        libc::CLONE_NEWCGROUP => "cgroup",
        libc::CLONE_NEWUTS => "uts",
        libc::CLONE_NEWIPC => "ipc",
        libc::CLONE_NEWPID => "pid",
        libc::CLONE_NEWNET => "net",
        libc::CLONE_NEWUSER => "user",
        _ => "time",
    }
}

fn clone_flag(kind: LinuxNamespaceType) -> libc::c_int {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Time => libc::CLONE_NEWTIME,
    }
}
