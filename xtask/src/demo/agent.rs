//! The demo's agent as a process: one, in the background, of the programs that were built last.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::{DIR, orlop, program};
use crate::command;

const SOCKET: &str = "/run/orlop/agent.sock";
const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// In a session of its own, so that neither the terminal nor this program's end touches it.
const START: &str =
    r#"setsid "$1" agent --manifests "$0/manifests" </dev/null >>"$0/agent.log" 2>&1 & echo $! >"$0/agent.pid""#;

/// Starts the agent, unless it runs already. An agent of an older build is replaced: its pods don't notice.
pub(super) fn start() -> anyhow::Result<()> {
    match ours()? {
        Some(agent) if agent.is_current => return Ok(()),
        Some(_) => stop()?,
        None if answers() => bail!("an agent that is not the demo's answers at {SOCKET}: stop it first"),
        None => {}
    }
    command::run(command::as_root("mkdir").args(["-p", &format!("{DIR}/manifests")]))?;
    command::run(command::as_root("sh").args(["-c", START, DIR]).arg(program("orlop")))?;
    wait(START_LIMIT, "the agent to answer", || {
        // Until it is an orlop it is the shell, and then setsid.
        anyhow::ensure!(is_alive(), "the agent ended at once:\n{}", log_tail());
        Ok(command::output(&mut orlop(&["version"])).is_ok())
    })
}

/// Ends the agent, if it runs. Its pods go on.
pub(super) fn stop() -> anyhow::Result<()> {
    let Some(agent) = ours()? else { return Ok(()) };
    command::run(command::as_root("kill").arg(&agent.pid))?;
    wait(STOP_LIMIT, "the agent to end", || Ok(ours()?.is_none()))
}

/// Whether it runs.
pub(super) fn is_running() -> bool {
    ours().is_ok_and(|agent| agent.is_some())
}

/// The demo's agent.
struct Agent {
    pid: String,
    /// It runs the program that is on disk, and not one that a build has replaced.
    is_current: bool,
}

/// The process in the file of the last start, if it is still the demo's, whichever clone of the repository started it. A
/// process id may be somebody else's by now.
fn ours() -> anyhow::Result<Option<Agent>> {
    let Ok(pid) = std::fs::read_to_string(Path::new(DIR).join("agent.pid")) else {
        return Ok(None);
    };
    let pid = pid.trim().to_owned();
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = command_line
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    let manifests = format!("{DIR}/manifests");
    // While it is still the shell or setsid, the agent's words are not the second to the fourth.
    if words.get(1..4) != Some(&["agent".into(), "--manifests".into(), manifests.into()]) {
        return Ok(None);
    }
    // A process that is about to be gone has no program any more.
    let Ok(link) = command::output(command::as_root("readlink").arg(format!("/proc/{pid}/exe"))) else {
        return Ok(None);
    };
    let built = program("orlop").canonicalize().unwrap_or_default();
    Ok(Some(Agent {
        pid,
        is_current: Path::new(link.trim()) == built,
    }))
}

fn is_alive() -> bool {
    let pid = std::fs::read_to_string(Path::new(DIR).join("agent.pid")).unwrap_or_default();
    Path::new("/proc").join(pid.trim()).join("stat").exists()
}

fn answers() -> bool {
    // Root's socket refuses others, which is an answer, too.
    UnixStream::connect(SOCKET).map_or_else(|error| error.kind() == std::io::ErrorKind::PermissionDenied, |_| true)
}

fn log_tail() -> String {
    let text = std::fs::read_to_string(Path::new(DIR).join("agent.log")).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn wait(limit: Duration, what: &str, mut is_there: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while !is_there()? {
        anyhow::ensure!(
            Instant::now() < deadline,
            "waited {limit:?} for {what}; its log ends:\n{}",
            log_tail()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
