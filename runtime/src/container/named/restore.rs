//! `restore`: a container as it was when [`super::Named::checkpoint`] wrote it down.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::fchdir;
use oci_spec::runtime::LinuxNamespaceType;
use serde_json::{Value, json};

use super::checkpoint::{DESCRIPTORS, EXTERNAL, NULL, directory, path_of, settings};
use super::error::{VerbError, file};
use super::record::{Init, Record};
use super::{Bundle, Named, Store};
use crate::cgroup::Cgroup;
use crate::cgroup::place::Place;
use crate::container::create::confine;
use crate::container::hook::Moment;
use crate::container::own_cgroup;
use crate::container::{FieldError, Running, SingleThreaded};
use crate::container_path::ContainerPath;
use crate::criu::service::Service;
use crate::criu::{self, Common, Notification, Restore, Tolerance};
use crate::init::inside;
use crate::plan::has_namespace;
use crate::resctrl::join;
use crate::spec::Spec;
use crate::sys::namespace::{setns, unshare};
use crate::sys::pidfd::pidfd_open;

/// What to restore, and as what.
#[derive(Debug)]
pub struct RestoreOrder<'a> {
    /// The new name.
    pub id: &'a str,
    /// Where its cgroup is to be.
    pub cgroup: Place,
    /// Where the checkpoint is.
    pub images: &'a Path,
    /// Where CRIU's log goes, instead of to the images.
    pub work: Option<&'a Path>,
    /// What was not held against the checkpoint.
    pub tolerance: Tolerance,
    /// Another AppArmor profile or SELinux label than before.
    pub lsm_profile: Option<&'a str>,
    /// Another SELinux label of its mounts than before.
    pub lsm_mount_context: Option<&'a str>,
}

/// A restored container, which runs.
#[derive(Debug)]
pub struct Restored {
    /// Its first process, a child of this one.
    pub running: Running,
    /// Its record.
    pub named: Named,
}

impl Store {
    /// Restores a container under a new name. Its standard streams are this process's own.
    pub fn restore(&self, bundle: &Bundle, order: &RestoreOrder<'_>) -> Result<Restored, VerbError> {
        let token = SingleThreaded::prove()?;
        let rootfs = bundle.rootfs()?;
        let mut named = Named {
            directory: self.take(order.id)?,
            record: Record::new(order.id, &bundle.directory, &rootfs, order.cgroup.directory()),
        };
        let had_cgroup = named.has_cgroup();
        named.take_free_cgroup()?;
        let restored = named.restore(&token, bundle, order);
        restored.inspect_err(|_| {
            if had_cgroup {
                // What is in it is ours: nobody was. The directory is somebody else's.
                let _ = named.end();
                named.record.cgroup = None;
            }
            // The error says more than what could not be put away either.
            let _ = super::delete::put_away(&token, &named, Some(&bundle.spec));
        })
    }
}

impl Named {
    fn restore(
        &mut self,
        token: &SingleThreaded,
        bundle: &Bundle,
        order: &RestoreOrder<'_>,
    ) -> Result<Restored, VerbError> {
        let spec = &bundle.spec;
        self.write_config(bundle.text())?;
        let scope = self.make_scope(token, &order.cgroup, spec)?;
        let groups = self.plan_resctrl(spec)?;
        self.write()?;
        groups.map_or(Ok(()), |groups| groups.make())?;
        let cgroup = self.cgroup();
        let unenforced = confine(spec, cgroup.as_ref())?;
        let (pid, terminal) = self.call_criu(token, spec, order, cgroup.as_ref())?;
        scope.map_or(Ok(()), |scope| scope.let_go(self.record.scope()))?;
        let kernel = |error| VerbError::Kernel("look at the restored process", error);
        self.record.init = Some(Init::of(pid).map_err(kernel)?);
        self.note_clocks(bundle, pid)?;
        self.write()?;
        let running = Running {
            pid,
            pidfd: pidfd_open(pid).map_err(kernel)?,
            terminal,
            unenforced,
        };
        self.after_start(token, spec, pid)?;
        Ok(Restored {
            running,
            named: self.clone(),
        })
    }

