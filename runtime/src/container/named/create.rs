//! `create`: makes a container and its record. Half of one is never left behind.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::delete::put_away;
use super::error::{VerbError, file};
use super::record::{Init, Record};
use super::store::{Named, Store};
use crate::cgroup::place::Place;
use crate::cgroup::systemd::Held;
use crate::cgroup::{Cgroup, CgroupError, Limits};
use crate::container::config;
use crate::container::create::{Company, create_with};
use crate::container::hook;
use crate::container::{CreateRequest, Created, FieldError, Manner, Rootfs, Running, SingleThreaded, Stdio};
use crate::plan::to_start;
use crate::report::START;
use crate::spec::Spec;
use crate::step::Gate;

/// How long who is in a cgroup may take to go: on a busy machine those of the container that was there before leave it a
/// moment after their end is told.
const GOING: Duration = Duration::from_secs(1);

/// What to make, and how.
#[derive(Debug)]
pub struct CreateOrder<'a> {
    /// The new name.
    pub id: &'a str,
    /// Where its cgroup is to be.
    pub cgroup: Place,
    /// Go on without a cgroup of its own where this process may not make one.
    pub is_rootless: bool,
    /// Its standard streams.
    pub stdio: Stdio,
    /// What the caller wants besides.
    pub manner: Manner,
    /// Its start follows, by who makes it: nobody else is to find it waiting.
    pub starts: bool,
}

/// A container that has just been made and waits. Dropping it puts everything away again.
#[derive(Debug)]
pub struct Fresh {
    named: Named,
    spec: Spec,
    created: Option<Created>,
}

/// A bundle's configuration, and where it comes from.
#[derive(Debug)]
pub struct Bundle {
    /// Its absolute directory.
    pub directory: PathBuf,
    /// The configuration.
    pub spec: Spec,
    /// A sentence for whatever of it was passed over.
    pub passed_over: Vec<String>,
    text: Vec<u8>,
}

impl Bundle {
    /// Reads the configuration of a bundle.
    pub fn read(directory: &Path, config: Option<&Path>) -> Result<Self, VerbError> {
        let absolute = fs::canonicalize(directory).map_err(file("find the bundle", directory))?;
        let path = config.map_or_else(|| absolute.join("config.json"), Path::to_owned);
        let text = fs::read(&path).map_err(file("read", &path))?;
        let mut passed_over = Vec::new();
        let spec = config::read_telling(&text, &mut passed_over);
        let spec = spec.map_err(|error| file("parse", &path)(error.into()))?;
        Ok(Self {
            directory: absolute,
            spec,
            passed_over,
            text,
        })
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The absolute directory of its root filesystem.
    pub fn rootfs(&self) -> Result<PathBuf, VerbError> {
        let root = self.spec.root().as_ref();
        let root = root.ok_or_else(|| FieldError::new("root", "is missing"))?;
        let path = self.directory.join(root.path());
        fs::canonicalize(&path).map_err(file("find the root filesystem", &path))
    }
}

impl Store {
    /// Makes a container of `bundle`, which waits to be started or left.
    pub fn create(&self, bundle: Bundle, order: CreateOrder<'_>) -> Result<Fresh, VerbError> {
        let token = SingleThreaded::prove()?;
        if order.starts {
            to_start(&bundle.spec)?;
        }
        let rootfs = bundle.rootfs()?;
        let mut named = Named {
            directory: self.take(order.id)?,
            record: Record::new(order.id, &bundle.directory, &rootfs, order.cgroup.directory()),
        };
        let had_cgroup = named.has_cgroup();
        if order.is_rootless {
            named.do_without_cgroup();
        }
        named.take_free_cgroup()?;
        let mut fresh = Fresh {
            named,
            spec: bundle.spec,
            created: None,
        };
        let made = fresh.make(&token, &bundle.text, rootfs, order);
        if made.is_err() && had_cgroup {
            // It is somebody else's, with what is in it.
            fresh.named.record.cgroup = None;
        }
        made.map(|()| fresh)
    }
}

impl Fresh {
    fn make(
        &mut self,
        token: &SingleThreaded,
        config: &[u8],
        rootfs: PathBuf,
        order: CreateOrder<'_>,
    ) -> Result<(), VerbError> {
        let named = &mut self.named;
        named.write_config(config)?;
        let scope = named.make_scope(token, &order.cgroup, &self.spec)?;
        named.record.count_mounts(&self.spec)?;
        let groups = named.plan_resctrl(&self.spec)?;
        // Before the process is there: whoever finds the creator dead must know which cgroup to empty.
        named.write()?;
        groups.map_or(Ok(()), |groups| groups.make())?;
        // Hooks may ask what it is doing: it waits.
        let is_held = order.starts && !hook::has_any(&self.spec);
        let gate = if is_held { None } else { Some(named.make_gate()?) };
        let hooks = named.hooks(&self.spec);
        let request = CreateRequest {
            spec: &self.spec,
            bundle: &named.record.bundle,
            rootfs: Rootfs::Directory(rootfs),
            cgroup: named.record.cgroup.clone(),
            stdio: order.stdio,
            manner: order.manner,
        };
        let company = Company {
            hooks: Some(&hooks),
            gate,
            groups: &named.record.resctrl.joined,
            unit: named.record.scope(),
        };
        let created = create_with(token, request, company)?;
        scope.map_or(Ok(()), |scope| scope.let_go(named.record.scope()))?;
        let init = Init::of(created.pid).map_err(|error| VerbError::Kernel("look at the new process", error))?;
        named.record.init = Some(init);
        if !is_held {
            named.record.steps = created.pending().collect();
        }
        self.created = Some(created);
        self.named.write()
    }

