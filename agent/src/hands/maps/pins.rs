//! Where the pins are: a bpf file system, mounted if need be, with a directory for each layout of the maps.

use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapType};
use ebpf_common::flow::MAX_FLOWS;
use ebpf_common::fragment::MAX_FRAGMENTS;
use ebpf_common::maps::{
    LAYOUT, MAX_AFFINITIES, MAX_CLIENTS, MAX_FRONTENDS4, MAX_FRONTENDS6, MAX_IDS, MAX_MEMBERS, MAX_RANGES, MAX_REPLIES,
    MAX_SLOTS4, MAX_SLOTS6,
};
use ebpf_common::stream::{MAX_STREAMS, MAX_TAKEN};
use nix::mount::{MntFlags, MsFlags};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{MapsError, detours, links, pod_links, uplinks};

/// Where Linux has its bpf file system.
const USUAL: &str = "/sys/fs/bpf";
/// Source of a mount that is ours, by which it is known again when it is to be removed.
const SOURCE: &str = "orlop";

/// See bpf(2): a map with this flag can be mapped into memory.
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// What a map has to look like to be used again.
pub(super) struct MapShape {
    pub(super) name: &'static str,
    kind: MapType,
    key: u32,
    value: u32,
    entries: u32,
    /// Whether it has so many entries for each CPU.
    is_each_cpus: bool,
    /// Whether the agent has it in its own memory.
    is_mapped: bool,
}

impl MapShape {
    const fn mapped(self) -> Self {
        Self {
            is_mapped: true,
            ..self
        }
    }

    const fn of_each_cpu(self) -> Self {
        Self {
            is_each_cpus: true,
            ..self
        }
    }

    /// How many there are on a machine with so many CPUs.
    pub(super) fn entries(&self, cpus: u32) -> u32 {
        if self.is_each_cpus {
            cpus * self.entries
        } else {
            self.entries
        }
    }
}

const fn shape(name: &'static str, kind: MapType, key: u32, value: u32, entries: u32) -> MapShape {
    MapShape {
        name,
        kind,
        key,
        value,
        entries,
        is_each_cpus: false,
        is_mapped: false,
    }
}

/// The maps, as `ebpf/programs` defines them.
pub(super) const MAPS: [MapShape; 15] = [
    shape("svc4", MapType::Hash, 8, 16, MAX_FRONTENDS4),
    shape("svc6", MapType::Hash, 20, 16, MAX_FRONTENDS6),
    shape("slots4", MapType::Array, 4, 8, MAX_SLOTS4).mapped(),
    shape("slots6", MapType::Array, 4, 24, MAX_SLOTS6).mapped(),
    shape("streams", MapType::Array, 4, 48, MAX_STREAMS),
    shape("taken", MapType::Array, 4, 64, MAX_TAKEN),
    shape("sockets", MapType::SkStorage, 4, 40, 0),
    shape("replies", MapType::LruHash, 32, 20, MAX_REPLIES),
    shape("counters", MapType::Array, 4, 48, MAX_IDS).of_each_cpu().mapped(),
    shape("flows", MapType::Hash, 40, 48, MAX_FLOWS),
    shape("fragments", MapType::LruHash, 40, 4, MAX_FRAGMENTS),
    shape("members", MapType::Hash, 28, 4, MAX_MEMBERS),
    shape("affinities", MapType::LruHash, 20, 24, MAX_AFFINITIES),
    shape("ranges", MapType::LpmTrie, 24, 4, MAX_RANGES),
    shape("clients", MapType::Hash, 8, 24, MAX_CLIENTS),
];

/// The directory of all pins.
pub(super) struct Pins {
    root: PathBuf,
}

/// A directory of maps, and whether it is still to take the place of another one.
pub(super) struct MapSet {
    dir: PathBuf,
    staged: bool,
}

impl MapSet {
    pub(super) fn path(&self, map: &str) -> PathBuf {
        self.dir.join(map)
    }
}

impl Pins {
    /// Makes the directories, on a bpf file system that is mounted if there is none.
    pub(super) fn prepare(bpf_dir: &Path) -> Result<Self, MapsError> {
        if !is_bpffs(bpf_dir)? {
            mount(&mount_point(bpf_dir))?;
        }
        let pins = Self { root: bpf_dir.into() };
        for dir in [pins.layout(), pins.links()] {
            create_dir(&dir)?;
        }
        Ok(pins)
    }

    pub(super) fn links(&self) -> PathBuf {
        self.layout().join("links")
    }

    /// The maps of earlier agents where each has the right shape; otherwise an empty set beside them, which takes their
    /// place in [`Pins::commit`], after it has been filled and the programs use it.
    pub(super) fn usable_set(&self, cpus: u32) -> Result<MapSet, MapsError> {
        let (dir, fresh) = (self.layout().join("maps"), self.layout().join("maps_new"));
        if !dir.exists() && fresh.exists() {
            // The last agent came no further than this in its commit.
            std::fs::rename(&fresh, &dir).map_err(files("rename to", &dir))?;
        }
        let usable = MAPS.iter().all(|shape| shape.fits(&dir.join(shape.name), cpus));
        remove_tree(&fresh)?;
        let set = if usable {
            MapSet { dir, staged: false }
        } else {
            MapSet {
                dir: fresh,
                staged: true,
            }
        };
        create_dir(&set.dir)?;
        Ok(set)
    }

