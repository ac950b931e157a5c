//! Hands the listener of a seccomp filter to who decides: over a unix socket, with the state of the process (OCI
//! config-linux, "The Container Process State").

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::json;

use super::error::{CreateError, host};
use crate::field::seccomp::Listener;
use crate::plan::FieldError;
use crate::spec::Spec;
use crate::sys::clone::Child;
use crate::sys::pidfd::pidfd_getfd;
use crate::sys::socket;

/// Who a process's container is, for those outside who are told of it.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// Its name.
    pub id: &'a str,
    /// Its bundle.
    pub bundle: &'a Path,
    /// What it was created from.
    pub spec: &'a Spec,
    /// Process id of its init; none while that is being made.
    pub init: Option<u32>,
}

/// How long the other side may take to have room for the message.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Refuses what nobody could be told about.
pub(super) fn check(listener: Option<&Listener>, who: Option<&Who<'_>>) -> Result<(), FieldError> {
    match (listener, who) {
        (Some(_), None) => {
            let field = "linux.seccomp.listenerPath";
            Err(FieldError::new(
                field,
                "is not supported for a container without a name",
            ))
        }
        _ => Ok(()),
    }
}

/// Takes the descriptor `number` from the child and passes it on.
pub(super) fn hand_over(child: &Child, number: u32, listener: &Listener, who: &Who<'_>) -> Result<(), CreateError> {
    let failed = |action: &str| {
        let action = format!("{action} {}, for linux.seccomp.listenerPath", listener.path.display());
        move |error: std::io::Error| host(&action, error)
    };
    let number = i32::try_from(number).map_err(|_| CreateError::Died)?;
    let descriptor = pidfd_getfd(child.pidfd.as_fd(), number);
    let descriptor = descriptor.map_err(failed("take the listener of the seccomp filter for"))?;
    let state = json!({
        "ociVersion": who.spec.version(),
        "fds": ["seccompFd"],
        "pid": child.pid,
        "metadata": listener.metadata,
        "state": {
            "ociVersion": who.spec.version(),
            "id": who.id,
            "status": if who.init.is_some() { "running" } else { "creating" },
            "pid": who.init.unwrap_or(child.pid),
            "bundle": who.bundle,
            "annotations": who.spec.annotations().clone().unwrap_or_default(),
        },
    });
    let socket = UnixStream::connect(&listener.path).map_err(failed("connect to"))?;
    socket.set_write_timeout(Some(PATIENCE)).map_err(failed("talk to"))?;
    let text = state.to_string();
    let mut left = text.as_bytes();
    let mut descriptors = vec![descriptor];
    while !left.is_empty() {
        let sent = socket::send(socket.as_fd(), left, &descriptors).map_err(failed("send the listener to"))?;
        left = left.get(sent..).unwrap_or_default();
        descriptors.clear();
    }
    Ok(())
}
