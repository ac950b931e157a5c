//! The least that a container takes: a cgroup, one clone3 into it, the usual mounts, an exec. `cargo xtask bench runtime`
//! measures everything beside it. It checks nothing and confines nothing but by namespaces: no runtime.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, fchdir, mkdir, pivot_root};

use crate::cgroup::Cgroup;
use crate::container::{Created, Exit, SingleThreaded};
use crate::prepare::c_path;
use crate::sys::clone::clone3;
use crate::sys::exec::{StringArray, execve};
use crate::sys::namespace::{bring_loopback_up, sethostname};
use crate::sys::stopwatch::{self, Lap, lap};

const NAMESPACES: libc::c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
/// Mounts that are made in every container: type, place and options.
const MOUNTS: [(&CStr, &CStr, Option<&CStr>); 6] = [
    (c"proc", c"proc", None),
    (c"tmpfs", c"dev", Some(c"mode=755,size=65536k")),
    (c"devpts", c"dev/pts", Some(c"newinstance,ptmxmode=0666,mode=0620")),
    (c"tmpfs", c"dev/shm", Some(c"mode=1777,size=65536k")),
    (c"mqueue", c"dev/mqueue", None),
    (c"sysfs", c"sys", None),
];
const DIRECTORIES: [&CStr; 3] = [c"dev/pts", c"dev/shm", c"dev/mqueue"];
const DEVICES: [(&CStr, u64); 6] = [
    (c"dev/null", 3),
    (c"dev/zero", 5),
    (c"dev/full", 7),
    (c"dev/random", 8),
    (c"dev/urandom", 9),
    (c"dev/tty", 0),
];

/// Begins to note when what is done while a container is made.
pub fn start_stopwatch() -> io::Result<()> {
    Ok(stopwatch::start()?)
}

/// Its program has ended.
pub fn ended() {
    lap(Lap::ENDED);
}

/// What was done since [`start_stopwatch`], in its order, until its cgroup was removed just now, each with its nanoseconds. The
/// child's steps are those of `steps`.
pub fn laps(steps: &[String]) -> Vec<(String, u64)> {
    lap(Lap::REMOVED);
    stopwatch::laps(steps)
}

/// What the child does, step by step.
pub fn steps(created: &Created) -> Vec<String> {
    created.steps.iter().map(|(action, _)| action.clone()).collect()
}

/// Runs `program` of the filesystem `root` in the new cgroup `cgroup` to its end, and removes the cgroup.
pub fn run(token: &SingleThreaded, root: &Path, cgroup: &Path, program: &CStr) -> io::Result<Exit> {
    let cgroup = Cgroup::at(cgroup);
    cgroup.create(&[]).map_err(io::Error::other)?;
    let directory = cgroup.open().map_err(io::Error::other)?;
    let root = c_path(root)?;
    let arguments = StringArray::new(vec![program.to_owned()]);
    let environment = StringArray::new(vec![CString::from(c"PATH=/bin")]);
    let child = clone3(token, NAMESPACES, Some(directory.as_fd()), || {
        // Whoever reads the exit code sees that something went wrong.
        if set_up(&root).is_ok() {
            execve(program, &arguments, &environment);
        }
        crate::sys::clone::exit_now(127);
    })?;
    let exit = Exit::wait(child.pidfd.as_fd())?;
    cgroup.remove().map_err(io::Error::other)?;
    Ok(exit)
}

fn set_up(root: &CStr) -> nix::Result<()> {
    let none = None::<&CStr>;
    mount(none, c"/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some(root), root, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    chdir(root)?;
    for (kind, place, options) in MOUNTS {
        if place == c"dev/pts" {
            DIRECTORIES
                .iter()
                .try_for_each(|name| mkdir(*name, Mode::from_bits_truncate(0o755)))?;
        }
        mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            options,
        )?;
    }
    for (name, minor) in DEVICES {
        let major = if minor == 0 { 5 } else { 1 };
        mknod(
            name,
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o666),
            makedev(major, minor),
        )?;
    }
    sethostname(c"floor")?;
    bring_loopback_up()?;
    let old = open(
        c"/",
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    pivot_root(c".", c".")?;
    fchdir(&old)?;
    umount2(c".", MntFlags::MNT_DETACH)?;
    chdir(c"/")
}
