//! `hooks`: programs that the spec wants run at moments of a container's life, with its state on their standard input.
//!
//! Those of the host run as this process does; `createContainer` in the container's namespaces; `startContainer`, which
//! is a file of the image, exactly as confined as the container's own program.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use oci_spec::runtime::Hook;
use serde_json::json;

use super::error::{CreateError, ExecError, StartError, host};
use super::exec::{Target, create_exec};
use super::launch::{Launch, end, launch, streams};
use super::{Exit, Manner, Running, SingleThreaded, Stdio};
use crate::plan::{self, FieldError};
use crate::privileges::Privileges;
use crate::spec::{Process, Spec};
use crate::sys::clone::Child;

/// How much of what a hook says on its standard error an error repeats; the rest is read and forgotten.
const SAID_LIMIT: usize = 4096;

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Moment {
    const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// What the container is at that moment, in the words of the specification. Of the hooks between its steps 2 and 6 it
    /// says both: "after step 2" is created, and so OCI's own suite has it for `prestart`; "during the create operation"
    /// is creating, and so runc has it, and we to whoever asks meanwhile.
    fn status(self) -> &'static str {
        match self {
            Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::Prestart | Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }

    fn list(self, hooks: &oci_spec::runtime::Hooks) -> &[Hook] {
        let list = match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::StartContainer => hooks.start_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }
}

/// The names of the hooks that are honoured.
pub(crate) fn names() -> [&'static str; 6] {
    Moment::ALL.map(Moment::name)
}

/// The hooks that run when everything is mounted and the host's root is still the root.
pub(crate) fn before_root(hooks: &oci_spec::runtime::Hooks) -> impl Iterator<Item = &Hook> {
    [Moment::Prestart, Moment::CreateRuntime, Moment::CreateContainer]
        .into_iter()
        .flat_map(|moment| moment.list(hooks))
}

/// Every hook of a spec, by its field.
pub(crate) fn fields(spec: &Spec) -> Vec<(Moment, String, &Hook)> {
    let Some(hooks) = spec.hooks() else { return Vec::new() };
    let named = |moment: Moment| {
        let name = move |(index, hook)| (moment, format!("hooks.{}[{index}]", moment.name()), hook);
        moment.list(hooks).iter().enumerate().map(name)
    };
    Moment::ALL.into_iter().flat_map(named).collect()
}

/// Whether the spec has hooks.
pub(crate) fn has_any(spec: &Spec) -> bool {
    !fields(spec).is_empty()
}

/// Refuses what is no hook.
pub(crate) fn check(spec: &Spec) -> Result<(), FieldError> {
    for (_, field, hook) in fields(spec) {
        if !hook.path().is_absolute() {
            return Err(FieldError::new(format!("{field}.path"), "must be an absolute path"));
        }
        if hook.timeout().is_some_and(|seconds| seconds <= 0) {
            return Err(FieldError::new(format!("{field}.timeout"), "must be greater than zero"));
        }
    }
    Ok(())
}

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("error running {moment} hook #{index}: {}", path.display())]
pub struct HookError {
    /// The moment that it was for, as the specification names it.
    pub moment: &'static str,
    /// Its place in the list of that moment.
    pub index: usize,
    /// The program.
    pub path: PathBuf,
    /// What happened.
    #[source]
    pub source: HookEnd,
}

/// How a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookEnd {
    /// It could not be started.
    #[error("start it")]
    Start(#[source] Box<ExecError>),
    /// It could not be given its input or waited for.
    #[error("talk to it")]
    Talk(#[source] io::Error),
    /// It ended with an error, after saying this.
    #[error("it ended with {exit}{}", if said.is_empty() { String::new() } else { format!(", saying {said:?}") })]
    Failed {
        /// Its exit code, or 128 and the signal.
        exit: u8,
        /// The beginning of its standard error.
        said: String,
    },
    /// It was killed because it took longer than this.
    #[error("it ran past its time-out of {} s", .0.as_secs())]
    Late(Duration),
}

/// The hooks of one container, and what they are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hooks<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
}

