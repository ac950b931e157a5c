//! The parent's part of the steps: opens what they name, just before the clone.
//!
//! Detached mounts of what the child can't take itself (see [`Taker`](crate::tree::Taker)) are made here, from the host's
//! paths and in the host's mount namespace, but they are attached nowhere until the child puts them into its own.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use crate::container::StepError;
use crate::privileges::Privileges;
use crate::step::{InitStep, MadeOverlay, NamespaceFile, OverlayMount, Planned, Program, RootMount};
use crate::sys::mount::{fsconfig_create, fsconfig_set, fsmount, fsopen, map_ids};
use crate::sys::pidfd::{pid_of, pidfd_send_signal};
use crate::sys::thread::SingleThreaded;
use crate::tree::{Ids, Taker, Tree};
use crate::{home, mapping, proc};

/// mount(2) takes one page of options, its end included.
const PAGE: usize = 4096;

/// What steps are prepared with.
pub(crate) struct Preparation<'a> {
    pub(crate) token: &'a SingleThreaded,
    pub(crate) privileges: Privileges,
    /// Where the container's own files are found: its root, or the layers that will be it.
    pub(crate) roots: Vec<OwnedFd>,
}

impl Preparation<'_> {
    /// Opens whatever the steps need.
    pub(crate) fn prepare(mut self, steps: &mut [Planned]) -> Result<(), StepError> {
        steps.iter_mut().try_for_each(|planned| {
            self.step(&mut planned.step).map_err(|source| StepError {
                action: planned.step.describe(),
                field: planned.field.clone(),
                source,
            })
        })
    }

    fn step(&mut self, step: &mut InitStep) -> io::Result<()> {
        if let InitStep::JoinNamespace(namespace) = step {
            prepare_namespace(namespace)?;
        } else if let InitStep::JoinContainerByFiles { process, files } = step {
            prepare_container(process.as_fd(), files)?;
        } else if let InitStep::Bind(bind) = step {
            if bind.source_inside.is_none() {
                self.take(&bind.tree)?;
            }
        } else if let InitStep::MountRoot(root) = step {
            self.root(root)?;
            self.roots = open_roots(root)?;
        } else if let InitStep::MoveRoot { whole } = step {
            *whole = hosts_whole_filesystems()?;
        } else if let InitStep::Execute(program) = step {
            prepare_program(program, &self.roots)?;
        }
        Ok(())
    }

    /// The child can't map ids.
    fn take(&self, tree: &Tree) -> io::Result<()> {
        if tree.taker == Taker::Child {
            return match tree.id_map {
                None => Ok(()),
                Some(_) => Err(io::Error::other("an id-mapped mount needs CAP_SYS_ADMIN")),
            };
        }
        tree.take()?;
        let Some(id_map) = &tree.id_map else { return Ok(()) };
        let namespace = self.namespace_of(&id_map.ids)?;
        match tree.with(|mount| map_ids(mount, namespace.as_fd(), id_map.recursive)) {
            Err(Errno::EINVAL) => Err(io::Error::other("its filesystem can't be id-mapped on this kernel")),
            result => Ok(result?),
        }
    }

    /// A user namespace in which ids are those of an id-mapped mount.
    fn namespace_of(&self, ids: &Ids) -> io::Result<OwnedFd> {
        match ids {
            Ids::Listed(mappings) => mapping::user_namespace(self.token, mappings, self.privileges)
                .map_err(|error| io::Error::other(format!("{}: {}", error.action, error.source))),
            Ids::OfNamespace(path) => Ok(open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?),
        }
    }

    fn root(&self, root: &mut RootMount) -> io::Result<()> {
        match root {
            RootMount::Directory { tree, .. } => self.take(tree),
            RootMount::Overlay(overlay) => Ok(make_overlay(overlay)?),
        }
    }
}

/// Where the host has a procfs or sysfs in which nothing is left out.
fn hosts_whole_filesystems() -> io::Result<Vec<CString>> {
    let list = std::fs::read("/proc/self/mountinfo")?;
    let places = proc::whole_mounts_of(&list, &["proc", "sysfs"]).into_iter();
    Ok(places
        .map(|place| CString::new(place.into_os_string().into_vec()))
        .collect::<Result<_, _>>()?)
}

fn prepare_program(program: &mut Program, roots: &[OwnedFd]) -> nix::Result<()> {
    let Some(uid) = program.home_of else { return Ok(()) };
    let home = home::of(uid, &roots.iter().map(AsFd::as_fd).collect::<Vec<_>>());
    program
        .environment
        .push(CString::new(format!("HOME={home}")).map_err(|_| Errno::EINVAL)?);
    Ok(())
}

/// The root itself; or, where it is not mounted yet, its layers from the top.
fn open_roots(root: &RootMount) -> nix::Result<Vec<OwnedFd>> {
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let below = |mount: BorrowedFd<'_>| openat(mount, c".", directory, Mode::empty());
    match root {
        RootMount::Directory { tree, .. } => match tree.with(below) {
            Ok(root) => Ok(vec![root]),
            Err(_) => Ok(vec![open(tree.path.as_c_str(), directory, Mode::empty())?]),
        },
        RootMount::Overlay(overlay) => match &overlay.made {
            MadeOverlay::Tree(mount) => Ok(vec![below(mount.as_fd())?]),
            MadeOverlay::Planned | MadeOverlay::Classic { .. } => [&overlay.upper]
                .into_iter()
                .chain(&overlay.lower)
                .map(|layer| open(layer, directory, Mode::empty()))
                .collect(),
        },
    }
}

