//! `exec`: one more process in a running container.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use oci_spec::runtime::{Process, Spec};

use super::error::{CreateError, ExecError};
use super::{Running, SingleThreaded, Stdio};

/// The running container that a process is added to.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its init.
    pub pidfd: BorrowedFd<'a>,
    /// Its cgroup; the new process is born in it.
    pub cgroup: Option<&'a Path>,
    /// What it was created from: namespaces and seccomp profile are taken from here, everything else from the process.
    pub spec: &'a Spec,
}

/// Adds `process` to a running container and starts it.
///
/// Capabilities, rlimits, user, cwd, environment and `noNewPrivileges` come from `process` alone.
pub fn exec(
    _token: &SingleThreaded,
    _target: Target<'_>,
    _process: &Process,
    _stdio: Stdio,
) -> Result<Running, ExecError> {
    let source = io::ErrorKind::Unsupported.into();
    Err(ExecError::Create(CreateError::Host {
        action: "create a process".into(),
        source,
    }))
}
