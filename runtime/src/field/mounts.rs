//! `mounts`: new filesystems and parts of the host's.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use oci_spec::runtime::Mount;

use super::labels::Labelled;
use super::mount_options::Options;
use super::user::{self, IdMappings};
use super::{devices, namespaces::Namespaces};
use crate::container_path::ContainerPath;
use crate::guard::Guard;
use crate::plan::{FieldError, Steps, c_string};
use crate::privileges::Privileges;
use crate::step::{BindMount, Device, InitStep, LABEL_OPTION, NewMount};
use crate::sys::mount::Attributes;
use crate::tree::{IdMap, Ids, Taker, Tree};

/// What the mounts are planned from, besides themselves.
pub(crate) struct Surroundings<'a> {
    /// Where relative sources of bind mounts start.
    pub(crate) bundle: &'a Path,
    /// The directory that becomes the container's root, if it is one.
    pub(crate) rootfs: Option<PathBuf>,
    pub(crate) namespaces: &'a Namespaces,
    /// The container's cgroup directory.
    pub(crate) cgroup: Option<&'a Path>,
    /// Propagation of bind mounts that don't ask for one.
    pub(crate) propagation: u64,
    /// Devices to make when /dev is a fresh filesystem.
    pub(crate) devices: Vec<Device>,
    pub(crate) privileges: Privileges,
    /// Those of the container's user namespace.
    pub(crate) mappings: &'a IdMappings,
    /// `linux.mountLabel`
    pub(crate) label: Option<&'a CStr>,
}

impl Surroundings<'_> {
    /// Whether the container's process is in a user namespace: its own, or one that this process is in already.
    pub(crate) fn in_user_namespace(&self) -> bool {
        self.namespaces.has(libc::CLONE_NEWUSER) || !self.privileges.devices
    }

    /// `context=`, where files of this kind of filesystem get the container's label.
    fn label_option(&self, kind: &str) -> Option<(CString, Option<CString>)> {
        let label = self.label_for(kind, Labelled::Files)?;
        Some((LABEL_OPTION.into(), Some(label)))
    }

    /// The container's label, if that is what it is for.
    fn label_for(&self, kind: &str, what: Labelled) -> Option<CString> {
        let label = self.label.filter(|_| Labelled::of(kind) == what);
        label.map(CString::from)
    }

    /// Who takes a part of the host: the child where it can, in turn with the filesystems that it makes, because kernels
    /// since 6.8 list mounts in the order in which they were made. In a user namespace of its own it may not go
    /// everywhere, and in mounts that others have it may see something else; ids only the parent maps.
    pub(crate) fn taker(&self, id_map: Option<&IdMap>) -> Taker {
        let sees_the_same = self.namespaces.has_own_mounts() && !self.namespaces.has(libc::CLONE_NEWUSER);
        if !self.privileges.mounts || (sees_the_same && id_map.is_none()) {
            Taker::Child
        } else {
            Taker::Parent
        }
    }

    /// Plans to show `tree` at `target`.
    pub(crate) fn bind(&self, field: &str, tree: Tree, target: ContainerPath, steps: &mut Steps) {
        self.bind_from(field, tree, None, target, steps);
    }

    fn bind_from(
        &self,
        field: &str,
        tree: Tree,
        source_inside: Option<ContainerPath>,
        target: ContainerPath,
        steps: &mut Steps,
    ) {
        let bind = Rc::new(BindMount {
            tree,
            source_inside,
            target,
        });
        if bind.tree.taker == Taker::Child && bind.source_inside.is_none() {
            steps.push_early(field, InitStep::TakeSource(Rc::clone(&bind)));
        }
        steps.push(field, InitStep::Bind(bind));
    }

    /// Where in the container the source of a bind mount is, if one of the mounts `before` it is made on the way there:
    /// the host does not see that.
    fn inside(
        &self,
        field: &str,
        source: &Path,
        before: &[ContainerPath],
    ) -> Result<Option<ContainerPath>, FieldError> {
        let below = self.rootfs.as_ref().and_then(|rootfs| source.strip_prefix(rootfs).ok());
        let path = below.map(|below| ContainerPath::new(field, below)).transpose()?;
        Ok(path.filter(|path| {
            before
                .iter()
                .any(|mounted| path.prefixes().contains(&mounted.relative().to_owned()))
        }))
    }
}

