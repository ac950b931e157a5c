//! `orlop-cni`: the CNI plugin binary; the verbs are in `cni::plugin`. With `agentSocket` in its configuration it passes
//! its calls on to the agent.
#![forbid(unsafe_code)]

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use cni::{
    config::Config,
    plugin::{self, Environment, Outcome},
    relay::{self, Call, DOCUMENT_BYTES_MAX},
};
use serde_json::Value;

/// See `Cargo.toml`.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// How long ADD waits for an agent that is not there, one that is being restarted for instance.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    tell_panics_to_the_runtime();
    let environment: Environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(key, _)| key.starts_with("CNI_"))
        .collect();
    let outcome = match environment.get("CNI_COMMAND").map(String::as_str) {
        None => {
            let _ = io::stderr().write_all(plugin::about().as_bytes());
            return ExitCode::SUCCESS;
        }
        Some("ADD" | "DEL" | "CHECK" | "GC" | "STATUS") => call(environment),
        Some(_) => plugin::run(&environment, read_stdin),
    };
    if let Some(document) = outcome.stdout {
        print(&document);
    }
    ExitCode::from(outcome.exit_code)
}

/// Does a call that has a configuration, by itself or through the agent.
fn call(environment: Environment) -> Outcome {
    let stdin = match read_stdin() {
        Ok(stdin) => stdin,
        Err(error) => return plugin::run(&environment, || Err(error)),
    };
    let config = Config::parse(&stdin);
    let agent = config
        .as_ref()
        .ok()
        .and_then(|config| Some((config.agent_socket().ok()??, config)));
    match agent {
        Some((socket, config)) => relayed(environment, stdin, &socket, config),
        None => plugin::run_configured(&environment, config),
    }
}

fn relayed(environment: Environment, stdin: Vec<u8>, socket: &Path, config: &Config) -> Outcome {
    let verb = environment.get("CNI_COMMAND").map_or("", String::as_str);
    let patience = if verb == "ADD" { PATIENCE } else { Duration::ZERO };
    let is_removal = verb == "DEL";
    let netns = environment.get("CNI_NETNS").and_then(|path| File::open(path).ok());
    let call = Call {
        environment,
        stdin,
        netns: netns.map(Into::into),
    };
    match relay::ask(socket, &call, patience) {
        Ok(outcome) => outcome,
        Err(_) if is_removal => plugin::run(&call.environment, || Ok(call.stdin)),
        Err(error) => plugin::unreachable_agent(&call.environment, config, &error),
    }
}

/// The runtime reads one JSON document from standard output, come what may.
fn tell_panics_to_the_runtime() {
    std::panic::set_hook(Box::new(|panic| {
        let _ = writeln!(io::stderr(), "{panic}");
        print(&plugin::panic_document(&panic.to_string()));
        std::process::exit(1);
    }));
}

fn read_stdin() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::from(DOCUMENT_BYTES_MAX);
    io::stdin().lock().take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// A runtime that has gone away reads nothing; there is nobody left to tell.
fn print(document: &Value) {
    let mut line = serde_json::to_vec(document).unwrap_or_default();
    line.push(b'\n');
    let _ = io::stdout().lock().write_all(&line);
}
