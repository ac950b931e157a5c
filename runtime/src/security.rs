//! Which security modules the host has: a fact that labels are planned from.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// The modules that give processes and mounts labels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SecurityModules {
    pub(crate) apparmor: bool,
    pub(crate) selinux: bool,
}

impl SecurityModules {
    /// Looks at this host if somebody asks for a label; what nobody asks for need not be there.
    pub(crate) fn for_labels(are_asked_for: bool) -> Self {
        if are_asked_for { Self::look() } else { Self::default() }
    }

    /// Looks at this host, once: it has had them since it was booted.
    fn look() -> Self {
        static HOSTS: OnceLock<SecurityModules> = OnceLock::new();
        *HOSTS.get_or_init(|| {
            let apparmor = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
            Self {
                apparmor: apparmor.is_ok_and(|word| word.trim() == "Y"),
                selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            }
        })
    }
}
