//! `root` and `linux.rootfsPropagation`.

use std::cell::RefCell;
use std::rc::Rc;

use oci_spec::runtime::Root;

use crate::container::{Manner, Rootfs, hook};
use crate::container_path::ContainerPath;
use crate::field::namespaces::Namespaces;
use crate::plan::{FieldError, Steps, c_string};
use crate::privileges::Privileges;
use crate::spec::Spec;
use crate::step::{InitStep, MadeOverlay, OverlayMount, RootMount};
use crate::sys::mount::Attributes;
use crate::tree::{Flags, Taker, Tree};

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
    /// Others see the mounts too, and keep the root that they have.
    is_shared: bool,
}

impl Change {
    pub(crate) fn of(spec: &Spec, manner: Manner, namespaces: &Namespaces) -> Self {
        let hooks = spec.hooks().as_ref();
        Self {
            has_hooks_before: hooks.is_some_and(|hooks| hook::before_root(hooks).next().is_some()),
            no_pivot: manner.no_pivot,
            is_shared: !namespaces.has_own_mounts(),
        }
    }

    /// Whether the root is mounted on its own directory and becomes the root last of all.
    fn is_late(self) -> bool {
        self.has_hooks_before || self.is_shared
    }

    /// What is left to do when everything is mounted.
    pub(crate) fn after_hooks(self, steps: &mut Steps) {
        if self.has_hooks_before {
            steps.push("hooks", InitStep::WaitForHooks);
        }
        if self.is_late() {
            self.change(steps);
        }
    }

    fn change(self, steps: &mut Steps) {
        let step = match self {
            Self { is_shared: true, .. } => InitStep::ChangeRoot,
            Self { no_pivot: true, .. } => InitStep::MoveRoot { whole: Vec::new() },
            Self { no_pivot: false, .. } => InitStep::PivotRoot,
        };
        steps.push("root", step);
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
            let taker = if privileges.mounts { Taker::Parent } else { Taker::Child };
            let tree = Rc::new(Tree {
                path: c_string(field, source.as_os_str())?,
                source,
                recursive: true,
                flags: Flags::default(),
                is_locked: false,
                recursive_attributes: Attributes::propagating(propagation.during_setup),
                id_map: None,
                device: None,
                taker,
                taken: RefCell::default(),
            });
            if taker == Taker::Child {
                steps.push_early("root", InitStep::TakeTree(Rc::clone(&tree)));
            }
            RootMount::Directory {
                tree,
                in_place: change.is_late(),
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
            in_place: change.is_late(),
            made: MadeOverlay::Planned,
        }),
    };
    steps.push("root", InitStep::MountRoot(root));
    if !change.is_late() {
        change.change(steps);
        return Ok(());
    }
    steps.push("root", InitStep::OpenNewRoot);
    if change.is_shared {
        // What is mounted below it is not to reach whoever the host shares its mounts with.
        let attributes = Attributes::propagating(propagation.during_setup);
        steps.push("linux.rootfsPropagation", change_root(attributes, true));
    }
    Ok(())
}

/// Plans what the root becomes when everything in it is in place.
pub(crate) fn finish(root: Option<&Root>, propagation: Propagation, steps: &mut Steps) {
    if root.and_then(Root::readonly).unwrap_or(false) {
        let attributes = Attributes {
            set: libc::MOUNT_ATTR_RDONLY,
            ..Attributes::default()
        };
        steps.push("root.readonly", change_root(attributes, false));
    }
    if let Some((propagation, recursive)) = propagation.afterwards {
        let attributes = Attributes::propagating(propagation);
        steps.push("linux.rootfsPropagation", change_root(attributes, recursive));
    }
}

/// The step that changes the mount of the root, and those below it if `recursive`.
fn change_root(attributes: Attributes, recursive: bool) -> InitStep {
    InitStep::SetMountAttributes {
        path: ContainerPath::root(),
        attributes,
        recursive,
    }
}