/// Plans every mount in order. /dev is always a fresh tmpfs with the standard devices, unless the spec itself binds
/// something there. Returns what can't be given, one sentence each.
pub(crate) fn plan(mounts: &[Mount], around: &Surroundings<'_>, steps: &mut Steps) -> Result<Vec<String>, FieldError> {
    let destinations = destinations(mounts)?;
    let mut unenforced = Vec::new();
    if !destinations.iter().any(|path| path.is("/dev")) {
        let mut dev = default_dev()?;
        dev.options.extend(around.label_option("tmpfs"));
        push_new("mounts", dev, steps);
        devices::plan(around, steps)?;
    }
    for (index, (mount, target)) in mounts.iter().zip(destinations.iter().cloned()).enumerate() {
        let field = format!("mounts[{index}]");
        let is_dev = target.is("/dev");
        let options = Options::parse(&field, mount.options().as_deref().unwrap_or_default())?;
        match plan_one(&field, mount, (&destinations[..index], target), options, around, steps)? {
            Made::Filesystem if is_dev => devices::plan(around, steps)?,
            Made::Filesystem => {}
            Made::Other(sentences) => unenforced.extend(sentences),
        }
    }
    Ok(unenforced)
}

/// What came of a mount.
enum Made {
    /// A filesystem of its own.
    Filesystem,
    /// Something else; and what of it can't be given.
    Other(Vec<String>),
}

fn destinations(mounts: &[Mount]) -> Result<Vec<ContainerPath>, FieldError> {
    let path = |(index, mount): (usize, &Mount)| {
        let field = format_args!("mounts[{index}].destination");
        let path = ContainerPath::new(field, mount.destination())?;
        if path.is_root() {
            Err(FieldError::new(
                field.to_string(),
                "the root itself can't be mounted over",
            ))
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
        hints: Vec::new(),
        target: ContainerPath::new("mounts", Path::new("/dev"))?,
        refuse_links: true,
        copy_up: false,
        keep_mode: false,
        root_label: None,
        instead: None,
        made: RefCell::default(),
    })
}

/// Pushes what makes a filesystem, while its source on the host is in sight, and puts it in place. A tmpfs gets its
/// devices and the mount points below it first, and becomes read-only afterwards.
fn push_new(field: &str, mut mount: NewMount, steps: &mut Steps) {
    let readonly = libc::MOUNT_ATTR_RDONLY;
    if mount.kind.as_c_str() == c"tmpfs" && mount.attributes.set & readonly != 0 {
        mount.attributes.set &= !readonly;
        let attributes = Attributes {
            set: readonly,
            ..Attributes::default()
        };
        let path = mount.target.clone();
        let recursive = false;
        steps.push_late(
            field,
            InitStep::SetMountAttributes {
                path,
                attributes,
                recursive,
            },
        );
    }
    let mount = Rc::new(mount);
    steps.push_early(field, InitStep::MakeMount(Rc::clone(&mount)));
    steps.push(field, InitStep::Mount(mount));
}

/// Where the host has the same filesystem. In a user namespace the kernel makes these only while it is in sight, and
/// only for who owns the namespace that they show.
fn twin(kind: &CStr) -> Option<&'static CStr> {
    match kind.to_bytes() {
        b"proc" => Some(c"/proc"),
        b"sysfs" => Some(c"/sys"),
        b"mqueue" => Some(c"/dev/mqueue"),
        _ => None,
    }
}

