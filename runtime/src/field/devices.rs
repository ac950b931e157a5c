//! `linux.devices` and the devices that every container has.

use std::ffi::CString;
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use crate::container_path::ContainerPath;
use crate::plan::{FieldError, Steps};
use crate::step::{Device, InitStep};

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
    ("/dev/ptmx", "pts/ptmx"),
];

/// The devices of a container: its own, and the default ones that it does not list.
pub(crate) fn of(listed: &[LinuxDevice]) -> Result<Vec<Device>, FieldError> {
    let mut devices = listed
        .iter()
        .enumerate()
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
    let path = ContainerPath::new(&field("path"), device.path())?;
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

/// Makes `devices` and the standard links.
pub(crate) fn plan(devices: &[Device], steps: &mut Steps) -> Result<(), FieldError> {
    for device in devices {
        steps.push("linux.devices", InitStep::MakeDevice(device.clone()));
    }
    for (link, target) in LINKS {
        let link = ContainerPath::new("linux.devices", Path::new(link))?;
        let target = CString::new(target).map_err(|_| FieldError::new("linux.devices", "holds a null byte"))?;
        steps.push("linux.devices", InitStep::MakeSymlink { link, target });
    }
    Ok(())
}
