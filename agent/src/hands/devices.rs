//! The node's devices, as privileged containers get them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};

/// Below /dev, what every container has of its own, or what is no device (`HostDevices` of containerd and runc).
const OWN: [&str; 8] = ["pts", "shm", "fd", "mqueue", ".udev", "console", "tty", "ptmx"];
/// The most devices that are passed on; a node has hundreds.
const LIMIT: usize = 4096;

/// Every device node below /dev.
pub fn of_host() -> Vec<LinuxDevice> {
    let mut devices = Vec::new();
    walk(Path::new("/dev"), &mut devices);
    devices
}

fn walk(dir: &Path, devices: &mut Vec<LinuxDevice>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_own = OWN.iter().any(|own| path == Path::new("/dev").join(own));
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if is_own || devices.len() >= LIMIT {
            continue;
        }
        if metadata.is_dir() {
            walk(&path, devices);
        } else {
            devices.extend(device(&path, &metadata));
        }
    }
}

fn device(path: &Path, metadata: &fs::Metadata) -> Option<LinuxDevice> {
    let kind = match metadata.file_type() {
        kind if kind.is_block_device() => LinuxDeviceType::B,
        kind if kind.is_char_device() => LinuxDeviceType::C,
        _ => return None,
    };
    let number = metadata.rdev();
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(i64::try_from(nix::sys::stat::major(number)).ok()?)
        .minor(i64::try_from(nix::sys::stat::minor(number)).ok()?)
        .file_mode(metadata.mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
        .ok()
}
