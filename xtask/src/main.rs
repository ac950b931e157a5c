//! `cargo xtask`: set-up, build, demo, tests, VM, benchmarks.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod check;
mod command;
mod demo;
mod newest;
mod setup;
mod tables;
mod test;
mod tidy;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::{Context, bail};
use lexopt::prelude::*;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup                          install what building and testing need
  build [--release]              build the programs
  up                             build, start a node with the example manifests and show it
  down                           remove everything that `up` made
  check [NAME]                   format, clippy, tidy (the house's own rules), deny
  test [unit|miri|root|vm] [--kernel V] [FILTER]
                                 run tests; all without a name
  bench [AREA] [--json]          measure against peers: runtime, services, pods, memory, network
";

fn main() -> ExitCode {
    match dispatch() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command; whether it came to a good end.
fn dispatch() -> anyhow::Result<bool> {
    if std::env::args().any(|argument| argument == "--help" || argument == "-h") {
        print!("{USAGE}");
        return Ok(true);
    }
    let mut arguments = lexopt::Parser::from_env();
    let Some(Value(command)) = arguments.next()? else {
        bail!("no command\n\n{USAGE}")
    };
    let command = command.string()?;
    match command.as_str() {
        "setup" => {
            finish(arguments)?;
            setup::tools(setup::Purpose::Vm)?;
            setup::miri::find_or_install()?;
            Ok(true)
        }
        "build" => {
            let profile = if flag(arguments, "release")? {
                build::Profile::Release
            } else {
                build::Profile::Debug
            };
            setup::tools(setup::Purpose::Build)?;
            build::binaries(profile)?;
            Ok(true)
        }
        "up" => {
            finish(arguments)?;
            demo::up()?;
            Ok(true)
        }
        "down" => {
            finish(arguments)?;
            demo::down()
        }
        "bench" => {
            let (area, is_json) = bench_arguments(arguments)?;
            bench::run(area.as_deref(), is_json)?;
            Ok(true)
        }
        "check" => {
            let only = optional_word(arguments)?;
            setup::tools(setup::Purpose::Build)?;
            check::run(only.as_deref())
        }
        "test" => Ok(test::run(&selection(arguments)?)),
        unknown => bail!("no command {unknown}\n\n{USAGE}"),
    }
}

fn finish(mut arguments: lexopt::Parser) -> anyhow::Result<()> {
    match arguments.next()? {
        Some(argument) => Err(argument.unexpected().into()),
        None => Ok(()),
    }
}

fn optional_word(mut arguments: lexopt::Parser) -> anyhow::Result<Option<String>> {
    let word = match arguments.next()? {
        Some(Value(word)) => Some(word.string()?),
        Some(argument) => return Err(argument.unexpected().into()),
        None => None,
    };
    finish(arguments)?;
    Ok(word)
}

fn flag(mut arguments: lexopt::Parser, name: &str) -> anyhow::Result<bool> {
    let mut is_set = false;
    while let Some(argument) = arguments.next()? {
        match argument {
            Long(given) if given == name => is_set = true,
            Long(_) | Short(_) | Value(_) => return Err(argument.unexpected().into()),
        }
    }
    Ok(is_set)
}

fn bench_arguments(mut arguments: lexopt::Parser) -> anyhow::Result<(Option<String>, bool)> {
    let (mut area, mut is_json) = (None, false);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("json") => is_json = true,
            Value(word) if area.is_none() => area = Some(word.string()?),
            Long(_) | Short(_) | Value(_) => return Err(argument.unexpected().into()),
        }
    }
    Ok((area, is_json))
}

fn selection(mut arguments: lexopt::Parser) -> anyhow::Result<test::Selection> {
    let mut selection = test::Selection::default();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("kernel") => selection.kernel = Some(arguments.value()?.string().context("--kernel")?),
            Value(word) => take_word(&mut selection, word.string()?)?,
            Long(_) | Short(_) => return Err(argument.unexpected().into()),
        }
    }
    Ok(selection)
}

fn take_word(selection: &mut test::Selection, word: String) -> anyhow::Result<()> {
    let part = match word.as_str() {
        "unit" => Some(test::Part::Unit),
        "miri" => Some(test::Part::Miri),
        "root" => Some(test::Part::Root),
        "vm" => Some(test::Part::Vm),
        _ => None,
    };
    if part.is_some() && selection.part.is_none() && selection.filter.is_none() {
        selection.part = part;
    } else {
        anyhow::ensure!(selection.filter.is_none(), "more than one filter: {word}");
        selection.filter = Some(word);
    }
    Ok(())
}
