//! The command line: the words and output shapes that kubectl and crictl users know, one file a verb. All but `agent` and
//! `cleanup` only talk to the agent's socket.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod agent;
mod apply;
mod cleanup;
pub mod client;
mod delete;
mod describe;
mod exec;
mod get;
mod load;
mod logs;
mod network;
mod pull;
mod row;
mod services;
mod table;
mod terminal;
mod version;
mod yaml;

use client::Client;

/// A node agent in one binary: pods, containers, pod network and Services
#[derive(Parser, Debug)]
#[command(name = "orlop", version, disable_help_subcommand = true)]
pub struct Cli {
    /// The agent's socket
    #[arg(
        long,
        global = true,
        env = "ORLOP_SOCKET",
        value_name = "FILE",
        default_value = "/run/orlop/agent.sock"
    )]
    socket: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Agent(Box<agent::Agent>),
    Get(get::Get),
    Describe(describe::Describe),
    Logs(logs::Logs),
    Network(network::Network),
    Exec(exec::Exec),
    Apply(apply::Apply),
    Delete(delete::Delete),
    Services(services::Services),
    Load(load::Load),
    Pull(pull::Pull),
    Version(version::Version),
    Cleanup(cleanup::Cleanup),
}

/// Which namespace a verb looks into.
#[derive(clap::Args, Debug)]
struct Namespace {
    /// The namespace
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    namespace: String,
}

/// Runs the verb; an error is printed as `error: …` and makes the exit code 1.
pub fn run(cli: Cli) -> ExitCode {
    match perform(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when stderr is closed.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(cli: Cli) -> anyhow::Result<ExitCode> {
    let client = Client::new(cli.socket);
    let done = |()| ExitCode::SUCCESS;
    match cli.verb {
        Verb::Agent(verb) => verb.run().map(done),
        Verb::Cleanup(verb) => verb.run().map(done),
        Verb::Get(verb) => wait(verb.run(&client)).map(done),
        Verb::Describe(verb) => wait(verb.run(&client)).map(done),
        Verb::Services(verb) => wait(verb.run(&client)).map(done),
        Verb::Logs(verb) => wait(verb.run(&client)).map(done),
        Verb::Network(verb) => wait(verb.run(&client)).map(done),
        Verb::Exec(verb) => wait(verb.run(&client)),
        Verb::Apply(verb) => wait(verb.run(&client)).map(done),
        Verb::Delete(verb) => wait(verb.run(&client)).map(done),
        Verb::Load(verb) => wait(verb.run(&client)).map(done),
        Verb::Pull(verb) => wait(verb.run(&client)).map(done),
        Verb::Version(verb) => wait(verb.run(&client)).map(done),
    }
}

/// Runs one request on a thread of its own; what still reads stdin must not hold up the end.
fn wait<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// Prints to stdout; unlike `print!` it returns what goes wrong.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|io| io.kind() == io::ErrorKind::BrokenPipe)
}
