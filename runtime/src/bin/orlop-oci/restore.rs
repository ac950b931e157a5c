//! `restore`: a container as it was when it was written to files.

use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use lexopt::ValueExt;
use runtime::container::named::{Bundle, RestoreOrder, Restored};

use crate::arguments::{Globals, Word, is_on, next, required_id};
use crate::checkpoint::Images;
use crate::foreground::Foreground;
use crate::making::place_of;
use crate::streams::{Streams, hand_over};

#[derive(Debug, Default)]
pub(crate) struct Restore {
    id: String,
    bundle: PathBuf,
    images: Images,
    streams: Streams,
    detach: bool,
    no_subreaper: bool,
    lsm_profile: Option<String>,
    lsm_mount_context: Option<String>,
}

impl Restore {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let (mut restore, mut id) = (Self::default(), None);
        restore.bundle = ".".into();
        while let Some(word) = next(&mut parser)? {
            match word {
                Word::Value(value) if id.is_none() => id = Some(value),
                word @ (Word::Flag(_) | Word::Value(_)) => restore.take(&word, &mut parser)?,
            }
        }
        restore.id = required_id("restore", id)?;
        Ok(restore)
    }

    fn take(&mut self, word: &Word, parser: &mut lexopt::Parser) -> Result<()> {
        let flag = match word {
            Word::Flag(flag) => flag.as_str(),
            Word::Value(_) => "",
        };
        match flag {
            "b" | "bundle" => self.bundle = parser.value()?.into(),
            "d" | "detach" => self.detach = is_on(parser)?,
            "no-subreaper" => self.no_subreaper = is_on(parser)?,
            // CRIU finds a way of its own.
            "no-pivot" => drop(is_on(parser)?),
            "lsm-profile" => self.lsm_profile = Some(parser.value()?.string()?),
            "lsm-mount-context" => self.lsm_mount_context = Some(parser.value()?.string()?),
            "console-socket" | "pid-file" => self.streams.take(word, parser)?,
            _ => self.images.take(word, parser)?,
        }
        Ok(())
    }

    pub(crate) fn run(&self, globals: &Globals) -> Result<u8> {
        let bundle = Bundle::read(&self.bundle, None)?;
        globals.warn(&bundle.passed_over);
        let foreground = match self.detach {
            true => None,
            false => Some(Foreground::take(!self.no_subreaper)?),
        };
        let order = RestoreOrder {
            id: &self.id,
            cgroup: place_of(globals, &bundle.spec, &self.id)?,
            images: self.images.path(),
            work: self.images.work.as_deref(),
            tolerance: self.images.tolerance,
            lsm_profile: self.lsm_profile.as_deref(),
            lsm_mount_context: self.lsm_mount_context.as_deref(),
        };
        let mut restored = globals.store().restore(&bundle, &order)?;
        globals.warn(&restored.running.unenforced);
        if let Err(error) = self.tell(&mut restored) {
            // Nobody knows of it. The error says more than that it could not be deleted either.
            let _ = restored.named.delete(true);
            return Err(error);
        }
        let Some(foreground) = foreground else { return Ok(0) };
        let exit = foreground.wait(restored.running);
        globals.warn(&restored.named.delete(true)?);
        Ok(exit?.shell_code())
    }

    /// Hands its terminal over and writes its number down, for whoever asks for them.
    fn tell(&self, restored: &mut Restored) -> Result<()> {
        if let Some(socket) = &self.streams.console_socket {
            let terminal = restored.running.terminal.take();
            hand_over(socket, terminal.context("the container has no terminal")?.as_fd())?;
        }
        self.streams.write_pid(restored.running.pid)
    }
}
