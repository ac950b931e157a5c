//! `root` and `linux.rootfsPropagation`.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use oci_spec::runtime::{Root, Spec};

use crate::container::{Manner, Rootfs, hook};
use crate::container_path::ContainerPath;
use crate::plan::{FieldError, Steps, c_string};
use crate::privileges::Privileges;
use crate::step::{InitStep, MadeOverlay, OverlayMount, RootMount};
use crate::sys::mount::Attributes;
use crate::tree::Tree;

/// How mounts pass between the host and the container's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Propagation {
    /// While the container is set up: never towards the host.
    pub(crate) during_setup: u64,
    /// Of the root mount afterwards, if it differs, and whether the mounts below it get it too.
    afterwards: Option<(u64, bool)>,
}

impl Propagation {
    /// Reads `linux.rootfsPropagation`; without it what the host mounts later shows (slave).
    pub(crate) fn of(spec: &Spec) -> Result<Self, FieldError> {
        let value = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.rootfs_propagation().as_deref())
            .unwrap_or_default();
        let (during_setup, afterwards) = match value {
            "" | "slave" | "rslave" => (libc::MS_SLAVE, None),
            "private" | "rprivate" => (libc::MS_PRIVATE, None),
            "shared" | "rshared" => (libc::MS_PRIVATE, Some((libc::MS_SHARED, value == "rshared"))),
            "unbindable" | "runbindable" => (libc::MS_PRIVATE, Some((libc::MS_UNBINDABLE, value == "runbindable"))),
            other => {
                return Err(FieldError::new(
                    "linux.rootfsPropagation",
                    format!("{other:?} is not a propagation"),
                ));
            }
        };
        Ok(Self {
            during_setup,
            afterwards,
        })
    }
}

/// How and when the mounted root becomes the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    /// Hooks of the spec run when everything is mounted and the host's root is still there.
    has_hooks_before: bool,
    no_pivot: bool,
}

impl Change {
    pub(crate) fn of(spec: &Spec, manner: Manner) -> Self {
        let hooks = spec.hooks().as_ref();
        Self {
            has_hooks_before: hooks.is_some_and(|hooks| hook::before_root(hooks).next().is_some()),
            no_pivot: manner.no_pivot,
        }
    }

    /// What is left to do when everything is mounted.
    pub(crate) fn after_hooks(self, steps: &mut Steps) {
        if self.has_hooks_before {
            steps.push("hooks", InitStep::WaitForHooks);
            self.change(steps);
        }
    }

    fn change(self, steps: &mut Steps) {
        steps.push(
            "root",
            if self.no_pivot {
                InitStep::MoveRoot
            } else {
                InitStep::PivotRoot
            },
        );
    }
}

/// Plans mounting the root and becoming it; before anything is mounted in it, unless hooks want to see both.
pub(crate) fn plan(
    rootfs: Rootfs,
    propagation: Propagation,
    change: Change,
    privileges: Privileges,
    steps: &mut Steps,
) -> Result<(), FieldError> {
    let field = "root.path";
    let root = match rootfs {
        Rootfs::Directory(source) => {
            let tree = Rc::new(Tree {
                path: c_string(field, source.as_os_str())?,
                source,
                recursive: true,
                attributes: Attributes::default(),
                recursive_attributes: Attributes {
                    propagation: propagation.during_setup,
                    ..Attributes::default()
                },
                id_map: None,
                device: None,
                taken: RefCell::default(),
            });
            if !privileges.mounts {
                steps.push_early("root", InitStep::TakeTree(Rc::clone(&tree)));
            }
            RootMount::Directory {
                tree,
                in_place: change.has_hooks_before,
            }
        }
        Rootfs::Overlay {
            lower,
            upper,
            work,
            target,
        } => RootMount::Overlay(OverlayMount {
            lower,
            upper,
            work,
            target: c_string(field, target.as_os_str())?,
            in_place: change.has_hooks_before,
            made: MadeOverlay::Planned,
        }),
    };
    steps.push("root", InitStep::MountRoot(root));
    if change.has_hooks_before {
        steps.push("root", InitStep::OpenNewRoot);
    } else {
        change.change(steps);
    }
    Ok(())
}

/// Plans what the root becomes when everything in it is in place.
pub(crate) fn finish(root: Option<&Root>, propagation: Propagation, steps: &mut Steps) -> Result<(), FieldError> {
    let path = ContainerPath::new("root", Path::new("/"))?;
    if root.and_then(Root::readonly).unwrap_or(false) {
        let attributes = Attributes {
            set: libc::MOUNT_ATTR_RDONLY,
            ..Attributes::default()
        };
        let (path, recursive) = (path.clone(), false);
        steps.push(
            "root.readonly",
            InitStep::SetMountAttributes {
                path,
                attributes,
                recursive,
            },
        );
    }
    if let Some((propagation, recursive)) = propagation.afterwards {
        let attributes = Attributes {
            propagation,
            ..Attributes::default()
        };
        steps.push(
            "linux.rootfsPropagation",
            InitStep::SetMountAttributes {
                path,
                attributes,
                recursive,
            },
        );
    }
    Ok(())
}
