//! Debian's cloud kernels: fetched once, unpacked for QEMU, kept in the cache.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::apt::AptDir;
use super::{image, modules};
use crate::{command, workspace};

/// A kernel that a VM can boot.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// Major and minor version, as `--kernel` takes it: `6.1`.
    pub(crate) name: String,
    /// The ELF image.
    pub(crate) image: PathBuf,
    /// A cpio archive of modules in `/modules`, named in their order of loading.
    pub(crate) modules: PathBuf,
}

/// Kernels that the matrix has, and the Debian suite that ships each.
pub(crate) const MATRIX: [(&str, &str); 2] = [("6.1", "bookworm"), ("6.12", "trixie")];
/// Kernels that can be asked for by name besides.
const OPTIONAL: [(&str, &str); 1] = [("7", "trixie-backports")];

/// The kernel `name`, from the cache or from Debian.
pub(crate) fn obtain(name: &str) -> anyhow::Result<Kernel> {
    let Some((name, suite)) = MATRIX.into_iter().chain(OPTIONAL).find(|(known, _)| *known == name) else {
        bail!("no kernel {name}: known are {}", names().join(", "));
    };
    let dir = workspace::cache_dir().join("kernels").join(suite);
    let kernel = Kernel {
        name: name.to_owned(),
        image: dir.join("vmlinux"),
        modules: dir.join("modules.cpio"),
    };
    // Written last, so it says that the rest is complete. Another list of modules is another archive.
    let stamp = dir.join(format!("complete-{}", modules::list_id()));
    if !stamp.exists() {
        eprintln!("  fetching the {name} cloud kernel of Debian {suite} (about 30 MB), for the test VM");
        fetch(suite, &dir, &kernel).with_context(|| format!("fetch the {name} kernel of Debian {suite}"))?;
        std::fs::write(&stamp, "").context("mark the kernel as complete")?;
    }
    Ok(kernel)
}

fn names() -> Vec<&'static str> {
    MATRIX.iter().chain(&OPTIONAL).map(|(name, _)| *name).collect()
}

fn fetch(suite: &str, dir: &Path, kernel: &Kernel) -> anyhow::Result<()> {
    let _ = std::fs::remove_dir_all(dir);
    let apt = AptDir::open(&dir.join("apt"), suite)?;
    let packages = apt.closure(&["linux-image-cloud-amd64"])?;
    let wanted = ["linux-image-", "linux-binary-", "linux-modules-"];
    let is_wanted =
        |name: &String| wanted.iter().any(|prefix| name.starts_with(prefix)) && name.contains(char::is_numeric);
    let packages: Vec<_> = packages.into_iter().filter(is_wanted).collect();
    let root = dir.join("root");
    apt.unpack(&packages, &root)?;
    image::extract(&find_image(&root)?, &kernel.image)?;
    modules::pack(&find_module_dir(&root)?, &kernel.modules)?;
    std::fs::remove_dir_all(dir.join("apt")).context("remove the apt directory")?;
    std::fs::remove_dir_all(root).context("remove the unpacked packages")
}

/// `/boot/vmlinuz-V`, or `/usr/lib/modules/V/vmlinuz` with newer packages.
fn find_image(root: &Path) -> anyhow::Result<PathBuf> {
    let listing = command::output(
        std::process::Command::new("find")
            .arg(root)
            .args(["-name", "vmlinuz*", "-type", "f"]),
    )?;
    listing
        .lines()
        .next()
        .map(PathBuf::from)
        .context("the packages hold no vmlinuz")
}

/// `/lib/modules/V` or `/usr/lib/modules/V`, the one with modules in it.
fn find_module_dir(root: &Path) -> anyhow::Result<PathBuf> {
    for base in ["lib/modules", "usr/lib/modules"] {
        let entries = std::fs::read_dir(root.join(base)).into_iter().flatten().flatten();
        if let Some(dir) = entries
            .map(|entry| entry.path())
            .find(|dir| dir.join("kernel").is_dir())
        {
            return Ok(dir);
        }
    }
    bail!("the packages hold no modules")
}