    /// The process id of its init.
    pub fn pid(&self) -> u32 {
        self.created.as_ref().map_or(0, |created| created.pid)
    }

    /// What it asks for and this host can't enforce.
    pub fn unenforced(&self) -> &[String] {
        self.created.as_ref().map_or(&[], |created| &created.unenforced)
    }

    /// Takes the master of its terminal.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.created.as_mut().and_then(|created| created.terminal.take())
    }

    /// A pidfd of its init.
    pub fn pidfd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.created.as_ref().map(|created| created.pidfd.as_fd())
    }

    /// Leaves it waiting for `start`, when this process has gone, too.
    pub fn leave(mut self) -> Result<(), VerbError> {
        if let Some(created) = self.created.as_ref() {
            created.leave()?;
        }
        self.created = None;
        Ok(())
    }

    /// Starts it.
    pub fn start(mut self) -> Result<(Running, Named), VerbError> {
        let token = SingleThreaded::prove()?;
        let pid = self.pid();
        let has_hooks = hook::has_any(&self.spec);
        // Hooks take time, in which somebody else may start it.
        let _claim = has_hooks.then(|| self.named.claim()).transpose()?;
        if has_hooks {
            let (_, pidfd) = self.named.init()?;
            let target = self.named.target(&pidfd, &self.spec);
            self.named.hooks(&self.spec).in_container(&token, target, pid)?;
        }
        let Some(created) = self.created.take() else {
            return Err(VerbError::NotRunning);
        };
        match created.start() {
            Ok(running) => {
                if let Err(error) = self.named.after_start(&token, &self.spec, pid) {
                    self.put_away();
                    return Err(error);
                }
                Ok((running, self.named.clone()))
            }
            Err(error) => {
                self.put_away();
                Err(error.into())
            }
        }
    }

    fn put_away(&mut self) {
        // The error that the caller returns says more than what could not be put away either.
        if let Ok(token) = SingleThreaded::prove() {
            let _ = put_away(&token, &self.named, Some(&self.spec));
        }
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // One that has been left or started is on its own.
        let is_on_its_own = self.created.is_none() && self.named.record.init.is_some();
        if !is_on_its_own {
            self.created = None;
            self.put_away();
        }
    }
}

impl Named {
    /// Gives the cgroup up that this process may not make. What it should have enforced is then reported.
    fn do_without_cgroup(&mut self) {
        let may_not = |error: &CgroupError| {
            use std::io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
            matches!(error.source.kind(), PermissionDenied | ReadOnlyFilesystem | NotFound)
        };
        let made = self.cgroup().map_or(Ok(false), |cgroup| cgroup.create(&[]));
        if made.is_err_and(|error| may_not(&error)) {
            self.record.cgroup = None;
        }
    }

    /// Has systemd make the scope, which has to be held until a process of the container's is in it.
    pub(super) fn make_scope(
        &mut self,
        token: &SingleThreaded,
        place: &Place,
        spec: &Spec,
    ) -> Result<Option<Held>, VerbError> {
        let Place::Scope(scope) = place else { return Ok(None) };
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let limits = resources.map(Limits::of).transpose()?.unwrap_or_default();
        let held = scope.make(token, &limits)?;
        self.record.cgroup = Some(held.cgroup().to_owned());
        self.record.unit = Some(scope.name().to_owned());
        self.record.manager = scope.manager();
        Ok(Some(held))
    }

    pub(super) fn cgroup(&self) -> Option<Cgroup> {
        self.record.cgroup.as_ref().map(Cgroup::at)
    }

    /// Whether its cgroup is there.
    pub(super) fn has_cgroup(&self) -> bool {
        self.cgroup().is_some_and(|cgroup| cgroup.exists())
    }

    /// Refuses a cgroup that others are in, and gives the name back: nothing was there yet that hooks could be told of.
    pub(super) fn take_free_cgroup(&self) -> Result<(), VerbError> {
        self.find_free().inspect_err(|_| {
            // The error says more than what could not be removed either.
            let _ = self.remove();
        })
    }

    fn find_free(&self) -> Result<(), VerbError> {
        let Some(cgroup) = self.cgroup() else { return Ok(()) };
        if cgroup.wait_until_empty(GOING)? {
            return Ok(());
        }
        match cgroup.processes()?.len() {
            0 => Ok(()),
            processes => Err(VerbError::CgroupOccupied {
                cgroup: cgroup.path().to_owned(),
                processes,
            }),
        }
    }

    fn make_gate(&self) -> Result<Gate, VerbError> {
        Ok(Gate {
            start: pipe(&self.start_pipe())?,
            report: pipe(&self.report_pipe())?,
        })
    }
}

/// Open for reading and writing, it never comes to an end for who waits at it.
fn pipe(path: &Path) -> Result<OwnedFd, VerbError> {
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    mkfifo(path, mode).map_err(|errno| file("make the pipe", path)(errno.into()))?;
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    open(path, flags, Mode::empty()).map_err(|errno| file("open the pipe", path)(errno.into()))
}

/// The byte that starts it.
pub(super) const START_BYTE: [u8; 1] = [START];