/// Opens a namespace that the child or its maker enters.
pub(crate) fn prepare_namespace(namespace: &mut NamespaceFile) -> nix::Result<()> {
    if namespace.file.is_none() {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        namespace.file = Some(open(&namespace.path, flags, Mode::empty())?);
    }
    Ok(())
}

/// Opens namespaces of a container's process.
fn prepare_container(process: BorrowedFd<'_>, files: &mut [NamespaceFile]) -> io::Result<()> {
    let pid = pid_of(process).ok_or(Errno::ESRCH)?;
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let entry = open(format!("/proc/{pid}").as_str(), directory, Mode::empty())?;
    // Still there: so the number was its own all the time.
    pidfd_send_signal(process, 0)?;
    for namespace in files {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        namespace.file = Some(openat(&entry, &namespace.path, flags, Mode::empty())?);
    }
    Ok(())
}

/// One option a layer, where the kernel has that (6.7); else everything in one page for mount(2). An older kernel takes
/// the option and refuses the whole at the end, in the same words as for a layer that is none: mount(2) then tells.
fn make_overlay(overlay: &mut OverlayMount) -> nix::Result<()> {
    let (lower, upper, work) = (&overlay.lower, &overlay.upper, &overlay.work);
    overlay.made = match overlay_tree(lower, upper, work) {
        Ok(tree) => MadeOverlay::Tree(tree),
        Err(Errno::EINVAL) => classic_overlay(lower, upper, work)?,
        Err(errno) => return Err(errno),
    };
    Ok(())
}

fn overlay_tree(lower: &[PathBuf], upper: &Path, work: &Path) -> nix::Result<OwnedFd> {
    let overlay = fsopen(c"overlay")?;
    let set = |key, path: &Path| fsconfig_set(overlay.as_fd(), key, Some(&c_path(path)?));
    set(c"source", Path::new("overlay"))?;
    lower.iter().try_for_each(|layer| set(c"lowerdir+", layer))?;
    set(c"upperdir", upper)?;
    set(c"workdir", work)?;
    fsconfig_create(overlay.as_fd())?;
    fsmount(overlay.as_fd(), 0)
}

/// Names the layers from the directory that they share, so that fifty of them fit a page.
fn classic_overlay(lower: &[PathBuf], upper: &Path, work: &Path) -> nix::Result<MadeOverlay> {
    let directory = common_directory(lower);
    let mut options = b"lowerdir=".to_vec();
    for (index, layer) in lower.iter().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        escape(layer.strip_prefix(&directory).unwrap_or(layer), &mut options);
    }
    for (name, path) in [(",upperdir=", upper), (",workdir=", work)] {
        options.extend_from_slice(name.as_bytes());
        escape(path, &mut options);
    }
    if options.len() >= PAGE {
        return Err(Errno::E2BIG);
    }
    let options = CString::new(options).map_err(|_| Errno::EINVAL)?;
    Ok(MadeOverlay::Classic {
        directory: c_path(&directory)?,
        options,
    })
}

fn common_directory(paths: &[PathBuf]) -> PathBuf {
    let mut parents = paths.iter().map(|path| path.parent().unwrap_or(path).to_owned());
    let first = parents.next().unwrap_or_default();
    parents.fold(first, |common, path| {
        common
            .ancestors()
            .find(|ancestor| path.starts_with(ancestor))
            .unwrap_or(Path::new("/"))
            .to_owned()
    })
}

/// Overlayfs splits at colons and commas; a backslash takes their meaning away.
fn escape(path: &Path, options: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(*byte);
    }
}

/// A path for the kernel; one with a null byte names nothing.
pub(crate) fn c_path(path: &Path) -> nix::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::ENOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(list: &[&str]) -> Vec<PathBuf> {
        list.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn layers_are_named_from_what_they_share() {
        for (layers, common) in [
            (vec!["/l/a", "/l/b"], "/l"),
            (vec!["/l/a/diff", "/l/b/diff"], "/l"),
            (vec!["/l/a"], "/l"),
            (vec!["/x/a", "/y/b"], "/"),
        ] {
            assert_eq!(common_directory(&paths(&layers)), Path::new(common), "{layers:?}");
        }
    }

    #[test]
    fn fifty_layers_fit_a_page_and_too_many_are_refused() {
        let layers = |count: usize| {
            (0..count)
                .map(|n| PathBuf::from(format!("/var/l/{n:064}")))
                .collect::<Vec<_>>()
        };
        let made = classic_overlay(&layers(50), Path::new("/u"), Path::new("/w")).unwrap();
        let MadeOverlay::Classic { directory, options } = made else {
            panic!("not a classic overlay")
        };
        assert_eq!(directory.as_c_str(), c"/var/l");
        assert!(options.count_bytes() < PAGE);
        assert!(matches!(
            classic_overlay(&layers(70), Path::new("/u"), Path::new("/w")),
            Err(Errno::E2BIG)
        ));
    }

    #[test]
    fn separators_in_names_are_escaped() {
        let made = classic_overlay(&paths(&["/l/sha256:a", "/l/b,c"]), Path::new("/u\\"), Path::new("/w")).unwrap();
        let MadeOverlay::Classic { options, .. } = made else {
            panic!("not a classic overlay")
        };
        assert_eq!(
            options.as_c_str(),
            c"lowerdir=sha256\\:a:b\\,c,upperdir=/u\\\\,workdir=/w"
        );
    }
}