    /// CRIU gives what it restores a time namespace, so that its clocks go on where they were. What is added later has to
    /// be in it, too: it would see other clocks, and could not be written down again.
    fn note_clocks(&self, bundle: &Bundle, pid: u32) -> Result<(), VerbError> {
        let clocks = |process: &str| fs::read_link(format!("/proc/{process}/ns/time")).ok();
        if has_namespace(&bundle.spec, LinuxNamespaceType::Time) || clocks(&pid.to_string()) == clocks("self") {
            return Ok(());
        }
        let config = || -> serde_json::Result<Vec<u8>> {
            let mut config: Value = serde_json::from_slice(bundle.text())?;
            let namespaces = config.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
            if let Some(list) = namespaces {
                list.push(json!({ "type": "time" }));
            }
            serde_json::to_vec(&config)
        };
        let config = config().map_err(|error| file("add a time namespace to", &bundle.directory)(error.into()))?;
        self.write_config(&config)
    }

    /// Returns the first process, and the master of its terminal if it has one.
    fn call_criu(
        &self,
        token: &SingleThreaded,
        spec: &Spec,
        order: &RestoreOrder<'_>,
        cgroup: Option<&Cgroup>,
    ) -> Result<(u32, Option<OwnedFd>), VerbError> {
        let log = order.work.unwrap_or(order.images).join("restore.log");
        let outside = Outside::of(spec, order.images)?;
        let mounts: Vec<_> = self.mounts(spec).chain([(NULL.into(), NULL.into())]).collect();
        let _in_root = Root::mount(token, &self.record.rootfs, spec, &mounts)?;
        // In the mount namespace that CRIU will be in: it mounts below them.
        let images = File::open(order.images).map_err(file("open", order.images))?;
        let work = order.work.map(directory).transpose()?;
        let service = Service::start(&outside.files, true)?;
        let place = cgroup.map(|cgroup| cgroup.add(service.pid())).transpose()?;
        // What CRIU restores are its children.
        for group in &self.record.resctrl.joined {
            join(group, service.pid()).map_err(file("put CRIU into the resctrl group", group))?;
        }
        let place = place.and_then(|()| own_cgroup::path_of(service.pid()));
        let common = Common {
            images: images.as_fd(),
            work: work.as_ref().map(AsFd::as_fd),
            log: "restore.log",
            root: &self.record.rootfs,
            tolerance: order.tolerance,
            config: settings(spec),
            mounts: &mounts,
        };
        let request = criu::restore(
            &common,
            &Restore {
                cgroup: place.as_deref(),
                inherited: &outside.inherited,
                joined: &outside.joined,
                lsm_profile: order.lsm_profile,
                lsm_mount_context: order.lsm_mount_context,
            },
        );
        let (mut first, mut terminal) = (None, None);
        let noted = |Notification { name, pid }: Notification, mut passed: Vec<OwnedFd>| {
            match name.as_str() {
                "setup-namespaces" => {
                    self.hooks(spec).on_host(token, Moment::Prestart, Some(pid))?;
                    self.hooks(spec).on_host(token, Moment::CreateRuntime, Some(pid))?;
                }
                "post-restore" => first = Some(pid),
                "orphan-pts-master" => terminal = passed.pop(),
                _ => {}
            }
            Ok::<_, VerbError>(())
        };
        service.ask(&request, &log, noted)?;
        let none = || VerbError::Kernel("find the restored process", io::ErrorKind::NotFound.into());
        Ok((first.ok_or_else(none)?, terminal))
    }
}

