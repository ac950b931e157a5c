//! `run`: create, start, wait, clean up.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use oci_spec::runtime::Spec;
use runtime::cgroup::{self, Cgroup};
use runtime::container::{self, CreateRequest, Rootfs, SingleThreaded};

use crate::arguments::Run;
use crate::foreground::{Foreground, stdio};
use crate::state::{StateDirectory, read_spec};

/// How long the last processes of a killed container may take to go away.
const END_LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn run(run: &Run) -> Result<u8> {
    let bundle = fs::canonicalize(&run.bundle).with_context(|| format!("find the bundle {}", run.bundle.display()))?;
    let spec = read_spec(&bundle)?;
    let state = StateDirectory::take(&run.root, &run.id, run.keep)?;
    let cgroup = CgroupOfRun {
        cgroup: Cgroup::at(cgroup_path(&spec, &run.id)?),
        keep: run.keep,
    };
    let foreground = Foreground::take()?;
    let request = CreateRequest {
        spec: &spec,
        bundle: &bundle,
        rootfs: Rootfs::Directory(rootfs(&spec, &bundle)?),
        cgroup: Some(cgroup.cgroup.path().to_owned()),
        stdio: stdio(is_terminal(&spec))?,
        dies_with_parent: false,
    };
    let created = container::create(&SingleThreaded::prove()?, request)?;
    for sentence in &created.unenforced {
        eprintln!("orlop-oci: warning: {sentence}");
    }
    state.write(created.pid, &bundle, cgroup.cgroup.path())?;
    if let Some(file) = &run.pid_file {
        fs::write(file, created.pid.to_string()).with_context(|| format!("write {}", file.display()))?;
    }
    let exit = foreground.wait(created.start()?)?;
    Ok(exit.shell_code())
}

/// The container's cgroup: whatever is left in it ends with the container.
struct CgroupOfRun {
    cgroup: Cgroup,
    keep: bool,
}

impl Drop for CgroupOfRun {
    fn drop(&mut self) {
        let end = || {
            self.cgroup.kill()?;
            self.cgroup.wait_until_empty(END_LIMIT)?;
            if self.keep { Ok(()) } else { self.cgroup.remove() }
        };
        if let Err(error) = end() {
            let error = anyhow::Error::from(error);
            eprintln!("orlop-oci: {error:#}");
        }
    }
}

fn is_terminal(spec: &Spec) -> bool {
    spec.process()
        .as_ref()
        .and_then(|process| process.terminal())
        .unwrap_or(false)
}

fn rootfs(spec: &Spec, bundle: &Path) -> Result<PathBuf> {
    let root = spec.root().as_ref().context("config.json: root: is missing")?;
    let path = bundle.join(root.path());
    fs::canonicalize(&path).with_context(|| format!("find the root filesystem {}", path.display()))
}

/// `linux.cgroupsPath` below the cgroup2 root; without it a place of our own.
fn cgroup_path(spec: &Spec, id: &str) -> Result<PathBuf> {
    let root = cgroup::root()?;
    let asked = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    let Some(asked) = asked.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(root.join(format!("orlop-oci-{id}")));
    };
    if asked.components().any(|component| component == Component::ParentDir) {
        bail!("config.json: linux.cgroupsPath: must not contain \"..\"");
    }
    Ok(root.join(asked.strip_prefix("/").unwrap_or(asked)))
}