    /// Removes what the attached programs do not use: maps of another shape, links and maps of another layout.
    pub(super) fn commit(&self, set: &mut MapSet) -> Result<(), MapsError> {
        if set.staged {
            let dir = self.layout().join("maps");
            remove_tree(&dir)?;
            std::fs::rename(&set.dir, &dir).map_err(files("rename to", &dir))?;
            *set = MapSet { dir, staged: false };
        }
        let own = self.layout();
        for other in list(&self.root)?.into_iter().filter(|other| *other != own) {
            remove_layout(&other)?;
        }
        Ok(())
    }

    fn layout(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT}"))
    }
}

impl MapShape {
    /// Whether the path is free for a map of this shape, or has one.
    fn fits(&self, path: &Path, cpus: u32) -> bool {
        if !path.exists() {
            return true;
        }
        let Ok(info) = MapData::from_pin(path).and_then(|map| map.info()) else {
            return false;
        };
        let kind = info.map_type().is_ok_and(|kind| kind == self.kind);
        let can_be_mapped = info.map_flags() & BPF_F_MMAPABLE != 0;
        let mapped = can_be_mapped || !self.is_mapped;
        kind && mapped
            && (info.key_size(), info.value_size(), info.max_entries()) == (self.key, self.value, self.entries(cpus))
    }
}

/// Removes every program, link and map that was pinned below `bpf_dir`, and the mount if it was ours. Connections that
/// were made through a Service go on; new ones meet no Service any more.
pub fn remove_all(bpf_dir: &Path) -> Result<(), MapsError> {
    // Filters need no pins. What one of them refuses is told last.
    let (detours, links) = (detours::remove(), pod_links::remove());
    uplinks::remove_filters(|_| false);
    remove_pins(bpf_dir).and(links).and(detours)
}

fn remove_pins(bpf_dir: &Path) -> Result<(), MapsError> {
    if !is_bpffs(bpf_dir)? {
        return Ok(());
    }
    if bpf_dir.exists() {
        for layout in list(bpf_dir)? {
            remove_layout(&layout)?;
        }
    }
    unmount_if_ours(bpf_dir)?;
    remove_unless_mounted(bpf_dir)?;
    unmount_if_ours(&mount_point(bpf_dir))
}

fn unmount_if_ours(target: &Path) -> Result<(), MapsError> {
    if is_ours(target)? && list(target)?.is_empty() {
        nix::mount::umount2(target, MntFlags::empty()).map_err(|error| files("unmount", target)(error.into()))?;
    }
    Ok(())
}

fn remove_layout(layout: &Path) -> Result<(), MapsError> {
    uplinks::unpin(&layout.join("links"))?;
    links::remove(&layout.join("links"))?;
    remove_tree(layout)
}

/// Whether the path, or the nearest directory above it that is there, is on a bpf file system.
fn is_bpffs(path: &Path) -> Result<bool, MapsError> {
    let present = path
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    let kind = statfs(present).map_err(|error| files("look at the file system of", path)(error.into()))?;
    Ok(kind.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_point(bpf_dir: &Path) -> PathBuf {
    if bpf_dir.starts_with(USUAL) {
        USUAL.into()
    } else {
        bpf_dir.into()
    }
}

fn mount(target: &Path) -> Result<(), MapsError> {
    create_dir(target)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some(SOURCE), target, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|error| files("mount a bpf file system on", target)(error.into()))?;
    tracing::info!(target = %target.display(), "mounted a bpf file system");
    Ok(())
}

/// Whether the mount at this path was made by [`mount`].
fn is_ours(target: &Path) -> Result<bool, MapsError> {
    let mounts = Path::new("/proc/self/mounts");
    let text = std::fs::read_to_string(mounts).map_err(files("read", mounts))?;
    let line = format!("{SOURCE} {} bpf ", target.display());
    Ok(text.lines().any(|mount| mount.starts_with(&line)))
}

/// What people have made in a directory. Names with a dot are the kernel's own on a bpf file system.
fn list(dir: &Path) -> Result<Vec<PathBuf>, MapsError> {
    let entries = std::fs::read_dir(dir).map_err(files("list", dir))?;
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(files("list", dir))?;
        if !entry.file_name().to_string_lossy().contains('.') {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

fn create_dir(dir: &Path) -> Result<(), MapsError> {
    std::fs::create_dir_all(dir).map_err(files("make the directory", dir))
}

/// A directory that is somebody's mount point stays.
fn remove_unless_mounted(dir: &Path) -> Result<(), MapsError> {
    match absent_is_fine(std::fs::remove_dir(dir)) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        result => result.map_err(files("remove", dir)),
    }
}

fn remove_tree(path: &Path) -> Result<(), MapsError> {
    absent_is_fine(std::fs::remove_dir_all(path)).map_err(files("remove", path))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            Ok(())
        } else {
            Err(error)
        }
    })
}

fn files(action: &'static str, path: &Path) -> impl Fn(io::Error) -> MapsError + use<> {
    let path = path.to_path_buf();
    move |source| MapsError::Files {
        action,
        path: path.clone(),
        source,
    }
}