/// What is not in the checkpoint: this process's streams take the place of the old ones, namespaces of others are
/// joined.
#[derive(Default)]
struct Outside {
    inherited: Vec<(String, i32)>,
    files: Vec<OwnedFd>,
    joined: Vec<(&'static str, String)>,
}

impl Outside {
    fn of(spec: &Spec, images: &Path) -> Result<Self, VerbError> {
        let mut outside = Self::default();
        let path = images.join(DESCRIPTORS);
        let text = fs::read(&path).map_err(file("read", &path))?;
        let streams: Vec<String> = serde_json::from_slice(&text).map_err(|error| file("read", &path)(error.into()))?;
        for (number, key) in (0..3).zip(streams) {
            if key.starts_with("pipe:") || key.starts_with("file[") {
                outside.inherited.push((key, number));
            }
        }
        for (kind, _, key) in EXTERNAL {
            if let Some(path) = path_of(spec, kind) {
                let namespace: OwnedFd = File::open(path).map_err(file("open the namespace", path))?.into();
                outside.inherited.push((key.into(), namespace.as_raw_fd()));
                outside.files.push(namespace);
            }
        }
        for (kind, name) in JOINED {
            if let Some(path) = path_of(spec, kind) {
                outside.joined.push((name, path.to_string_lossy().into_owned()));
            }
        }
        if path_of(spec, LinuxNamespaceType::Cgroup).is_some() {
            let reason = "CRIU can't restore a container into the cgroup namespace of another one";
            return Err(FieldError::new("linux.namespaces", reason).into());
        }
        Ok(outside)
    }
}

/// Namespaces that CRIU joins by their path, and its names for them.
const JOINED: [(LinuxNamespaceType, &str); 4] = [
    (LinuxNamespaceType::Ipc, "ipc"),
    (LinuxNamespaceType::Uts, "uts"),
    (LinuxNamespaceType::User, "user"),
    (LinuxNamespaceType::Time, "time"),
];

/// The root as CRIU wants it: a mount, on itself, in a mount namespace that this process is in for the time. Nothing of
/// it is left on the host whatever happens.
struct Root {
    host: OwnedFd,
    cwd: OwnedFd,
}

impl Root {
    /// Makes the places to mount on, too: CRIU only mounts.
    fn mount(
        _token: &SingleThreaded,
        rootfs: &Path,
        spec: &Spec,
        mounts: &[(String, String)],
    ) -> Result<Self, VerbError> {
        let kernel = |errno: nix::errno::Errno| file("mount the root filesystem", rootfs)(errno.into());
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY;
        let host = File::open("/proc/self/ns/mnt").map_err(file("open", "/proc/self/ns/mnt"))?;
        let cwd = open(".", flags, Mode::empty()).map_err(kernel)?;
        unshare(libc::CLONE_NEWNS).map_err(kernel)?;
        let root = Self { host: host.into(), cwd };
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).map_err(kernel)?;
        bind(rootfs, rootfs).map_err(kernel)?;
        let inside = open(rootfs, flags, Mode::empty()).map_err(kernel)?;
        make_places(&inside, spec, mounts)?;
        umount2(rootfs, MntFlags::MNT_DETACH).map_err(kernel)?;
        bind(rootfs, rootfs).map_err(kernel)?;
        Ok(root)
    }
}

/// Back to the host's mounts; those that were made here go with their namespace.
impl Drop for Root {
    fn drop(&mut self) {
        let _ = setns(self.host.as_fd(), libc::CLONE_NEWNS).and_then(|()| fchdir(&self.cwd));
    }
}

fn bind(source: &Path, target: &Path) -> nix::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(source), target, None::<&str>, flags, None::<&str>)
}

/// In the order of the mounts, each bound in its place: some are to be in others.
fn make_places(root: &OwnedFd, spec: &Spec, mounts: &[(String, String)]) -> Result<(), VerbError> {
    let mut filled: Vec<PathBuf> = Vec::new();
    for (index, place) in spec.mounts().iter().flatten().enumerate() {
        let target = Path::new("/").join(place.destination());
        let is_cgroup = matches!(place.typ().as_deref(), Some("cgroup" | "cgroup2"));
        // What CRIU fills itself has its places.
        if is_cgroup || filled.iter().any(|filled| target.starts_with(filled)) {
            continue;
        }
        let path = ContainerPath::new(format_args!("mounts[{index}].destination"), &target)?;
        let shown = mounts.iter().find(|(mounted, _)| Path::new(mounted) == target);
        let made = match shown.map(|(_, source)| Path::new(source)) {
            Some(source) if !source.is_dir() => inside::make_file(root.as_fd(), &path),
            _ => inside::make_directory(root.as_fd(), path.prefixes()),
        };
        let made = made.map_err(|errno| file("make a place to mount on at", &target)(errno.into()))?;
        match shown {
            Some((_, source)) => {
                let there = PathBuf::from(format!("/proc/self/fd/{}", made.as_raw_fd()));
                bind(Path::new(source), &there).map_err(|errno| file("bind", source)(errno.into()))?;
            }
            None => filled.push(target),
        }
    }
    Ok(())
}
