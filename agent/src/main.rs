//! `orlop`: the agent and its command line.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    agent::cli::run(agent::cli::Cli::parse())
}
