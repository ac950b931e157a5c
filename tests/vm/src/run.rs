//! Runs one test in its own process and its own cgroup, with a limit on its time and on what is kept of its output.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill as kill_process};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::job::{Job, Test};
use crate::report::{Outcome, Verdict};

/// Of a longer output only the end is sent.
const OUTPUT_LIMIT: u64 = 64 * 1024;
const PAUSE: Duration = Duration::from_millis(5);
/// After a kill, the kernel may take this long to end everything in a cgroup.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Enters its cgroup by itself before it becomes the test, so that nothing of the test runs outside of it.
const ENTER_AND_EXEC: &str = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;

/// Runs `test` to its end or its limit, and kills whatever is left of it.
pub(crate) fn run(index: usize, test: &Test, job: &Job) -> anyhow::Result<Outcome> {
    let cgroup = cgroup_root().join(format!("test-{}-{index}", std::process::id()));
    std::fs::create_dir(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
    let output_path = std::env::temp_dir().join(format!("tests-vm-{}", std::process::id()));
    let start = Instant::now();
    let pid = spawn(&cgroup, &output_path, test, job)?;
    let ended = wait(pid, start + Duration::from_secs(job.limit_seconds));
    let seconds = start.elapsed().as_secs_f64();
    let leftover = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let leftover = describe(&leftover);
    kill(&cgroup)?;
    end_orphans()?;

    let mut output = read_output(&output_path)?;
    std::fs::remove_file(&output_path).context("remove the output file")?;
    let verdict = match ended {
        None => Verdict::Timeout,
        Some(WaitStatus::Exited(_, 0)) if leftover.is_empty() => Verdict::Passed,
        Some(status) => {
            output.push_str(&format!("\nrunner: ended with {status:?}"));
            Verdict::Failed
        }
    };
    if !leftover.is_empty() {
        output.push_str(&format!("\nrunner: processes at the end: {leftover}"));
    }
    Ok(Outcome {
        verdict,
        seconds,
        output,
    })
}

fn spawn(cgroup: &Path, output_path: &Path, test: &Test, job: &Job) -> anyhow::Result<Pid> {
    let output = File::create(output_path).with_context(|| format!("create {}", output_path.display()))?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", ENTER_AND_EXEC]).arg(cgroup).arg(&test.program);
    command.args(["--exact", &test.name, "--nocapture", "--include-ignored"]);
    command.env_clear().envs(&job.environment).stdin(Stdio::null());
    command
        .stdout(output.try_clone().context("share the output file")?)
        .stderr(output);
    let child = command
        .spawn()
        .with_context(|| format!("run {}", test.program.display()))?;
    // Not waited for through `Child`: we reap everybody, see `wait`.
    Ok(Pid::from_raw(
        i32::try_from(child.id()).context("a process id fits an i32")?,
    ))
}

/// Reaps every child, and at once since tests look for zombies, until `pid` has ended; `None` when it
/// has not by `deadline`.
fn wait(pid: Pid, deadline: Instant) -> Option<WaitStatus> {
    while Instant::now() < deadline {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => std::thread::sleep(PAUSE),
            Ok(status) if status.pid() == Some(pid) => return Some(status),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
    None
}

/// The root of the v2 hierarchy, pure or hybrid.
fn cgroup_root() -> PathBuf {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        root.to_owned()
    } else {
        root.join("unified")
    }
}

/// Ends all that is in the cgroup and removes it.
fn kill(cgroup: &Path) -> anyhow::Result<()> {
    std::fs::write(cgroup.join("cgroup.kill"), "1").context("kill the test's cgroup")?;
    let deadline = Instant::now() + KILL_LIMIT;
    while remove_bottom_up(cgroup).is_err() {
        anyhow::ensure!(
            Instant::now() < deadline,
            "{} is not empty {KILL_LIMIT:?} after its kill",
            cgroup.display()
        );
        let _ = waitpid(None, Some(WaitPidFlag::WNOHANG));
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Ends what the test left behind outside of its cgroup, as containers are whose agent was killed: whose parent is gone
/// is our child. Left running, it would disturb every test after it.
fn end_orphans() -> anyhow::Result<()> {
    let deadline = Instant::now() + KILL_LIMIT;
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status.pid().is_some()) {}
        let orphans = children();
        if orphans.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "processes {orphans:?} of the test run on {KILL_LIMIT:?} after their kill"
        );
        for orphan in orphans {
            let _ = kill_process(orphan, Signal::SIGKILL);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Our own children, dead or alive; kernel threads are not ours.
fn children() -> Vec<Pid> {
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        after_name.split(' ').nth(1) == Some(own.as_str())
    })
    .map(Pid::from_raw)
    .collect()
}

fn remove_bottom_up(cgroup: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_bottom_up(&entry.path())?;
        }
    }
    std::fs::remove_dir(cgroup)
}

/// The command lines of the processes whose ids are in `pids`, one a line.
fn describe(pids: &str) -> String {
    let command = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let lines = pids
        .lines()
        .map(|pid| format!("{pid} {}", command(pid).replace('\0', " ")));
    lines.collect::<Vec<_>>().join(", ")
}

fn read_output(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path).context("open the output")?;
    let length = file.metadata().context("look at the output")?.len();
    let skipped = length.saturating_sub(OUTPUT_LIMIT);
    file.seek(SeekFrom::Start(skipped)).context("seek in the output")?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).context("read the output")?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(if skipped == 0 {
        text
    } else {
        format!("[{skipped} bytes are not shown]\n{text}")
    })
}