fn plan_one(
    field: &str,
    mount: &Mount,
    (before, target): (&[ContainerPath], ContainerPath),
    mut options: Options,
    around: &Surroundings<'_>,
    steps: &mut Steps,
) -> Result<Made, FieldError> {
    let kind = mount.typ().as_deref().unwrap_or("none");
    let is_bind = options.bind || kind == "bind";
    let id_map = id_map(field, mount, &options, around)?;
    if id_map.is_some() && (!is_bind || options.remount) {
        let field = format!("{field}.uidMappings");
        return Err(FieldError::new(field, "only a bind mount can be id-mapped"));
    }
    if options.copy_up && (kind != "tmpfs" || is_bind || options.remount) {
        let field = format!("{field}.options");
        return Err(FieldError::new(field, "tmpcopyup is for a tmpfs"));
    }
    if options.remount {
        let sentences = if is_bind {
            options.without_filesystem(field)?
        } else {
            Vec::new()
        };
        remount(field, &target, options, steps);
        return Ok(Made::Other(sentences));
    }
    if is_bind {
        let sentences = options.without_filesystem(field)?;
        let source = mount.source().as_ref();
        let source = source.ok_or_else(|| FieldError::new(format!("{field}.source"), "is missing"))?;
        let source = around.bundle.join(source);
        let source_inside = around.inside(&format!("{field}.source"), &source, before)?;
        if id_map.is_some() && source_inside.is_some() {
            let reason = "a mount of the container's own can't be id-mapped: that is done before they are there";
            return Err(FieldError::new(format!("{field}.source"), reason));
        }
        let mut tree = tree(field, source, &options, id_map, around)?;
        // What the container has mounted itself is not locked for it.
        tree.is_locked &= source_inside.is_none();
        around.bind_from(field, tree, source_inside, target, steps);
        return Ok(Made::Other(sentences));
    }
    match kind {
        "none" => Err(FieldError::new(
            format!("{field}.type"),
            "a mount without a type must be a bind mount",
        )),
        "cgroup" | "cgroup2" => plan_cgroup(field, target, options, around, steps),
        _ => {
            let new = new_mount(field, kind, mount.source().as_deref(), target, options, around)?;
            push_new(field, new, steps);
            Ok(Made::Filesystem)
        }
    }
}

/// How a mount asks for its ids to be mapped: by an option, by mappings of its own, or both. Without mappings of its own
/// they are mapped as the container's are.
fn id_map(
    field: &str,
    mount: &Mount,
    options: &Options,
    around: &Surroundings<'_>,
) -> Result<Option<IdMap>, FieldError> {
    let list = |name: &str, list: &Option<Vec<_>>| match list.as_deref() {
        Some(list) => user::ranges(&format!("{field}.{name}"), list),
        None => Ok(Vec::new()),
    };
    let own = IdMappings {
        uids: list("uidMappings", mount.uid_mappings())?,
        gids: list("gidMappings", mount.gid_mappings())?,
    };
    let has_own = !own.uids.is_empty() || !own.gids.is_empty();
    if options.id_map.is_none() && !has_own {
        return Ok(None);
    }
    let recursive = options.id_map.unwrap_or(false);
    if let Some(namespace) = around.namespaces.joined_user().filter(|_| !has_own) {
        let ids = Ids::OfNamespace(namespace.clone());
        return Ok(Some(IdMap { ids, recursive }));
    }
    let mappings = if has_own { own } else { around.mappings.clone() };
    for (name, list) in [("uidMappings", &mappings.uids), ("gidMappings", &mappings.gids)] {
        if list.is_empty() {
            let reason = "an id-mapped mount needs mappings, its own or the container's";
            return Err(FieldError::new(format!("{field}.{name}"), reason));
        }
    }
    let ids = Ids::Listed(mappings);
    Ok(Some(IdMap { ids, recursive }))
}

