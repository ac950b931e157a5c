//! `cargo xtask setup`: installs what building, running and testing need, and says what and why before it does.
//!
//! It only adds: packages of the distribution, nightly toolchains, a bpf-linker and a cargo-deny of its own in the cache. What is
//! there already is used as it is, so that a second run takes no time.

use crate::command;

pub(crate) mod deny;
mod linker;
pub(crate) mod miri;
pub(crate) mod musl;
mod packages;
mod toolchain;

/// What the set-up is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// To build the product and to run it.
    Build,
    /// To run the root tests besides.
    Test,
    /// To run them in VMs besides, and to measure against other runtimes.
    Vm,
}

/// Installs what is missing for `purpose`.
pub(crate) fn tools(purpose: Purpose) -> anyhow::Result<()> {
    packages::install(purpose)?;
    let toolchain = toolchain::find_or_install()?;
    linker::find_or_install(&toolchain)
}

/// Says what is about to be installed, and why; and whom to ask for the rights.
fn announce(what: &str, why: &str) {
    let rights = if command::is_root() { "" } else { " (through sudo)" };
    eprintln!("setup: installing {what}{rights}: {why}");
}
