//! The standard library for musl, for programs that are started with every container: glibc asks the processor what it is
//! dozens of times before `main`, which a virtual machine makes dear.

use std::path::Path;
use std::process::Command;

use super::announce;
use crate::command;

/// The name of `host`'s sibling with musl, when the compiler has its library or rustup can bring it.
pub(crate) fn find_or_install(host: &str) -> Option<String> {
    let target = host.strip_suffix("-gnu").map(|machine| format!("{machine}-musl"))?;
    if is_there(&target) {
        return Some(target);
    }
    if command::find("rustup").is_some() {
        announce(
            &format!("Rust's library for {target}"),
            "programs that start in half the time (40 MB)",
        );
        if let Err(error) = command::run(Command::new("rustup").args(["target", "add", &target])) {
            eprintln!("setup: {error:#}");
        }
    }
    is_there(&target).then_some(target)
}

fn is_there(target: &str) -> bool {
    let dir = command::output(Command::new("rustc").args(["--print", "target-libdir", "--target", target]));
    dir.is_ok_and(|dir| Path::new(dir.trim()).is_dir())
}
