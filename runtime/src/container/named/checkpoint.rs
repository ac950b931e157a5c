//! `checkpoint`: a running container as files, for [`super::Store::restore`].

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use oci_spec::runtime::{LinuxNamespaceType, Mount};

use super::error::{VerbError, file};
use super::{Named, Status};
use crate::container_path::ContainerPath;
use crate::criu::service::{CriuError, Service};
use crate::criu::{self, Common, Dump, Tolerance};
use crate::init::inside;
use crate::plan::{FieldError, has_namespace, has_own_mounts};
use crate::spec::Spec;

/// What a checkpoint is to be like.
#[derive(Debug, Clone, Default)]
pub struct CheckpointOrder {
    /// Where it goes; made if it is not there.
    pub images: PathBuf,
    /// Where CRIU's log goes, instead of to the images.
    pub work: Option<PathBuf>,
    /// An earlier checkpoint of the memory that this one continues, from `images`.
    pub parent: Option<String>,
    /// The container goes on.
    pub leave_running: bool,
    /// The memory only; the container goes on.
    pub memory_only: bool,
    /// What is not held against it.
    pub tolerance: Tolerance,
}

/// What CRIU is given as a file of settings (by runc too, so that one file serves for both).
const SETTINGS: &str = "/etc/criu/runc.conf";
/// The annotation that names another one, or none.
pub(in crate::container) const SETTINGS_ANNOTATION: &str = "org.criu.config";
/// Of what was outside of the first process: its standard streams by CRIU's names, in runc's file.
pub(super) const DESCRIPTORS: &str = "descriptors.json";

impl Named {
    /// Writes the container's processes to files; unless it is to go on, the container is then deleted. Returns what its
    /// last hooks complain about.
    pub fn checkpoint(&self, order: &CheckpointOrder) -> Result<Vec<String>, VerbError> {
        match self.status() {
            Status::Running | Status::Paused => {}
            status @ (Status::Creating | Status::Created | Status::Stopped) => {
                let verb = "checkpoint";
                return Err(VerbError::Status { verb, status });
            }
        }
        let spec = self.spec()?;
        if !has_own_mounts(&spec) {
            let reason = "a checkpoint needs a mount namespace that the container has to itself";
            return Err(FieldError::new("linux.namespaces", reason).into());
        }
        let (init, _pidfd) = self.init()?;
        let images = directory(&order.images)?;
        let work = order.work.as_deref().map(directory).transpose()?;
        let log = order.work.as_ref().unwrap_or(&order.images).join("dump.log");
        if order.memory_only || order.parent.is_some() {
            let answer = Service::start(&[], false)?.ask(&criu::has_tracking(), &log, |_, _| Ok::<_, CriuError>(()))?;
            if !answer.tracks_memory {
                return Err(CriuError::Lacking("it does not track changes of memory (CONFIG_MEM_SOFT_DIRTY)").into());
            }
        }
        let streams = Streams::of(init.pid).map_err(file("look at the standard streams of", &self.directory))?;
        let mut external = streams.external();
        external.extend(joined(&spec)?);
        let seen = |(target, _): (String, String)| (seen_at(init.pid, &target).unwrap_or(target.clone()), target);
        let mounts: Vec<_> = self.mounts(&spec).map(seen).collect();
        let masked = masked(&spec, init.pid).map(|path| (path, NULL.to_owned()));
        let mounts: Vec<_> = mounts.into_iter().chain(masked).collect();
        let common = Common {
            images: images.as_fd(),
            work: work.as_ref().map(AsFd::as_fd),
            log: "dump.log",
            root: &self.record.rootfs,
            tolerance: order.tolerance,
            config: settings(&spec),
            mounts: if order.memory_only { &[] } else { &mounts },
        };
        let dump = Dump {
            pid: init.pid,
            memory_only: order.memory_only,
            leave_running: order.leave_running,
            parent: order.parent.as_deref(),
            freezer: self.record.cgroup.as_deref(),
            external: &external,
        };
        if !order.memory_only {
            let path = order.images.join(DESCRIPTORS);
            let text = serde_json::to_vec(&streams.keys).map_err(io::Error::from);
            text.and_then(|text| fs::write(&path, text))
                .map_err(file("write", &path))?;
        }
        let request = criu::dump(&common, &dump);
        Service::start(&[], false)?.ask(&request, &log, |_, _| Ok::<_, CriuError>(()))?;
        if order.leave_running || order.memory_only {
            return Ok(Vec::new());
        }
        self.delete(true)
    }

