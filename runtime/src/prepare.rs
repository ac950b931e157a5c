//! The parent's part of the steps: opens what they name, just before the clone.
//!
//! Detached mounts are made here, from the host's paths and in the host's mount namespace, but they are attached
//! nowhere until the child puts them into its own.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::container::{Rootfs, StepError};
use crate::home;
use crate::step::{BindMount, InitStep, MadeRoot, NamespaceFile, Planned, Program, RootMount};
use crate::sys::mount::{Attributes, fsconfig_create, fsconfig_set, fsmount, fsopen, mount_setattr, open_tree_clone};

/// mount(2) takes one page of options, its end included.
const PAGE: usize = 4096;

/// Opens whatever the steps need. `root` is that of a running container that a process is added to.
pub(crate) fn prepare(steps: &mut [Planned], root: Option<OwnedFd>) -> Result<(), StepError> {
    let mut roots: Vec<OwnedFd> = root.into_iter().collect();
    steps.iter_mut().try_for_each(|planned| {
        prepare_step(&mut planned.step, &mut roots).map_err(|errno| StepError {
            action: planned.step.describe(),
            field: planned.field.clone(),
            source: errno.into(),
        })
    })
}

/// `roots` are where the container's own files are found: its root, or the layers that will be it.
fn prepare_step(step: &mut InitStep, roots: &mut Vec<OwnedFd>) -> nix::Result<()> {
    if let InitStep::JoinNamespace(namespace) = step {
        prepare_namespace(namespace)?;
    } else if let InitStep::Bind(bind) = step {
        prepare_bind(bind)?;
    } else if let InitStep::MountRoot(root) = step {
        prepare_root(root)?;
        *roots = open_roots(root)?;
    } else if let InitStep::Execute(program) = step {
        prepare_program(program, roots)?;
    }
    Ok(())
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
    match (&root.made, &root.rootfs) {
        (MadeRoot::Tree(tree), _) => Ok(vec![openat(tree, c".", directory, Mode::empty())?]),
        (_, Rootfs::Overlay { lower, upper, .. }) => [upper]
            .into_iter()
            .chain(lower)
            .map(|layer| open(layer, directory, Mode::empty()))
            .collect(),
        (_, Rootfs::Directory(path)) => Ok(vec![open(path, directory, Mode::empty())?]),
    }
}

fn prepare_namespace(namespace: &mut NamespaceFile) -> nix::Result<()> {
    namespace.file = Some(open(
        &namespace.path,
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?);
    Ok(())
}

fn prepare_bind(bind: &mut BindMount) -> nix::Result<()> {
    let tree = clone_path(&bind.source, bind.recursive)?;
    change(&tree, bind.attributes, false)?;
    change(&tree, bind.recursive_attributes, true)?;
    bind.is_directory = is_directory(&tree)?;
    bind.tree = Some(tree);
    Ok(())
}

fn prepare_root(root: &mut RootMount) -> nix::Result<()> {
    root.made = match &root.rootfs {
        Rootfs::Directory(directory) => {
            let tree = clone_path(directory, true)?;
            change(&tree, root.attributes, true)?;
            MadeRoot::Tree(tree)
        }
        Rootfs::Overlay { lower, upper, work, .. } => make_overlay(lower, upper, work)?,
    };
    Ok(())
}

fn clone_path(path: &Path, recursive: bool) -> nix::Result<OwnedFd> {
    open_tree_clone(AT_FDCWD.as_fd(), &c_path(path)?, recursive)
}

fn change(tree: &OwnedFd, attributes: Attributes, recursive: bool) -> nix::Result<()> {
    if attributes.is_empty() {
        Ok(())
    } else {
        mount_setattr(tree.as_fd(), attributes, recursive)
    }
}

fn is_directory(tree: &OwnedFd) -> nix::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(tree)?.st_mode & libc::S_IFMT) == SFlag::S_IFDIR)
}

/// One option a layer, where the kernel has that (6.7); else everything in one page for mount(2). An older kernel takes
/// the option and refuses the whole at the end, in the same words as for a layer that is none: mount(2) then tells.
fn make_overlay(lower: &[PathBuf], upper: &Path, work: &Path) -> nix::Result<MadeRoot> {
    match overlay_tree(lower, upper, work) {
        Ok(tree) => Ok(MadeRoot::Tree(tree)),
        Err(Errno::EINVAL) => classic_overlay(lower, upper, work),
        Err(errno) => Err(errno),
    }
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
fn classic_overlay(lower: &[PathBuf], upper: &Path, work: &Path) -> nix::Result<MadeRoot> {
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
    Ok(MadeRoot::ClassicOverlay {
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
        let MadeRoot::ClassicOverlay { directory, options } = made else {
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
        let MadeRoot::ClassicOverlay { options, .. } = made else {
            panic!("not a classic overlay")
        };
        assert_eq!(
            options.as_c_str(),
            c"lowerdir=sha256\\:a:b\\,c,upperdir=/u\\\\,workdir=/w"
        );
    }
}