fn tree(
    field: &str,
    source: PathBuf,
    options: &Options,
    id_map: Option<IdMap>,
    around: &Surroundings<'_>,
) -> Result<Tree, FieldError> {
    let mut recursive_attributes = options.recursive;
    if options.own.propagation | options.recursive.propagation == 0 {
        recursive_attributes.propagation = around.propagation;
    }
    let taker = around.taker(id_map.as_ref());
    Ok(Tree {
        path: c_string(&format!("{field}.source"), source.as_os_str())?,
        source,
        recursive: options.bind_recursively,
        flags: options.flags(),
        is_locked: taker == Taker::Parent && around.namespaces.has(libc::CLONE_NEWUSER),
        recursive_attributes,
        taker,
        id_map,
        device: None,
        taken: RefCell::default(),
    })
}

/// A bind mount is changed as such; of another mount the filesystem too.
fn remount(field: &str, path: &ContainerPath, options: Options, steps: &mut Steps) {
    if !options.bind {
        let readonly = match options.own.set & libc::MOUNT_ATTR_RDONLY {
            0 if options.own.clear & libc::MOUNT_ATTR_RDONLY == 0 => None,
            0 => Some(c"rw"),
            _ => Some(c"ro"),
        };
        let readonly = readonly.map(|word| (word.to_owned(), None));
        let options = options.data.into_iter().chain(readonly).collect();
        let path = path.clone();
        steps.push(field, InitStep::Reconfigure { path, options });
    }
    for (attributes, recursive) in [(options.own, false), (options.recursive, true)] {
        if !attributes.is_empty() {
            let path = path.clone();
            steps.push(
                field,
                InitStep::SetMountAttributes {
                    path,
                    attributes,
                    recursive,
                },
            );
        }
    }
}

/// With a cgroup namespace the whole tree as seen from there; without one only the container's own directory, so that
/// it never sees the host's.
fn plan_cgroup(
    field: &str,
    target: ContainerPath,
    mut options: Options,
    around: &Surroundings<'_>,
    steps: &mut Steps,
) -> Result<Made, FieldError> {
    if around.namespaces.has(libc::CLONE_NEWCGROUP) {
        let new = new_mount(field, "cgroup2", Some(Path::new("cgroup")), target, options, around)?;
        push_new(field, new, steps);
        return Ok(Made::Filesystem);
    }
    let own = around.cgroup.ok_or_else(|| {
        FieldError::new(
            format!("{field}.type"),
            "a cgroup mount needs a cgroup namespace or a cgroup of its own",
        )
    })?;
    let sentences = options.without_filesystem(field)?;
    if around.in_user_namespace() && !Guard::ReadOnlyCgroup.is_out() {
        // It may be a cgroup that was given to the user outside, who is root in here (CVE-2023-25809).
        options.own.set |= libc::MOUNT_ATTR_RDONLY;
        options.own.clear &= !libc::MOUNT_ATTR_RDONLY;
    }
    let tree = tree(field, own.to_owned(), &options, None, around)?;
    around.bind(field, tree, target, steps);
    Ok(Made::Other(sentences))
}

fn new_mount(
    field: &str,
    kind: &str,
    source: Option<&Path>,
    target: ContainerPath,
    options: Options,
    around: &Surroundings<'_>,
) -> Result<NewMount, FieldError> {
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
    let label = around.label_option(kind);
    let root_label = around.label_for(kind, Labelled::Root);
    // As for runc and crun: /tmp stays /tmp.
    let keep_mode = kind == "tmpfs" && options.data.iter().all(|(name, _)| name.as_c_str() != c"mode");
    let kind = c_string(&format!("{field}.type"), kind.as_ref())?;
    // Of another's processes there is nothing to show instead.
    let instead = twin(&kind).filter(|_| around.in_user_namespace() && kind.as_c_str() != c"proc");
    Ok(NewMount {
        instead,
        kind,
        options: source.into_iter().chain(options.data).chain(label).collect(),
        hints: options.hints,
        attributes,
        target,
        refuse_links,
        copy_up: options.copy_up,
        keep_mode,
        root_label,
        made: RefCell::default(),
    })
}
