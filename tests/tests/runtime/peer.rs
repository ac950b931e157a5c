//! The same cases against ours and against Debian's runc and crun: so that the cases themselves are tested.
//!
//! Peers see a pure cgroup2 host, in a mount namespace of the call's own: on a hybrid host runc would work in the
//! hierarchies of version 1, which are the machine's, and crun not at all.

use std::path::{Path, PathBuf};

use crate::bundle::{Bundle, with_bundle};

/// A runtime under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    Ours,
    Runc,
    /// Without cgroups: its device program takes CAP_SYS_RESOURCE, which not every host gives.
    Crun,
}

const V2_VIEW: [&str; 6] = ["unshare", "-m", "--propagation", "private", "sh", "-c"];

/// Runs a case with each runtime that is on this machine.
pub(crate) fn with_each(name: &str, test: impl Fn(&mut Bundle<'_>, Runtime)) {
    for runtime in [Runtime::Ours, Runtime::Runc, Runtime::Crun] {
        if !runtime.is_here() {
            eprintln!("SKIP: {name} for {runtime:?}, which is not on this machine");
            continue;
        }
        with_bundle(name, |bundle| {
            runtime.put_into(bundle);
            test(bundle, runtime);
        });
    }
}

impl Runtime {
    fn is_here(self) -> bool {
        self.path().is_none_or(|path| path.exists())
    }

    fn path(self) -> Option<PathBuf> {
        let name = match self {
            Self::Ours => return None,
            Self::Runc => "runc",
            Self::Crun => "crun",
        };
        let places = ["/usr/sbin", "/usr/bin"].map(|place| Path::new(place).join(name));
        places.iter().find(|place| place.exists()).or(places.first()).cloned()
    }

    /// What it says of a container that is not there: containerd and podman look for these words.
    pub(crate) fn words_for_none(self) -> &'static str {
        match self {
            Self::Ours | Self::Runc => "does not exist",
            Self::Crun => "No such file",
        }
    }

    fn put_into(self, bundle: &mut Bundle<'_>) {
        let Some(path) = self.path() else { return };
        bundle.program = path;
        let script = "test -e /sys/fs/cgroup/cgroup.controllers || mount -t cgroup2 none /sys/fs/cgroup; exec \"$@\"";
        bundle.around.0 = V2_VIEW.into_iter().chain([script, "sh"]).map(String::from).collect();
        if self == Self::Crun {
            bundle.around.1 = vec!["--cgroup-manager=disabled".into()];
            bundle.config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
        }
    }
}
