//! `linux.devices` and the devices that every container has.

use std::cell::RefCell;
use std::ffi::CString;
use std::path::Path;

use nix::sys::stat::makedev;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::mounts::Surroundings;
use crate::container_path::ContainerPath;
use crate::plan::{FieldError, Steps, c_string};
use crate::step::{Device, InitStep};
use crate::sys::mount::Attributes;
use crate::tree::{Flags, Tree};

/// Name, major and minor number of the character devices in every container (OCI config-linux, "Default Devices").
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links in every container's /dev (OCI runtime-linux, "Dev symbolic links").
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    (PTMX, "pts/ptmx"),
];

/// A link in every container, whatever device is asked for there, as for runc.
const PTMX: &str = "/dev/ptmx";

/// The devices of a container: its own, and the default ones that it does not list.
pub(crate) fn of(listed: &[LinuxDevice]) -> Result<Vec<Device>, FieldError> {
    let is_link = |device: &LinuxDevice| device.path() == Path::new(PTMX);
    let mut devices = listed
        .iter()
        .enumerate()
        .filter(|(_, device)| !is_link(device))
        .map(listed_device)
        .collect::<Result<Vec<_>, _>>()?;
    for (path, major, minor) in DEFAULT_DEVICES {
        let path = ContainerPath::new("linux.devices", Path::new(path))?;
        if devices.iter().all(|device| device.path != path) {
            devices.push(Device {
                path,
                kind: libc::S_IFCHR,
                major,
                minor,
                mode: 0o666,
                uid: 0,
                gid: 0,
            });
        }
    }
    Ok(devices)
}

fn listed_device((index, device): (usize, &LinuxDevice)) -> Result<Device, FieldError> {
    let field = |name: &str| format!("linux.devices[{index}].{name}");
    let path = ContainerPath::new(field("path"), device.path())?;
    if path.is_root() {
        return Err(FieldError::new(field("path"), "a device needs a name"));
    }
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => return Err(FieldError::new(field("type"), "\"a\" is a rule, not a device")),
    };
    let number = |name: &str, value: i64| {
        u32::try_from(value).map_err(|_| FieldError::new(field(name), "is not a device number"))
    };
    Ok(Device {
        path,
        kind,
        major: number("major", device.major())?,
        minor: number("minor", device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// Makes the devices and the standard links. In a user namespace nobody makes device nodes: the host's are shown.
pub(crate) fn plan(around: &Surroundings<'_>, steps: &mut Steps) -> Result<(), FieldError> {
    let field = "linux.devices";
    for device in &around.devices {
        if around.in_user_namespace() && device.kind != libc::S_IFIFO {
            around.bind(field, host_node(device, around)?, device.path.clone(), steps);
        } else {
            steps.push(field, InitStep::MakeDevice(device.clone()));
        }
    }
    for (link, target) in LINKS {
        let link = ContainerPath::new(field, Path::new(link))?;
        let target = CString::new(target).map_err(|_| FieldError::new(field, "holds a null byte"))?;
        steps.push(field, InitStep::MakeSymlink { link, target });
    }
    Ok(())
}

/// The node of the same name and number on the host.
fn host_node(device: &Device, around: &Surroundings<'_>) -> Result<Tree, FieldError> {
    let source = device.path.to_string();
    Ok(Tree {
        path: c_string("linux.devices", source.as_ref())?,
        source: source.into(),
        recursive: false,
        flags: Flags::default(),
        is_locked: false,
        recursive_attributes: Attributes::propagating(libc::MS_PRIVATE),
        id_map: None,
        device: Some((device.kind, makedev(device.major.into(), device.minor.into()))),
        taker: around.taker(None),
        taken: RefCell::default(),
    })
}
