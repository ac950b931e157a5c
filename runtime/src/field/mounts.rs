//! `mounts`: new filesystems and parts of the host's.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{devices, namespaces::Namespaces};
use crate::container_path::ContainerPath;
use crate::plan::{FieldError, Steps, c_string};
use crate::step::{BindMount, Device, InitStep, NewMount};
use crate::sys::mount::Attributes;

/// What the mounts are planned from, besides themselves.
pub(crate) struct Surroundings<'a> {
    /// Where relative sources of bind mounts start.
    pub(crate) bundle: &'a Path,
    pub(crate) namespaces: &'a Namespaces,
    /// The container's cgroup directory.
    pub(crate) cgroup: Option<&'a Path>,
    /// Propagation of bind mounts that don't ask for one.
    pub(crate) propagation: u64,
    /// Devices to make when /dev is a fresh filesystem.
    pub(crate) devices: Vec<Device>,
}

/// Plans every mount in order. /dev is always a fresh tmpfs with the standard devices, unless the spec itself binds
/// something there.
pub(crate) fn plan(mounts: &[Mount], around: &Surroundings<'_>, steps: &mut Steps) -> Result<(), FieldError> {
    let mut late = Vec::new();
    let destinations = destinations(mounts)?;
    if !destinations.iter().any(|path| path.is("/dev")) {
        steps.push("mounts", InitStep::Mount(default_dev()?));
        devices::plan(&around.devices, steps)?;
    }
    for (index, (mount, target)) in mounts.iter().zip(destinations).enumerate() {
        let field = format!("mounts[{index}]");
        let is_dev = target.is("/dev");
        let step = plan_one(&field, mount, target, around)?;
        let fresh_dev = is_dev && matches!(step, InitStep::Mount(_));
        let step = if let InitStep::Mount(new) = step {
            defer_readonly(&field, new, &mut late)
        } else {
            step
        };
        steps.push(&field, step);
        if fresh_dev {
            devices::plan(&around.devices, steps)?;
        }
    }
    for (field, step) in late {
        steps.push_late(&field, step);
    }
    Ok(())
}

fn destinations(mounts: &[Mount]) -> Result<Vec<ContainerPath>, FieldError> {
    let path = |(index, mount): (usize, &Mount)| {
        let field = format!("mounts[{index}].destination");
        let path = ContainerPath::new(&field, mount.destination())?;
        if path.is_root() {
            Err(FieldError::new(field, "the root itself can't be mounted over"))
        } else {
            Ok(path)
        }
    };
    mounts.iter().enumerate().map(path).collect()
}

fn default_dev() -> Result<NewMount, FieldError> {
    Ok(NewMount {
        kind: c"tmpfs".into(),
        options: vec![
            (c"source".into(), Some(c"tmpfs".into())),
            (c"mode".into(), Some(c"755".into())),
            (c"size".into(), Some(c"65536k".into())),
        ],
        attributes: Attributes {
            set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_STRICTATIME,
            ..Attributes::default()
        },
        target: ContainerPath::new("mounts", Path::new("/dev"))?,
        refuse_links: true,
    })
}

/// A tmpfs gets its devices and the mount points below it first, and becomes read-only afterwards.
fn defer_readonly(field: &str, mut mount: NewMount, late: &mut Vec<(String, InitStep)>) -> InitStep {
    let readonly = libc::MOUNT_ATTR_RDONLY;
    if mount.kind.as_c_str() == c"tmpfs" && mount.attributes.set & readonly != 0 {
        mount.attributes.set &= !readonly;
        let attributes = Attributes {
            set: readonly,
            ..Attributes::default()
        };
        late.push((
            field.into(),
            InitStep::SetMountAttributes {
                path: mount.target.clone(),
                attributes,
            },
        ));
    }
    InitStep::Mount(mount)
}

fn plan_one(
    field: &str,
    mount: &Mount,
    target: ContainerPath,
    around: &Surroundings<'_>,
) -> Result<InitStep, FieldError> {
    if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
        return Err(FieldError::new(
            format!("{field}.uidMappings"),
            "id-mapped mounts are not supported",
        ));
    }
    let kind = mount.typ().as_deref().unwrap_or("none");
    let options = Options::parse(field, mount.options().as_deref().unwrap_or_default())?;
    match kind {
        _ if options.bind => plan_bind(field, mount, target, &options, around),
        "bind" => plan_bind(field, mount, target, &options, around),
        "none" => Err(FieldError::new(
            format!("{field}.type"),
            "a mount without a type must be a bind mount",
        )),
        "cgroup" | "cgroup2" => plan_cgroup(field, target, &options, around),
        _ => plan_new(field, kind, mount.source().as_deref(), target, &options),
    }
}

fn plan_bind(
    field: &str,
    mount: &Mount,
    target: ContainerPath,
    options: &Options,
    around: &Surroundings<'_>,
) -> Result<InitStep, FieldError> {
    if let Some((name, _)) = options.data.first() {
        let reason = format!("option {:?} has no meaning for a bind mount", name.to_string_lossy());
        return Err(FieldError::new(format!("{field}.options"), reason));
    }
    let source = mount
        .source()
        .as_ref()
        .ok_or_else(|| FieldError::new(format!("{field}.source"), "is missing"))?;
    Ok(InitStep::Bind(options.bind(
        around.bundle.join(source),
        target,
        around.propagation,
    )))
}

