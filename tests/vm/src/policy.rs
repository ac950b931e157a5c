//! The machine's SELinux policy, on a boot that has SELinux.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

/// In the language that `secilc` compiles.
const SOURCE: &str = include_str!("../policy.cil");
/// There if the kernel was booted with SELinux.
const DIRECTORY: &str = "/sys/fs/selinux";

/// Compiles the policy and puts it in force, if this kernel enforces any.
pub(crate) fn load() -> anyhow::Result<()> {
    if !Path::new(DIRECTORY).is_dir() {
        return Ok(());
    }
    let [source, compiled, files] = ["policy.cil", "policy", "file_contexts"].map(|name| format!("/run/{name}"));
    std::fs::write(&source, SOURCE).with_context(|| format!("write {source}"))?;
    let mut compiler = Command::new("secilc");
    let compiler = compiler.args(["--output", &compiled, "--filecontext", &files, &source]);
    let status = compiler.status().context("run secilc: run `cargo xtask setup`")?;
    anyhow::ensure!(status.success(), "secilc: {status}");
    super::machine::mount("selinuxfs", DIRECTORY, "selinuxfs")?;
    let policy = std::fs::read(&compiled).with_context(|| format!("read {compiled}"))?;
    std::fs::write(Path::new(DIRECTORY).join("load"), policy).context("load the SELinux policy")
}
