//! `orlop-oci`: the OCI runtime command line, in the manner of runc.
#![forbid(unsafe_code)]

mod arguments;
mod exec;
mod foreground;
mod run;
mod state;

use std::process::ExitCode;

use anyhow::Context;
use arguments::Command;
use runtime::container::SingleThreaded;
use runtime::sys::seal::run_from_read_only_file;

/// Debug builds prove with every container that nothing is allocated between clone and exec.
#[cfg(debug_assertions)]
#[global_allocator]
static ALLOCATOR: runtime::sys::allocator::OneProcessOnly = runtime::sys::allocator::OneProcessOnly::new();

fn main() -> ExitCode {
    let result = arguments::parse(lexopt::Parser::from_env()).and_then(|command| match command {
        Command::Run(run) => seal().and_then(|()| run::run(&run)),
        Command::Exec(exec) => seal().and_then(|()| exec::exec(&exec)),
        Command::Print(text) => {
            println!("{text}");
            Ok(0)
        }
    });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("orlop-oci: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// No container gets a way to write to this program's file.
fn seal() -> anyhow::Result<()> {
    let token = SingleThreaded::prove()?;
    run_from_read_only_file(&token).context("execute this program once more, from a read-only mount")
}

/// What shells and runtimes return for a program that is not there or can't be executed; else 1.
fn exit_code(error: &anyhow::Error) -> u8 {
    use runtime::container::{ExecError, StartError};
    let start = error.downcast_ref::<StartError>().map(StartError::exit_code);
    start
        .or_else(|| error.downcast_ref::<ExecError>().map(ExecError::exit_code))
        .unwrap_or(1)
}
