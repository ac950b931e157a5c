//! Runs a job of tests, one process and one cgroup for each, and reports one line of JSON for each event.
//!
//! On the host (`tests-vm JOB`) it reports on standard output. As PID 1 of a test VM it makes the machine usable first,
//! runs `/job.json`, reports over the virtio port and powers off. It is not a test runner of general use: `cargo xtask
//! test root|vm` writes the job and reads the events. Only the final `done` is a verdict; without it the runner or its
//! machine has crashed.
#![forbid(unsafe_code)]

mod job;
mod machine;
mod policy;
mod report;
mod run;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::reboot::RebootMode;

use crate::job::Job;
use crate::report::{Event, Outcome, Report};

fn main() -> anyhow::Result<()> {
    if std::process::id() != 1 {
        let path = std::env::args_os()
            .nth(1)
            .context("usage: tests-vm JOB (or boot it as the init of a test VM)")?;
        return run_on_host(Path::new(&path));
    }
    if let Err(error) = boot_and_run() {
        eprintln!("init: {error:#}");
    }
    nix::unistd::sync();
    // QEMU runs with -no-reboot, where a reboot ends it.
    nix::sys::reboot::reboot(RebootMode::RB_AUTOBOOT).context("reboot")?;
    Ok(())
}

/// Becomes the parent of what tests leave behind, as an init is, so that no zombie looks like a leak.
fn run_on_host(job: &Path) -> anyhow::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).context("become a subreaper")?;
    run_all(&Job::read(job)?, &mut Report::to_stdout())
}

fn boot_and_run() -> anyhow::Result<()> {
    machine::mount_all()?;
    let loaded = machine::load_modules();
    let mut report = Report::to_host().context("open the virtio port")?;
    match loaded
        .and_then(|()| machine::finish())
        .and_then(|()| policy::load())
        .and_then(|()| Job::read(Path::new("/job.json")))
    {
        Ok(job) => run_all(&job, &mut report),
        Err(error) => report.send(&Event::Broken {
            reason: format!("{error:#}"),
        }),
    }
}

fn run_all(job: &Job, report: &mut Report) -> anyhow::Result<()> {
    report.send(&Event::Booted {
        uptime_seconds: machine::uptime_seconds(),
    })?;
    let start = Instant::now();
    for (index, test) in job.tests.iter().enumerate() {
        report.send(&Event::Started { index })?;
        let outcome = if start.elapsed() < Duration::from_secs(job.total_seconds) {
            run::run(index, test, job)?
        } else {
            Outcome::not_run(job.total_seconds)
        };
        report.send(&Event::Finished {
            index,
            outcome: &outcome,
        })?;
    }
    report.send(&Event::Done { count: job.tests.len() })
}
