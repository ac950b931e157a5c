//! `orlop-cni`: the CNI plugin binary; the verbs are in `cni::plugin`.
#![forbid(unsafe_code)]

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use cni::plugin::{self, Environment};
use serde_json::Value;

/// Most bytes of a configuration; libcni's are some kilobytes.
const STDIN_BYTES_MAX: u64 = 4 << 20;

fn main() -> ExitCode {
    tell_panics_to_the_runtime();
    let environment: Environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    if !environment.contains_key("CNI_COMMAND") {
        let _ = io::stderr().write_all(plugin::about().as_bytes());
        return ExitCode::SUCCESS;
    }
    let outcome = plugin::run(&environment, read_stdin);
    if let Some(document) = outcome.stdout {
        print(&document);
    }
    ExitCode::from(outcome.exit_code)
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
    io::stdin().lock().take(STDIN_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > STDIN_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {STDIN_BYTES_MAX} bytes"),
        ));
    }
    Ok(bytes)
}

/// A runtime that has gone away reads nothing; there is nobody left to tell.
fn print(document: &Value) {
    let _ = io::stdout().lock().write_all(format!("{document}\n").as_bytes());
}
