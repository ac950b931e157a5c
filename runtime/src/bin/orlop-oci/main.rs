//! `orlop-oci`: the OCI runtime command line, in the manner of runc. It parses and prints; the verbs are the library's.
#![forbid(unsafe_code)]

mod arguments;
mod checkpoint;
mod create;
mod delete;
mod events;
mod exec;
mod foreground;
mod kill;
mod list;
mod log;
mod making;
mod plan;
mod ps;
mod restore;
mod rootless;
mod run;
mod spec;
mod start;
mod state;
mod streams;
mod update;
mod verb;

use std::process::ExitCode;

use anyhow::{Context, Result};
use arguments::{Command, Globals};
use runtime::container::SingleThreaded;
use runtime::container::named::{Store, VerbError};
use runtime::sys::seal::run_from_read_only_file;

/// Debug builds prove with every container that nothing is allocated between clone and exec.
#[cfg(debug_assertions)]
#[global_allocator]
static ALLOCATOR: runtime::sys::allocator::OneProcessOnly = runtime::sys::allocator::OneProcessOnly::new();

#[cfg(all(target_env = "musl", not(debug_assertions)))]
#[global_allocator]
static ALLOCATOR: runtime::sys::allocator::Kept = runtime::sys::allocator::Kept;

fn main() -> ExitCode {
    #[cfg(feature = "weaken")]
    if let Some(guard) = std::env::var_os("ORLOP_WEAKEN") {
        assert!(
            guard.to_str().is_some_and(runtime::guard::leave_out),
            "{guard:?} is no guard of runtime::guard"
        );
    }
    let mut globals = Globals::default();
    let command = arguments::parse(lexopt::Parser::from_env(), &mut globals);
    match command.and_then(|command| carry_out(command, &globals)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            globals.log.error(&format!("{error:#}"));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn carry_out(command: Command, globals: &Globals) -> Result<u8> {
    match command {
        Command::Print(text) => print(&text),
        Command::Verb(verb) => {
            globals.log.debug(&format!("{globals:?}"));
            if verb.enters_containers() {
                seal()?;
            }
            verb.run(globals)
        }
    }
}

/// Prints a text and a newline; who reads no further than it likes is no error.
fn print(text: &str) -> Result<u8> {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        result => result.map(|()| 0).context("write to standard output"),
    }
}

/// No container gets a way to write to this program's file.
fn seal() -> Result<()> {
    let token = SingleThreaded::prove()?;
    run_from_read_only_file(&token).context("execute this program once more, from a read-only mount")
}

/// What shells and runtimes return for a program that is not there or can't be executed; else 1.
fn exit_code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<VerbError>().map_or(1, VerbError::exit_code)
}

impl Globals {
    fn store(&self) -> Store {
        Store::at(&self.root)
    }

    fn warn(&self, sentences: &[String]) {
        for sentence in sentences {
            self.log.warning(sentence);
        }
    }
}

impl Default for Globals {
    fn default() -> Self {
        Self {
            root: std::path::PathBuf::new(),
            log: log::Log::default(),
            manager: arguments::Manager::Cgroupfs,
            rootless: false,
        }
    }
}
