//! Running other programs: with errors that name the command, as root, and within a time limit.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

/// Runs a command whose output the user sees; anything but exit code 0 is an error.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start {}", describe(command)))?;
    anyhow::ensure!(status.success(), "{} ended with {status}", describe(command));
    Ok(())
}

/// Runs a command and returns its standard output; anything but exit code 0 is an error that holds its standard error.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = raw_output(command)?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", describe(command), output.status, stderr.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("read the output of {}", describe(command)))
}

/// Runs a command and returns its standard output as bytes, whatever it exits with.
pub(crate) fn raw_output(command: &mut Command) -> anyhow::Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", describe(command)))
}

/// A command that runs with root's rights: as it is for root, through `sudo` for anybody else.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--preserve-env=PATH").arg(program);
    command
}

/// Whether this process has root's rights.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .unwrap_or_default();
    uids.split_whitespace().nth(1) == Some("0")
}

/// The path of a program in `PATH`, or where root's programs are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Passes `input` through a program, as `xz -dc` does.
pub(crate) fn filter(program: &str, arguments: &[&str], input: &Path) -> anyhow::Result<Vec<u8>> {
    let file = std::fs::File::open(input).with_context(|| format!("open {}", input.display()))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(file);
    let output = command
        .output()
        .with_context(|| format!("start {}", describe(&command)))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "{} of {}: {}",
        describe(&command),
        input.display(),
        stderr.trim()
    );
    Ok(output.stdout)
}

/// The command as a user would type it.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
