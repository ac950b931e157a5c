//! Whose systemd makes the scopes, and where it is asked.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::super::dbus::{Claim, Connection, sockets};

/// A systemd that makes scopes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Manager {
    /// The machine's.
    #[default]
    Machine,
    /// That of the user whose process this is, outside of every user namespace. It can give only what was given to it.
    User,
}

/// The socket of the machine's.
const MACHINES: &str = "/run/systemd/private";

/// A place to find a user's systemd at.
#[derive(Debug)]
enum Place {
    /// A bus.
    Bus(SocketAddr),
    /// The socket that it has for its own tools, for where there is no bus.
    Private(PathBuf),
}

impl Manager {
    /// Whom this process asks; `is_rootless` who is no root, or root of a user namespace only.
    pub fn of_caller(is_rootless: bool) -> Self {
        if is_rootless && !has_machine_of_its_own() {
            Self::User
        } else {
            Self::Machine
        }
    }

    /// Where its scopes go unless the container says otherwise.
    pub(super) fn slice(self) -> &'static str {
        match self {
            Self::Machine => "system.slice",
            Self::User => "user.slice",
        }
    }

    pub(super) fn connect(self) -> io::Result<Connection> {
        match self {
            Self::Machine => Connection::to_manager(UnixStream::connect(MACHINES)?, Claim::Uid),
            Self::User => {
                let found = find(|name| env::var_os(name), |path| path.exists())?;
                found.connect().map_err(|error| {
                    let place = found.shown();
                    io::Error::new(error.kind(), format!("ask the user's systemd at {place}: {error}"))
                })
            }
        }
    }

    /// Below which cgroup its slices are, from the root of the tree.
    pub(super) fn cgroup(self) -> io::Result<PathBuf> {
        match self {
            Self::Machine => Ok(PathBuf::new()),
            Self::User => {
                let path = self.connect()?.property("ControlGroup")?;
                Ok(Path::new(path.trim_start_matches('/')).to_owned())
            }
        }
    }
}

/// Root of a user namespace may have a whole machine in there, with a systemd whose socket is root's, too. The host's root is
/// nobody in there.
fn has_machine_of_its_own() -> bool {
    geteuid().is_root() && fs::metadata(MACHINES).is_ok_and(|socket| socket.uid() == 0)
}

/// Where the environment says that it is: the first address of its bus, else what is in its runtime directory.
fn find(variable: impl Fn(&str) -> Option<OsString>, is_there: impl Fn(&Path) -> bool) -> io::Result<Place> {
    let not_found = |reason: String| io::Error::new(io::ErrorKind::NotFound, reason);
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(addresses) = set("DBUS_SESSION_BUS_ADDRESS") {
        let first = sockets(&addresses.to_string_lossy()).into_iter().next();
        let none = || {
            not_found(format!(
                "DBUS_SESSION_BUS_ADDRESS names no socket: {}",
                addresses.display()
            ))
        };
        return first.map(Place::Bus).ok_or_else(none);
    }
    let Some(directory) = set("XDG_RUNTIME_DIR").map(PathBuf::from) else {
        let reason = "neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR says where the user's systemd is";
        return Err(not_found(reason.into()));
    };
    let (bus, private) = (directory.join("bus"), directory.join("systemd/private"));
    if is_there(&bus) {
        SocketAddr::from_pathname(bus).map(Place::Bus)
    } else if is_there(&private) {
        Ok(Place::Private(private))
    } else {
        let directory = directory.display();
        Err(not_found(format!(
            "there is neither a bus nor a systemd of the user in {directory}"
        )))
    }
}

impl Place {
    fn connect(&self) -> io::Result<Connection> {
        match self {
            Self::Bus(address) => Connection::to_bus(UnixStream::connect_addr(address)?),
            Self::Private(path) => Connection::to_manager(UnixStream::connect(path)?, Claim::Kernels),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Bus(address) => address
                .as_pathname()
                .map_or_else(|| format!("{address:?}"), |path| path.display().to_string()),
            Self::Private(path) => path.display().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_where_a_users_systemd_is() {
        let both = &["/run/u/bus", "/run/u/systemd/private"] as &[&str];
        let address = ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/b");
        let runtime = ("XDG_RUNTIME_DIR", "/run/u");
        for (variables, there, found) in [
            (vec![address, runtime], both, Some("/b")),
            (vec![runtime], both, Some("/run/u/bus")),
            (
                vec![("DBUS_SESSION_BUS_ADDRESS", ""), runtime],
                both,
                Some("/run/u/bus"),
            ),
            (vec![runtime], &both[1..], Some("/run/u/systemd/private")),
            (vec![runtime], &[], None),
            (vec![], both, None),
            (vec![("DBUS_SESSION_BUS_ADDRESS", "tcp:host=h"), runtime], both, None),
        ] {
            let variable = |name: &str| {
                let set = variables.iter().find(|(set, _)| *set == name);
                set.map(|(_, value)| OsString::from(value))
            };
            let place = find(variable, |path| there.iter().any(|there| path == Path::new(there)));
            let shown = place.ok().map(|place| place.shown());
            assert_eq!(shown.as_deref(), found, "{variables:?} {there:?}");
        }
    }
}
