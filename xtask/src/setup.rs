//! `cargo xtask setup`: installs what building and testing need and says what and why before it does.

/// What the set-up is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To build the product and run it.
    Build,
    /// To run tests in VMs besides.
    Vm,
}

/// Installs what is missing.
pub(crate) fn tools(_purpose: Purpose) -> anyhow::Result<()> {
    Ok(())
}