/// With a cgroup namespace the whole tree as seen from there; without one only the container's own directory, so that
/// it never sees the host's.
fn plan_cgroup(
    field: &str,
    target: ContainerPath,
    options: &Options,
    around: &Surroundings<'_>,
) -> Result<InitStep, FieldError> {
    if around.namespaces.has(libc::CLONE_NEWCGROUP) {
        return plan_new(field, "cgroup2", Some(Path::new("cgroup")), target, options);
    }
    let own = around.cgroup.ok_or_else(|| {
        FieldError::new(
            format!("{field}.type"),
            "a cgroup mount needs a cgroup namespace or a cgroup of its own",
        )
    })?;
    Ok(InitStep::Bind(options.bind(own.to_owned(), target, around.propagation)))
}

fn plan_new(
    field: &str,
    kind: &str,
    source: Option<&Path>,
    target: ContainerPath,
    options: &Options,
) -> Result<InitStep, FieldError> {
    if target.is("/proc") && kind != "proc" {
        return Err(FieldError::new(
            format!("{field}.type"),
            "only proc or a bind mount can be mounted on /proc",
        ));
    }
    let source = source.filter(|source| !source.as_os_str().is_empty());
    let source = source
        .map(|source| c_string(&format!("{field}.source"), source.as_os_str()))
        .transpose()?;
    let source = source.map(|source| (c"source".into(), Some(source)));
    let mut attributes = options.own;
    attributes.clear = 0;
    attributes.set |= options.recursive.set;
    attributes.propagation |= options.recursive.propagation;
    let refuse_links = matches!(kind, "proc" | "sysfs") || target.is("/dev");
    let options = source.into_iter().chain(options.data.iter().cloned()).collect();
    let kind = c_string(&format!("{field}.type"), kind.as_ref())?;
    Ok(InitStep::Mount(NewMount {
        kind,
        options,
        attributes,
        target,
        refuse_links,
    }))
}

/// The options of one mount, sorted by who acts on them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    bind: bool,
    bind_recursively: bool,
    /// For the mount itself.
    own: Attributes,
    /// For the mounts below it too.
    recursive: Attributes,
    /// For the filesystem.
    data: Vec<(CString, Option<CString>)>,
}

impl Options {
    fn parse(field: &str, list: &[String]) -> Result<Self, FieldError> {
        let mut options = Self::default();
        for option in list {
            options.take(field, option)?;
        }
        Ok(options)
    }

    fn take(&mut self, field: &str, option: &str) -> Result<(), FieldError> {
        match option {
            "" | "defaults" => return Ok(()),
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.bind_recursively) = (true, true),
            "remount" | "idmap" | "ridmap" | "tmpcopyup" | "z" | "Z" => {
                let reason = format!("option {option:?} is not supported");
                return Err(FieldError::new(format!("{field}.options"), reason));
            }
            _ if change(&mut self.own, option) => {}
            _ if option
                .strip_prefix('r')
                .is_some_and(|option| change(&mut self.recursive, option)) => {}
            _ => self.data.push(data(field, option)?),
        }
        Ok(())
    }

    fn bind(&self, source: PathBuf, target: ContainerPath, default_propagation: u64) -> BindMount {
        let mut recursive_attributes = self.recursive;
        if self.own.propagation | self.recursive.propagation == 0 {
            recursive_attributes.propagation = default_propagation;
        }
        BindMount {
            source,
            recursive: self.bind_recursively,
            attributes: self.own,
            recursive_attributes,
            target,
            is_directory: true,
            tree: None,
        }
    }
}

fn data(field: &str, option: &str) -> Result<(CString, Option<CString>), FieldError> {
    let field = format!("{field}.options");
    match option.split_once('=') {
        Some((key, value)) => Ok((c_string(&field, key.as_ref())?, Some(c_string(&field, value.as_ref())?))),
        None => Ok((c_string(&field, option.as_ref())?, None)),
    }
}

/// Applies an option that is about the mount, not the filesystem (mount_setattr(2)); false if it is none.
fn change(attributes: &mut Attributes, option: &str) -> bool {
    let (set, clear, propagation) = match option {
        "ro" => (libc::MOUNT_ATTR_RDONLY, 0, 0),
        "rw" => (0, libc::MOUNT_ATTR_RDONLY, 0),
        "nosuid" => (libc::MOUNT_ATTR_NOSUID, 0, 0),
        "suid" => (0, libc::MOUNT_ATTR_NOSUID, 0),
        "nodev" => (libc::MOUNT_ATTR_NODEV, 0, 0),
        "dev" => (0, libc::MOUNT_ATTR_NODEV, 0),
        "noexec" => (libc::MOUNT_ATTR_NOEXEC, 0, 0),
        "exec" => (0, libc::MOUNT_ATTR_NOEXEC, 0),
        "nodiratime" => (libc::MOUNT_ATTR_NODIRATIME, 0, 0),
        "diratime" => (0, libc::MOUNT_ATTR_NODIRATIME, 0),
        "nosymfollow" => (libc::MOUNT_ATTR_NOSYMFOLLOW, 0, 0),
        "symfollow" => (0, libc::MOUNT_ATTR_NOSYMFOLLOW, 0),
        "noatime" => (libc::MOUNT_ATTR_NOATIME, libc::MOUNT_ATTR__ATIME, 0),
        "strictatime" | "norelatime" => (libc::MOUNT_ATTR_STRICTATIME, libc::MOUNT_ATTR__ATIME, 0),
        "relatime" | "atime" | "nostrictatime" => (0, libc::MOUNT_ATTR__ATIME, 0),
        "shared" => (0, 0, libc::MS_SHARED),
        "slave" => (0, 0, libc::MS_SLAVE),
        "private" => (0, 0, libc::MS_PRIVATE),
        "unbindable" => (0, 0, libc::MS_UNBINDABLE),
        _ => return false,
    };
    // The last option of a pair wins, as with mount(8).
    attributes.set = attributes.set & !clear | set;
    attributes.clear = attributes.clear & !set | clear;
    if propagation != 0 {
        attributes.propagation = propagation;
    }
    true
}
