//! `podshim`: parent and supervisor of the containers of one pod.
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[cfg(all(target_env = "musl", not(debug_assertions)))]
#[global_allocator]
static ALLOCATOR: runtime::sys::allocator::Kept = runtime::sys::allocator::Kept;

fn main() -> ExitCode {
    runtime::shim::main()
}