impl Hooks<'_> {
    /// Runs the hooks that come before the change of root.
    pub(super) fn before_root(&self, token: &SingleThreaded, child: &Child) -> Result<(), HookError> {
        self.on_host(token, Moment::Prestart, Some(child.pid))?;
        self.on_host(token, Moment::CreateRuntime, Some(child.pid))?;
        let moment = Moment::CreateContainer;
        for (index, hook) in self.of(moment) {
            let started = self.start_in_namespaces(token, hook, child);
            watch(moment, index, hook, started)?;
        }
        Ok(())
    }

    /// Runs the hooks of one moment as this process is. Ends at the first that fails.
    pub(crate) fn on_host(&self, token: &SingleThreaded, moment: Moment, pid: Option<u32>) -> Result<(), HookError> {
        for (index, hook) in self.of(moment) {
            watch(moment, index, hook, self.start_on_host(token, moment, hook, pid))?;
        }
        Ok(())
    }

    /// As [`Hooks::on_host`], but each is tried, and what fails is returned: the specification wants it only reported.
    pub(crate) fn each_on_host(&self, token: &SingleThreaded, moment: Moment, pid: Option<u32>) -> Vec<HookError> {
        let try_one = |(index, hook): (usize, &Hook)| {
            watch(moment, index, hook, self.start_on_host(token, moment, hook, pid)).err()
        };
        self.of(moment).filter_map(try_one).collect()
    }

    /// Runs the `startContainer` hooks in the created container `target`.
    pub(crate) fn in_container(&self, token: &SingleThreaded, target: Target<'_>, pid: u32) -> Result<(), HookError> {
        let pid = if plan::has_pid_namespace(self.spec) { 1 } else { pid };
        for (index, hook) in self.of(Moment::StartContainer) {
            let start = || {
                let (stdio, said) = self.stdio(Moment::StartContainer, Some(pid)).map_err(HookEnd::Talk)?;
                let process = self.as_confined(hook);
                let called = hook.args().as_deref().filter(|arguments| !arguments.is_empty());
                let created = create_exec(token, target, (&process, called), stdio, Manner::default());
                let created = created.map_err(|error| HookEnd::Start(Box::new(error.into())))?;
                Ok((go(created.start())?, said))
            };
            watch(Moment::StartContainer, index, hook, start())?;
        }
        Ok(())
    }

    fn of(&self, moment: Moment) -> impl Iterator<Item = (usize, &Hook)> {
        let hooks = self.spec.hooks().as_ref();
        hooks
            .map(|hooks| moment.list(hooks))
            .unwrap_or_default()
            .iter()
            .enumerate()
    }

    /// The container's own process with another program, by its path.
    fn as_confined(&self, hook: &Hook) -> Process {
        let mut process = self.spec.process().clone().unwrap_or_default();
        let path = hook.path().to_string_lossy().into_owned();
        process.set_args(Some(vec![path])).set_terminal(Some(false));
        if let Some(environment) = hook.env() {
            process.set_env(Some(environment.clone()));
        }
        process
    }

    fn start_on_host(
        &self,
        token: &SingleThreaded,
        moment: Moment,
        hook: &Hook,
        pid: Option<u32>,
    ) -> Result<(Running, File), HookEnd> {
        let (stdio, said) = self.stdio(moment, pid).map_err(HookEnd::Talk)?;
        // Where those begin with the peers; the others where this process is.
        let is_before = matches!(moment, Moment::Prestart | Moment::CreateRuntime);
        let place = (None, is_before.then(|| self.bundle.to_owned()));
        Ok((spawn(token, hook, stdio, place)?, said))
    }

    fn start_in_namespaces(
        &self,
        token: &SingleThreaded,
        hook: &Hook,
        child: &Child,
    ) -> Result<(Running, File), HookEnd> {
        let has_pids = plan::has_pid_namespace(self.spec);
        let pid = if has_pids { 1 } else { child.pid };
        let (stdio, said) = self.stdio(Moment::CreateContainer, Some(pid)).map_err(HookEnd::Talk)?;
        // The container's process waits in its root, as its own mounts have it.
        let root = PathBuf::from(format!("/proc/{}/cwd", child.pid));
        let place = (Some((self.spec, child)), Some(root));
        Ok((spawn(token, hook, stdio, place)?, said))
    }

    /// The state to read, nowhere to write, and a pipe for complaints with our end of it.
    fn stdio(&self, moment: Moment, pid: Option<u32>) -> io::Result<(Stdio, File)> {
        let state = json!({
            "ociVersion": self.spec.version(),
            "id": self.id,
            "status": moment.status(),
            "pid": pid.unwrap_or(0),
            "bundle": self.bundle,
            "annotations": self.spec.annotations().clone().unwrap_or_default(),
        });
        // A file and not a pipe: a hook that does not read its input must not hold us up.
        let mut stdin = File::from(memfd_create(c"state", MFdFlags::MFD_CLOEXEC)?);
        stdin.write_all(state.to_string().as_bytes())?;
        io::Seek::rewind(&mut stdin)?;
        let (said, stderr) = io::pipe()?;
        let stdout = File::options().write(true).open("/dev/null")?.into();
        let stdio = Stdio::Streams {
            stdin: stdin.into(),
            stdout,
            stderr: stderr.into(),
        };
        Ok((stdio, OwnedFd::from(said).into()))
    }
}

