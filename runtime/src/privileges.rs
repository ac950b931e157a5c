//! What this process may do on its host: a fact that plans are made from.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use crate::sys::capability::{self, Mask};

/// Numbers of linux/capability.h.
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const SYS_ADMIN: u32 = 21;

/// What this process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Privileges {
    /// Make mounts in its own mount namespace. Who may not, has the container's process make them, in the user
    /// namespace that lets it.
    pub(crate) mounts: bool,
    /// Make device nodes: only outside of every user namespace.
    pub(crate) devices: bool,
    /// Map any id into a user namespace.
    pub(crate) maps_ids: bool,
    /// Change supplementary groups, as far as its user namespace is concerned.
    pub(crate) sets_groups: bool,
    /// Its own user and group.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Privileges {
    /// Looks at this process, once: what it may do less, it gives up in its children only.
    pub(crate) fn look() -> Self {
        static OWN: OnceLock<Privileges> = OnceLock::new();
        *OWN.get_or_init(Self::look_now)
    }

    fn look_now() -> Self {
        let effective = capability::effective_set();
        let has = |capability: u32| effective & (1 << capability) != 0;
        Self {
            mounts: has(SYS_ADMIN),
            devices: has(SYS_ADMIN) && is_in_first_user_namespace(),
            maps_ids: has(SETUID) && has(SETGID),
            sets_groups: lets_set_groups(Path::new("/proc/self/setgroups")),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        }
    }

    /// Those of root outside of every user namespace.
    pub(crate) fn all() -> Self {
        Self {
            mounts: true,
            devices: true,
            maps_ids: true,
            sets_groups: true,
            uid: 0,
            gid: 0,
        }
    }

    /// Whether it could come back to the host's namespaces: only who has rights outside of every user namespace.
    pub(crate) fn come_back(self) -> bool {
        self.devices
    }

    /// The capabilities that a container's process can be given.
    pub(crate) fn available(has_user_namespace: bool) -> Mask {
        static OWN: OnceLock<Mask> = OnceLock::new();
        // Who enters a user namespace has all of them there (user_namespaces(7)).
        if has_user_namespace {
            capability::known_set()
        } else {
            *OWN.get_or_init(capability::bounding_set)
        }
    }
}

/// Whether a process may change its supplementary groups, by the `setgroups` file of its /proc entry; where there is
/// none it may.
pub(crate) fn lets_set_groups(file: &Path) -> bool {
    fs::read_to_string(file).map_or(true, |word| word.trim() != "deny")
}

fn is_in_first_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    crate::proc::maps_every_id(&map)
}
