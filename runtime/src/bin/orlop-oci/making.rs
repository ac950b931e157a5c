//! What `create` and `run` have in common: flags, and the way to a container that waits.

use std::path::PathBuf;

use anyhow::Result;
use runtime::cgroup::place::{self, Place, PlaceError};
use runtime::cgroup::systemd::{self, Scope};
use runtime::container::Manner;
use runtime::container::named::{Bundle, CreateOrder, Fresh};
use runtime::spec::Spec;

use crate::arguments::{Globals, Manager, Word, is_on, unexpected};
use crate::foreground::stdio;
use crate::streams::Streams;

/// The flags of `create` and `run`.
#[derive(Debug, Default)]
pub(crate) struct Making {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    config: Option<PathBuf>,
    pub(crate) streams: Streams,
    keeps_keyring: bool,
    no_pivot: bool,
}

impl Making {
    /// Takes a flag that both have.
    pub(crate) fn take(&mut self, word: &Word, parser: &mut lexopt::Parser) -> Result<()> {
        let Word::Flag(flag) = word else {
            return Err(unexpected(word));
        };
        match flag.as_str() {
            "b" | "bundle" => self.bundle = parser.value()?.into(),
            "config" => self.config = Some(parser.value()?.into()),
            "no-new-keyring" => self.keeps_keyring = is_on(parser)?,
            "no-pivot" => self.no_pivot = is_on(parser)?,
            _ => return self.streams.take(word, parser),
        }
        Ok(())
    }

    /// Makes the container. `detached`: nobody stands in for it afterwards; `starts`: its start follows.
    pub(crate) fn make(&self, globals: &Globals, detached: bool, starts: bool) -> Result<Fresh> {
        self.streams.check()?;
        let mut bundle = Bundle::read(&self.bundle, self.config.as_deref())?;
        globals.warn(&bundle.passed_over);
        let is_terminal = is_terminal(&bundle.spec);
        self.streams.check_terminal(is_terminal, detached)?;
        self.streams.pass_listeners(bundle.spec.process_mut().as_mut());
        let manner = Manner {
            dies_with_parent: false,
            finds_program_late: false,
            starts_at_once: false,
            preserved_fds: self.streams.all_preserved(),
            keeps_keyring: self.keeps_keyring,
            no_pivot: self.no_pivot,
        };
        let order = CreateOrder {
            id: &self.id,
            cgroup: place_of(globals, &bundle.spec, &self.id)?,
            is_rootless: globals.rootless,
            stdio: stdio(is_terminal, detached)?,
            manner,
            starts,
        };
        let mut fresh = globals.store().create(bundle, order)?;
        globals.warn(fresh.unenforced());
        self.streams.hand_over(&mut fresh)?;
        Ok(fresh)
    }
}

/// Where the container's cgroup is to be.
pub(crate) fn place_of(globals: &Globals, spec: &Spec, id: &str) -> Result<Place> {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    match globals.manager {
        Manager::Disabled => Ok(Place::Callers),
        Manager::Systemd => {
            let manager = systemd::Manager::of_caller(globals.rootless);
            let annotations = spec.annotations().as_ref();
            Ok(Place::Scope(Scope::of(manager, path.as_deref(), id, annotations)?))
        }
        Manager::Cgroupfs => match place::below_root(path.as_deref(), id) {
            Err(PlaceError::Cgroup(_)) if globals.rootless => Ok(Place::Callers),
            directory => Ok(Place::Directory(directory?)),
        },
    }
}

fn is_terminal(spec: &Spec) -> bool {
    let process = spec.process().as_ref();
    process.and_then(|process| process.terminal()).unwrap_or(false)
}
