//! Where the programs under test are.

use std::path::PathBuf;
use std::process::Command;

/// A command for one of the product's programs, for instance `orlop` or `podshim`.
///
/// # Panics
/// When the program has not been built.
#[track_caller]
pub fn binary(name: &str) -> Command {
    Command::new(binary_path(name))
}

/// The path of one of the product's programs: in `ORLOP_BIN_DIR`, or beside the test (`target/<profile>/`).
///
/// # Panics
/// When the program has not been built.
#[track_caller]
pub fn binary_path(name: &str) -> PathBuf {
    let dir = std::env::var_os("ORLOP_BIN_DIR").map_or_else(beside_the_test, PathBuf::from);
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is missing: build it with `cargo build --workspace --bins`",
        path.display()
    );
    path
}

fn beside_the_test() -> PathBuf {
    let exe = std::env::current_exe().expect("a process knows its executable");
    let deps = exe.parent().expect("an executable is in a directory");
    deps.parent().expect("target/<profile>/deps has a parent").to_owned()
}
