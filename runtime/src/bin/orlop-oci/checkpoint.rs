//! `checkpoint`: a running container as files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lexopt::ValueExt;
use runtime::container::named::CheckpointOrder;
use runtime::criu::{CgroupMode, Tolerance};

use crate::arguments::{Globals, Word, is_on, next, required_id, unexpected};

/// Where the files are when nobody says: in this directory of the working directory.
const IMAGES: &str = "checkpoint";

/// The flags that `checkpoint` and `restore` have.
#[derive(Debug, Default)]
pub(crate) struct Images {
    path: Option<PathBuf>,
    pub(crate) work: Option<PathBuf>,
    pub(crate) tolerance: Tolerance,
}

impl Images {
    /// Takes a flag that both have.
    pub(crate) fn take(&mut self, word: &Word, parser: &mut lexopt::Parser) -> Result<()> {
        let Word::Flag(flag) = word else {
            return Err(unexpected(word));
        };
        let tolerance = &mut self.tolerance;
        match flag.as_str() {
            "image-path" => self.path = Some(parser.value()?.into()),
            "work-path" => self.work = Some(parser.value()?.into()),
            "tcp-established" => tolerance.tcp_established = is_on(parser)?,
            "ext-unix-sk" => tolerance.external_unix_sockets = is_on(parser)?,
            "shell-job" => tolerance.shell_job = is_on(parser)?,
            "file-locks" => tolerance.file_locks = is_on(parser)?,
            "auto-dedup" => tolerance.auto_dedup = is_on(parser)?,
            "manage-cgroups-mode" => {
                let mode = parser.value()?.string()?;
                let known = CgroupMode::named(&mode);
                tolerance.cgroups = known.with_context(|| format!("--manage-cgroups-mode: {mode:?} is no mode"))?;
            }
            // A network namespace is empty in any case: its devices are the business of whoever made them.
            "empty-ns" => {
                let kind = parser.value()?.string()?;
                ensure!(kind == "network", "--empty-ns: only network is known, not {kind:?}");
            }
            "lazy-pages" | "page-server" | "status-fd" => {
                bail!("--{flag} is not supported: memory goes to the files of the checkpoint, and comes from there")
            }
            _ => return Err(unexpected(word)),
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(IMAGES))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    id: String,
    images: Images,
    parent: Option<String>,
    leave_running: bool,
    memory_only: bool,
}

impl Checkpoint {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let (mut checkpoint, mut id) = (Self::default(), None);
        while let Some(word) = next(&mut parser)? {
            match word {
                Word::Value(value) if id.is_none() => id = Some(value),
                word @ (Word::Flag(_) | Word::Value(_)) => checkpoint.take(&word, &mut parser)?,
            }
        }
        checkpoint.id = required_id("checkpoint", id)?;
        Ok(checkpoint)
    }

    fn take(&mut self, word: &Word, parser: &mut lexopt::Parser) -> Result<()> {
        let Word::Flag(flag) = word else {
            return Err(unexpected(word));
        };
        match flag.as_str() {
            "parent-path" => self.parent = Some(parser.value()?.string()?).filter(|path| !path.is_empty()),
            "leave-running" => self.leave_running = is_on(parser)?,
            "pre-dump" => self.memory_only = is_on(parser)?,
            "tcp-skip-in-flight" => self.images.tolerance.tcp_skip_in_flight = is_on(parser)?,
            "link-remap" => self.images.tolerance.link_remap = is_on(parser)?,
            _ => return self.images.take(word, parser),
        }
        Ok(())
    }

    pub(crate) fn run(&self, globals: &Globals) -> Result<u8> {
        let images = self.images.path();
        if let Some(parent) = &self.parent {
            let made = std::fs::create_dir_all(images);
            made.with_context(|| format!("create {}", images.display()))?;
            ensure!(Path::new(parent).is_relative(), "--parent-path must be relative");
            let whole = images.join(parent);
            ensure!(whole.is_dir(), "--parent-path: {} is no directory", whole.display());
        }
        let complaints = globals.store().find(&self.id)?.checkpoint(&CheckpointOrder {
            images: images.to_owned(),
            work: self.images.work.clone(),
            parent: self.parent.clone(),
            leave_running: self.leave_running,
            memory_only: self.memory_only,
            tolerance: self.images.tolerance,
        })?;
        globals.warn(&complaints);
        Ok(0)
    }
}
