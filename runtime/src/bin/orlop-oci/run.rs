//! `run`: create, start and, unless detached, wait and clean up.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use runtime::container::named::{Named, Status};

use crate::arguments::{Globals, Word, is_on, next, unexpected};
use crate::foreground::Foreground;
use crate::making::Making;

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) making: Making,
    detach: bool,
    /// Leave the container's record and cgroup behind when it ends.
    pub(crate) keep: bool,
    no_subreaper: bool,
}

impl Run {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let mut run = Self {
            making: Making::default(),
            detach: false,
            keep: false,
            no_subreaper: false,
        };
        let mut positional = None;
        while let Some(word) = next(&mut parser)? {
            match word {
                Word::Value(value) if positional.is_none() => positional = Some(value),
                Word::Flag(flag) if flag == "d" || flag == "detach" => run.detach = is_on(&mut parser)?,
                Word::Flag(flag) if flag == "keep" => run.keep = is_on(&mut parser)?,
                Word::Flag(flag) if flag == "no-subreaper" => run.no_subreaper = is_on(&mut parser)?,
                Word::Value(_) => return Err(unexpected(&word)),
                Word::Flag(_) => run.making.take(&word, &mut parser)?,
            }
        }
        let positional = positional.context("run needs the id of the new container, or a bundle directory")?;
        run.name(&PathBuf::from(positional))?;
        Ok(run)
    }

    /// A directory with a config.json, and no bundle named besides, is the bundle of a container with a new id.
    fn name(&mut self, positional: &Path) -> Result<()> {
        let making = &mut self.making;
        if making.bundle.as_os_str().is_empty() && positional.join("config.json").is_file() {
            making.id = format!("orlop-{}", std::process::id());
            making.bundle = positional.into();
            return Ok(());
        }
        making.id = positional.to_str().context("the id is not text")?.into();
        if making.bundle.as_os_str().is_empty() {
            making.bundle = ".".into();
        }
        Ok(())
    }

    pub(crate) fn run(&self, globals: &Globals) -> Result<u8> {
        if self.detach {
            self.making.make(globals, true, true)?.start()?;
            return Ok(0);
        }
        let foreground = Foreground::take(!self.no_subreaper)?;
        let (running, named) = self.making.make(globals, false, true)?.start()?;
        let exit = foreground.wait(running);
        self.end(globals, &named);
        Ok(exit?.shell_code())
    }

    /// Whatever of the container is left ends with it. Its exit code is worth more than what goes wrong here.
    fn end(&self, globals: &Globals, named: &Named) {
        let ended = if self.keep {
            named.end()
        } else {
            named.delete(true).map(|complaints| globals.warn(&complaints))
        };
        // Somebody else may have deleted it meanwhile.
        if let Err(error) = ended
            && named.status() != Status::Stopped
        {
            globals.log.warning(&format!("{:#}", anyhow::Error::from(error)));
        }
    }
}