    /// The mounts that show something of the host, and what.
    pub(super) fn mounts<'a>(&'a self, spec: &'a Spec) -> impl Iterator<Item = (String, String)> + 'a {
        let own_cgroup = self.record.cgroup.as_ref();
        let own_cgroup = own_cgroup.filter(|_| !has_namespace(spec, LinuxNamespaceType::Cgroup));
        spec.mounts().iter().flatten().filter_map(move |mount| {
            let source = match mount.typ().as_deref() {
                Some("cgroup" | "cgroup2") => own_cgroup?.clone(),
                _ if is_bind(mount) => self.record.bundle.join(mount.source().as_ref()?),
                _ => return None,
            };
            Some((clean(mount.destination()), source.to_string_lossy().into_owned()))
        })
    }
}

pub(super) const NULL: &str = "/dev/null";

fn is_bind(mount: &Mount) -> bool {
    let binds = |option: &String| option == "bind" || option == "rbind";
    mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(binds)
}

/// Where a mount is in the container: its place in the configuration may lead through links of the image.
fn seen_at(pid: u32, target: &str) -> Option<String> {
    let root = File::open(format!("/proc/{pid}/root")).ok()?;
    let path = ContainerPath::new("mounts", Path::new(target)).ok()?;
    let found = inside::open(root.as_fd(), path.relative(), OFlag::O_PATH).ok()?;
    let place = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
    place.into_os_string().into_string().ok()
}

/// As the kernel shows the place of a mount.
fn clean(path: &Path) -> String {
    let clean: PathBuf = Path::new("/").join(path).components().collect();
    clean.to_string_lossy().into_owned()
}

/// The files that are masked; masked directories are mounts of a filesystem like others.
fn masked(spec: &Spec, pid: u32) -> impl Iterator<Item = String> {
    let linux = spec.linux().as_ref();
    let paths = linux
        .and_then(|linux| linux.masked_paths().as_deref())
        .unwrap_or_default();
    paths.iter().map(|path| clean(Path::new(path))).filter(move |path| {
        let seen = fs::symlink_metadata(format!("/proc/{pid}/root{path}"));
        seen.is_ok_and(|seen| !seen.is_dir())
    })
}

/// The network and pid namespaces of others, which stay where they are.
fn joined(spec: &Spec) -> Result<Vec<String>, VerbError> {
    let mut external = Vec::new();
    for (kind, name, key) in EXTERNAL {
        if let Some(path) = path_of(spec, kind) {
            let inode = fs::metadata(path).map_err(file("look at the namespace", path))?.ino();
            external.push(format!("{name}[{inode}]:{key}"));
        }
    }
    Ok(external)
}

/// Namespaces that CRIU can leave to others, its name for the kind and runc's for the one.
pub(super) const EXTERNAL: [(LinuxNamespaceType, &str, &str); 2] = [
    (LinuxNamespaceType::Network, "net", "extRootNetNS"),
    (LinuxNamespaceType::Pid, "pid", "extRootPidNS"),
];

pub(super) fn path_of(spec: &Spec, kind: LinuxNamespaceType) -> Option<&Path> {
    let linux = spec.linux().as_ref()?;
    let namespace = linux
        .namespaces()
        .iter()
        .flatten()
        .find(|namespace| namespace.typ() == kind)?;
    namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty())
}

pub(super) fn settings(spec: &Spec) -> Option<&str> {
    let annotations = spec.annotations().as_ref();
    match annotations.and_then(|annotations| annotations.get(SETTINGS_ANNOTATION)) {
        None => Some(SETTINGS),
        Some(path) => Some(path.as_str()).filter(|path| !path.is_empty()),
    }
}

/// A directory for CRIU, which finds it by our descriptor.
pub(super) fn directory(path: &Path) -> Result<File, VerbError> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(path);
    made.and_then(|()| File::open(path)).map_err(file("open", path))
}

/// The standard streams of a process by CRIU's names: pipes, and files of the host.
struct Streams {
    keys: Vec<String>,
}

impl Streams {
    fn of(pid: u32) -> io::Result<Self> {
        let seen = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
        let is_inside = |mount: u64| {
            seen.lines()
                .any(|line| line.split(' ').next() == Some(&mount.to_string()))
        };
        let key = |number: u8| -> io::Result<String> {
            let path = format!("/proc/{pid}/fd/{number}");
            let Ok(target) = fs::read_link(&path) else {
                return Ok(String::new());
            };
            let target = target.to_string_lossy().into_owned();
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"))?;
            let mount = info
                .lines()
                .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
            match mount {
                Some(mount) if target.starts_with('/') && !is_inside(mount) => {
                    Ok(format!("file[{mount:x}:{:x}]", fs::metadata(&path)?.ino()))
                }
                _ => Ok(target),
            }
        };
        Ok(Self {
            keys: (0..3).map(key).collect::<Result<_, _>>()?,
        })
    }

    /// Those that CRIU does not know to be from outside by itself.
    fn external(&self) -> Vec<String> {
        self.keys
            .iter()
            .filter(|key| key.starts_with("file["))
            .cloned()
            .collect()
    }
}
