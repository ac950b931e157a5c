//! The parent's part of a new user namespace: its maps of ids.
//!
//! Who may map any id writes them. Everybody else may map itself, and whatever else through the set-user-id programs
//! newuidmap(1) and newgidmap(1), which look at /etc/subuid and /etc/subgid.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use crate::field::user::{IdMappings, IdRange, text};
use crate::privileges::Privileges;
use crate::sys::clone::clone3;
use crate::sys::thread::SingleThreaded;

/// What could not be done, and why.
#[derive(Debug)]
pub(crate) struct MappingError {
    pub(crate) action: String,
    pub(crate) source: io::Error,
}

/// Maps the ids of the user namespace that process `pid` was born in.
pub(crate) fn write(pid: u32, mappings: &IdMappings, privileges: Privileges) -> Result<(), MappingError> {
    if privileges.maps_ids {
        write_file(pid, "gid_map", &text(&mappings.gids))?;
        return write_file(pid, "uid_map", &text(&mappings.uids));
    }
    if is_only(&mappings.gids, privileges.gid) {
        write_file(pid, "setgroups", "deny")?;
        write_file(pid, "gid_map", &text(&mappings.gids))?;
    } else {
        run("newgidmap", "linux.gidMappings", pid, &mappings.gids)?;
    }
    if is_only(&mappings.uids, privileges.uid) {
        write_file(pid, "uid_map", &text(&mappings.uids))
    } else {
        run("newuidmap", "linux.uidMappings", pid, &mappings.uids)
    }
}

/// Whether processes of the namespace may change their supplementary groups: not where that could get rid of one that
/// takes rights away (user_namespaces(7)).
pub(crate) fn lets_set_groups(mappings: &IdMappings, privileges: Privileges) -> bool {
    privileges.maps_ids || !is_only(&mappings.gids, privileges.gid)
}

/// A user namespace with these maps and nobody in it, for an id-mapped mount.
pub(crate) fn user_namespace(
    token: &SingleThreaded,
    mappings: &IdMappings,
    privileges: Privileges,
) -> Result<OwnedFd, MappingError> {
    let failed = |action: &str, source: io::Error| MappingError {
        action: action.into(),
        source,
    };
    // Its holder has nothing to do but to be there until its end of the pipe is closed.
    let (reader, writer) = io::pipe().map_err(|error| failed("make a pipe", error))?;
    let holder = clone3(token, libc::CLONE_NEWUSER, None, || {
        crate::sys::fd::close_inherited(writer.as_fd());
        let _ = nix::unistd::read(&reader, &mut [0]);
    });
    let holder = holder.map_err(|errno| failed("make a user namespace for a mount", errno.into()))?;
    let namespace = write(holder.pid, mappings, privileges).and_then(|()| {
        File::open(format!("/proc/{}/ns/user", holder.pid))
            .map(OwnedFd::from)
            .map_err(|error| failed("open the user namespace for a mount", error))
    });
    drop(writer);
    let _ = crate::container::Exit::wait(holder.pidfd.as_fd());
    namespace
}

fn is_only(ranges: &[IdRange], id: u32) -> bool {
    matches!(ranges, [range] if range.outside == id && range.count == 1)
}

fn write_file(pid: u32, name: &str, content: &str) -> Result<(), MappingError> {
    let path = format!("/proc/{pid}/{name}");
    fs::write(&path, content).map_err(|source| MappingError {
        action: format!("write {:?} to {path}", content.trim_end()),
        source,
    })
}

fn run(program: &str, field: &str, pid: u32, ranges: &[IdRange]) -> Result<(), MappingError> {
    let numbers = ranges
        .iter()
        .flat_map(|range| [range.inside, range.outside, range.count]);
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .output();
    let failed = |source| MappingError {
        action: format!("map the ids of {field} with {program} (of the package uidmap)"),
        source,
    };
    let output = output.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(io::Error::other(said)))
}
