//! The verbs, one file each.

use anyhow::{Result, bail};

use crate::arguments::{Globals, next, only_id, unexpected};
use crate::checkpoint::Checkpoint;
use crate::create::Create;
use crate::delete::Delete;
use crate::events::Events;
use crate::exec::Exec;
use crate::kill::Kill;
use crate::list::List;
use crate::plan::Plan;
use crate::ps::Ps;
use crate::restore::Restore;
use crate::run::Run;
use crate::spec::Spec;
use crate::update::Update;

/// A verb and its arguments.
pub(crate) enum Verb {
    Create(Create),
    Start(String),
    Run(Run),
    Exec(Exec),
    State(String),
    Kill(Kill),
    Delete(Delete),
    List(List),
    Ps(Ps),
    Pause(String),
    Resume(String),
    Update(Update),
    Events(Events),
    Spec(Spec),
    Features,
    Plan(Plan),
    Checkpoint(Checkpoint),
    Restore(Restore),
}

impl Verb {
    pub(crate) fn parse(name: &str, parser: lexopt::Parser) -> Result<Self> {
        match name {
            "create" => Create::parse(parser).map(Self::Create),
            "start" => only_id(name, parser).map(Self::Start),
            "run" => Run::parse(parser).map(Self::Run),
            "exec" => Exec::parse(parser).map(Self::Exec),
            "state" => only_id(name, parser).map(Self::State),
            "kill" => Kill::parse(parser).map(Self::Kill),
            "delete" => Delete::parse(parser).map(Self::Delete),
            "list" => List::parse(parser).map(Self::List),
            "ps" => Ps::parse(parser).map(Self::Ps),
            "pause" => only_id(name, parser).map(Self::Pause),
            "resume" => only_id(name, parser).map(Self::Resume),
            "update" => Update::parse(parser).map(Self::Update),
            "events" => Events::parse(parser).map(Self::Events),
            "spec" => Spec::parse(parser).map(Self::Spec),
            "features" => nothing(parser).map(|()| Self::Features),
            "plan" => Plan::parse(parser).map(Self::Plan),
            "checkpoint" => Checkpoint::parse(parser).map(Self::Checkpoint),
            "restore" => Restore::parse(parser).map(Self::Restore),
            _ => bail!("{name:?} is not a command; see orlop-oci --help"),
        }
    }

    /// Whether a process of ours will be in a container, and could get at our program from there.
    pub(crate) fn enters_containers(&self) -> bool {
        // Starting runs hooks in the container.
        matches!(self, Self::Create(_) | Self::Start(_) | Self::Run(_) | Self::Exec(_))
    }

    /// Does it, and returns the exit code.
    pub(crate) fn run(self, globals: &Globals) -> Result<u8> {
        match self {
            Self::Create(create) => create.run(globals),
            Self::Start(id) => crate::start::start(globals, &id),
            Self::Run(run) => run.run(globals),
            Self::Exec(exec) => Ok(exec.run(globals)),
            Self::State(id) => crate::state::state(globals, &id),
            Self::Kill(kill) => kill.run(globals),
            Self::Delete(delete) => delete.run(globals),
            Self::List(list) => list.run(globals),
            Self::Ps(ps) => ps.run(globals),
            Self::Pause(id) => done(globals.store().find(&id)?.pause()),
            Self::Update(update) => update.run(globals),
            Self::Events(events) => events.run(globals),
            Self::Spec(spec) => spec.run(),
            Self::Features => crate::print(&serde_json::to_string_pretty(&runtime::container::features())?),
            Self::Plan(plan) => plan.run(globals),
            Self::Checkpoint(checkpoint) => checkpoint.run(globals),
            Self::Restore(restore) => restore.run(globals),
            Self::Resume(id) => done(globals.store().find(&id)?.resume()),
        }
    }
}

/// The words of a verb that takes none.
fn nothing(mut parser: lexopt::Parser) -> Result<()> {
    match next(&mut parser)? {
        None => Ok(()),
        Some(word) => Err(unexpected(&word)),
    }
}

fn done(result: Result<(), runtime::container::named::VerbError>) -> Result<u8> {
    result?;
    Ok(0)
}
