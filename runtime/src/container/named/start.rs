//! `start`: the word through the gate to a container that was left waiting.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;

use super::create::START_BYTE;
use super::error::{VerbError, file};
use super::store::Named;
use super::{Status, delete};
use crate::container::hook::Moment;
use crate::container::{SingleThreaded, StartError, StepError};
use crate::plan::to_start;
use crate::report::{LENGTH, Report};
use crate::spec::Spec;

impl Named {
    /// Lets a created container execute its program; returns once it has, or with the reason why it could not. When a
    /// hook after the start fails, the container is ended.
    pub fn start(&self) -> Result<(), VerbError> {
        let mut start = self.claim()?;
        let token = SingleThreaded::prove()?;
        let spec = self.spec()?;
        to_start(&spec)?;
        let (init, pidfd) = self.init()?;
        if let Err(error) = self
            .hooks(&spec)
            .in_container(&token, self.target(&pidfd, &spec), init.pid)
        {
            delete::end(self, &pidfd)?;
            return Err(error.into());
        }
        self.wake(&mut start)?;
        self.after_start(&token, &spec, init.pid)
    }

    /// The pipe that the container waits at, for one who starts it at a time, until the pipe is gone: for who was faster is
    /// waited, and then it runs.
    pub(super) fn claim(&self) -> Result<Flock<File>, VerbError> {
        self.expect_created()?;
        let claimed = lock(&self.start_pipe());
        // Who was faster has taken the pipe away.
        self.expect_created()?;
        claimed
    }

    fn expect_created(&self) -> Result<(), VerbError> {
        match self.status() {
            Status::Created => Ok(()),
            status @ (Status::Creating | Status::Running | Status::Paused | Status::Stopped) => {
                Err(VerbError::Status { verb: "start", status })
            }
        }
    }

    /// What follows a start.
    pub(super) fn after_start(&self, token: &SingleThreaded, spec: &Spec, pid: u32) -> Result<(), VerbError> {
        // Not needed any more: a pipe that nobody reads says the same as none.
        for pipe in [self.start_pipe(), self.report_pipe()] {
            let _ = fs::remove_file(pipe);
        }
        if let Err(error) = self.hooks(spec).on_host(token, Moment::Poststart, Some(pid)) {
            // The specification wants it stopped (before its version 1.2.1 only a warning); that it could not be says less.
            let _ = self.end();
            return Err(error.into());
        }
        Ok(())
    }

    fn wake(&self, start: &mut File) -> Result<(), VerbError> {
        // Before the word is said: the report may come at once.
        let mut report = open_pipe(&self.report_pipe(), OFlag::O_RDONLY)?;
        start.write_all(&START_BYTE).map_err(StartError::Wake)?;
        fcntl(report.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).map_err(|errno| StartError::Wake(errno.into()))?;
        let mut bytes = Vec::new();
        (&mut report)
            .take(LENGTH as u64)
            .read_to_end(&mut bytes)
            .map_err(StartError::Wake)?;
        match Report::decode(&bytes) {
            // Exec closed the other end.
            None if bytes.is_empty() => Ok(()),
            Some(Report::Failed { step, errno }) => Err(StartError::Exec(self.step_error(step, errno.into())).into()),
            _ => Err(StartError::Died.into()),
        }
    }

    fn step_error(&self, step: u32, source: io::Error) -> StepError {
        let unknown = || ("start".into(), "process".into());
        let (action, field) = self.record.steps.get(&step).cloned().unwrap_or_else(unknown);
        StepError { action, field, source }
    }
}

fn lock(pipe: &Path) -> Result<Flock<File>, VerbError> {
    let locked = Flock::lock(open_pipe(pipe, OFlag::O_WRONLY)?, FlockArg::LockExclusive);
    locked.map_err(|(_, errno)| file("lock the pipe", pipe)(errno.into()))
}

fn open_pipe(path: &Path, flags: OFlag) -> Result<File, VerbError> {
    let flags = flags | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let opened = open(path, flags, Mode::empty()).map(File::from);
    opened.map_err(|errno| file("open the pipe", path)(errno.into()))
}
