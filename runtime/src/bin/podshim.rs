//! `podshim`: parent and supervisor of the containers of one pod.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::shim::main()
}