fn go(started: Result<Running, StartError>) -> Result<Running, HookEnd> {
    started.map_err(|error| HookEnd::Start(Box::new(error.into())))
}

fn open_directory(path: &Path) -> Result<OwnedFd, CreateError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let opened = open(path, flags, Mode::empty());
    opened.map_err(|errno| host(&format!("open {} for a hook", path.display()), errno))
}

/// Starts a hook, in the namespaces of a container's process and in a directory if they are given.
fn spawn(
    token: &SingleThreaded,
    hook: &Hook,
    stdio: Stdio,
    (container, directory): (Option<(&Spec, &Child)>, Option<PathBuf>),
) -> Result<Running, HookEnd> {
    let start = || -> Result<Running, ExecError> {
        let environment = hook.env().clone().unwrap_or_else(own_environment);
        let (streams, _) = streams(stdio)?;
        let directory = directory.as_deref().map(open_directory).transpose()?;
        let plan = plan::hook(
            hook,
            &environment,
            container.map(|(spec, child)| (spec, child.pidfd.as_fd())),
            directory,
        )
        .map_err(CreateError::Field)?;
        let pid_namespace = container.filter(|(spec, _)| plan::has_pid_namespace(spec));
        let launched = launch(
            token,
            Launch {
                plan,
                streams,
                cgroup: None,
                confinement: None,
                unit: None,
                companion: None,
                pid_namespace: pid_namespace.map(|(_, child)| child.pidfd.as_fd()),
                root: None,
                privileges: Privileges::look(),
                who: None,
                groups: &[],
                hooks: None,
                starts_at_once: true,
                gate: None,
            },
        )?;
        Ok(launched.start()?)
    };
    start().map_err(|error| HookEnd::Start(Box::new(error)))
}

/// What a hook without an environment of its own gets, as with runc.
fn own_environment() -> Vec<String> {
    let variable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        CString::new(format!("{}={}", name.to_str()?, value.to_str()?))
            .ok()?
            .into_string()
            .ok()
    };
    std::env::vars_os().filter_map(variable).collect()
}

fn watch(
    moment: Moment,
    index: usize,
    hook: &Hook,
    started: Result<(Running, File), HookEnd>,
) -> Result<(), HookError> {
    let end = started.and_then(|(running, said)| finish(hook, &running, said));
    end.map_err(|source| HookError {
        moment: moment.name(),
        index,
        path: hook.path().clone(),
        source,
    })
}

/// Waits for the end of a hook, or for its time-out, and then ends it.
fn finish(hook: &Hook, running: &Running, mut said: File) -> Result<(), HookEnd> {
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    let limit = limit.map(Duration::from_secs);
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let mut text = Vec::new();
    let mut asked = PollFlags::POLLIN;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let mut files = [
            PollFd::new(running.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(said.as_fd(), asked),
        ];
        let _ = poll(&mut files, timeout);
        let [ended, speaks] = [0, 1].map(|index: usize| files[index].any().unwrap_or(false));
        if speaks && !ended && listen(&mut said, &mut text).map_err(HookEnd::Talk)? == 0 {
            // It has closed its end, which would be told again and again; there is nothing left but to wait.
            said = File::open("/dev/null").map_err(HookEnd::Talk)?;
            asked = PollFlags::empty();
        }
        if let Some(exit) = Exit::try_wait(running.pidfd.as_fd()).map_err(HookEnd::Talk)? {
            return judge(exit, &mut said, text);
        }
        if let Some(limit) = limit.filter(|_| left.is_some_and(|left| left.is_zero())) {
            // Its whole session: it has no other name for what it started.
            let _ = nix::sys::signal::killpg(
                nix::unistd::Pid::from_raw(running.pid.cast_signed()),
                nix::sys::signal::Signal::SIGKILL,
            );
            end(running.pidfd.as_fd());
            return Err(HookEnd::Late(limit));
        }
    }
}

fn judge(exit: Exit, said: &mut File, mut text: Vec<u8>) -> Result<(), HookEnd> {
    if exit == Exit::Code(0) {
        return Ok(());
    }
    let waiting = PollFd::new(said.as_fd(), PollFlags::POLLIN);
    if poll(&mut [waiting], PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
        let _ = listen(said, &mut text);
    }
    Err(HookEnd::Failed {
        exit: exit.shell_code(),
        said: String::from_utf8_lossy(&text).trim_end().to_owned(),
    })
}

fn listen(said: &mut File, text: &mut Vec<u8>) -> io::Result<usize> {
    let mut chunk = [0; SAID_LIMIT];
    let length = said.read(&mut chunk)?;
    let room = SAID_LIMIT.saturating_sub(text.len());
    text.extend_from_slice(&chunk[..length.min(room)]);
    Ok(length)
}
