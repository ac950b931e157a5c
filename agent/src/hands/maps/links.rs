//! The programs and what holds them to the cgroup. A bpf_link stays attached while it is pinned, and its program can be
//! exchanged in place, so that an agent's restart or upgrade leaves no moment without a program.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr, ProgramError, ProgramFd};

use super::MapsError;

/// Hooks and programs in the order of attaching: who translates replies comes before who makes them necessary.
pub(super) const HOOKS: [(&str, &str); 11] = [
    ("sock_release", "service_release"),
    ("post_bind4", "service_post_bind4"),
    ("post_bind6", "service_post_bind6"),
    ("recvmsg4", "service_recvmsg4"),
    ("recvmsg6", "service_recvmsg6"),
    ("getpeername4", "service_getpeername4"),
    ("getpeername6", "service_getpeername6"),
    ("sendmsg4", "service_sendmsg4"),
    ("sendmsg6", "service_sendmsg6"),
    ("connect4", "service_connect4"),
    ("connect6", "service_connect6"),
];

pub(super) fn load(programs: &mut Ebpf) -> Result<(), MapsError> {
    for (_, name) in HOOKS {
        program(programs, name)?.load().map_err(failed("load", name))?;
    }
    Ok(())
}

pub(super) fn attach(programs: &mut Ebpf, cgroup: &Path, links: &Path) -> Result<(), MapsError> {
    let opened = File::open(cgroup).map_err(files("open the cgroup", cgroup))?;
    let id = opened.metadata().map_err(files("look at the cgroup", cgroup))?.ino();
    for (hook, name) in HOOKS {
        let mut program = program(programs, name)?;
        let at = links.join(hook);
        let fd = program.fd().map_err(failed("find", name))?;
        let replaced = match present(&at, id)? {
            Some(link) => replace(&link, fd, &at)?,
            None => false,
        };
        if !replaced {
            let link = program.attach(&opened).map_err(failed("attach", name))?;
            pin(link.ok_or(MapsError::Missing("link that can be pinned"))?, name, &at)?;
        }
    }
    Ok(())
}

/// Detaches and unpins every hook in the directory, the opposite way of attaching, so that no socket is left with half of
/// them. When this comes back, no new connection meets a Service.
pub(super) fn remove(links: &Path) -> Result<(), MapsError> {
    for (hook, _) in HOOKS.iter().rev() {
        detach(&links.join(hook))?;
    }
    Ok(())
}

/// Takes a pinned link's program off and unpins it, if there is one.
pub(super) fn detach(pin: &Path) -> Result<(), MapsError> {
    if let Some(link) = open(pin)? {
        ebpf_kernel::detach_link(link.as_fd()).map_err(files("detach the link", pin))?;
        remove_if_there(pin)?;
    }
    Ok(())
}

/// The pinned link, if there is one.
pub(super) fn open(pin: &Path) -> Result<Option<OwnedFd>, MapsError> {
    match ebpf_kernel::open_link(pin) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(files("open the link", pin)(error)),
    }
}

pub(super) fn verified_instructions(programs: &Ebpf) -> Vec<(&'static str, Option<u32>)> {
    let count = |name| programs.program(name)?.info().ok()?.verified_instruction_count();
    HOOKS.map(|(_, name)| (name, count(name))).to_vec()
}

/// The pinned link, if there is one and it is on the cgroup with this id.
fn present(pin: &Path, cgroup: u64) -> Result<Option<OwnedFd>, MapsError> {
    let Some(link) = open(pin)? else {
        return Ok(None);
    };
    let on = ebpf_kernel::link_cgroup(link.as_fd()).map_err(files("look at the link", pin))?;
    Ok((on == cgroup).then_some(link))
}

/// Exchanges the link's program; false when what it was attached to is gone, so that a new link is needed.
pub(super) fn replace(link: &OwnedFd, program: &ProgramFd, pin: &Path) -> Result<bool, MapsError> {
    const ENOLINK: i32 = 67;
    match ebpf_kernel::update_link(link.as_fd(), program.as_fd()) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(ENOLINK) => Ok(false),
        Err(error) => Err(files("replace the program of the link", pin)(error)),
    }
}

/// Puts a link in the place of whatever is pinned there.
pub(super) fn pin(link: FdLink, name: &'static str, pin: &Path) -> Result<(), MapsError> {
    // bpffs takes no name with a dot.
    let fresh = pin.with_file_name(format!("{name}_new"));
    remove_if_there(&fresh)?;
    let pinned = link.pin(&fresh).map_err(|source| MapsError::Pin {
        path: fresh.clone(),
        source,
    })?;
    std::fs::rename(&fresh, pin).map_err(files("rename to", pin))?;
    drop(pinned);
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), MapsError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(files("remove", path)(error)),
        _ => Ok(()),
    }
}

/// A program of one of the two kinds that a cgroup takes.
enum Hook<'a> {
    Address(&'a mut CgroupSockAddr),
    Socket(&'a mut CgroupSock),
}

impl Hook<'_> {
    fn load(&mut self) -> Result<(), ProgramError> {
        match self {
            Hook::Address(program) => program.load(),
            Hook::Socket(program) => program.load(),
        }
    }

    fn fd(&self) -> Result<&ProgramFd, ProgramError> {
        match self {
            Hook::Address(program) => program.fd(),
            Hook::Socket(program) => program.fd(),
        }
    }

    /// The link, unless the kernel is too old for links.
    fn attach(&mut self, cgroup: &File) -> Result<Option<FdLink>, ProgramError> {
        // A bpf_link is always one of many on its cgroup; the kernel takes no flag for that.
        const MODE: CgroupAttachMode = CgroupAttachMode::Single;
        match self {
            Hook::Address(program) => {
                let id = program.attach(cgroup, MODE)?;
                Ok(FdLink::try_from(program.take_link(id)?).ok())
            }
            Hook::Socket(program) => {
                let id = program.attach(cgroup, MODE)?;
                Ok(FdLink::try_from(program.take_link(id)?).ok())
            }
        }
    }
}

fn program<'a>(programs: &'a mut Ebpf, name: &'static str) -> Result<Hook<'a>, MapsError> {
    let program = programs.program_mut(name).ok_or(MapsError::Missing(name))?;
    // Which kind it is stands in the object; asking for the wrong one is an error.
    if name.starts_with("service_post_bind") || name == "service_release" {
        program.try_into().map(Hook::Socket).map_err(failed("find", name))
    } else {
        program.try_into().map(Hook::Address).map_err(failed("find", name))
    }
}

fn failed(action: &'static str, program: &'static str) -> impl Fn(ProgramError) -> MapsError {
    move |source| MapsError::Program {
        action,
        program,
        source,
    }
}

pub(super) fn files(action: &'static str, path: &Path) -> impl Fn(io::Error) -> MapsError + use<> {
    let path = path.to_path_buf();
    move |source| MapsError::Files {
        action,
        path: path.clone(),
        source,
    }
}
