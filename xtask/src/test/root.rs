//! Root tests on this machine: two runners side by side, each with its share of the tests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;

use super::executables::{Executables, Test};
use super::job::{self, Progress};
use super::summary::Record;
use super::{HOST_LIMITS, virtual_machine};
use crate::{command, newest, workspace};

const RUNNERS: usize = 2;

/// Runs the tests.
pub(crate) fn run(executables: &Executables) -> anyhow::Result<Vec<Record>> {
    let environment = environment(executables);
    let mut shares = vec![Vec::new(); RUNNERS];
    for (index, test) in executables.tests.iter().enumerate() {
        shares[index % RUNNERS].push(test.clone());
    }
    let results: Vec<_> = std::thread::scope(|scope| {
        let start = |(index, share): (usize, &Vec<Test>)| {
            let (share, environment) = (share.clone(), &environment);
            scope.spawn(move || run_share(executables, environment, index, &share))
        };
        let runs: Vec<_> = shares.iter().enumerate().map(start).collect();
        runs.into_iter()
            .map(|run| run.join().expect("running tests does not panic"))
            .collect()
    });
    Ok(results
        .into_iter()
        .collect::<anyhow::Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect())
}

fn run_share(
    executables: &Executables,
    environment: &BTreeMap<&'static str, String>,
    index: usize,
    tests: &[Test],
) -> anyhow::Result<Vec<Record>> {
    let dir = workspace::target_dir().join("xtask");
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let path = dir.join(format!("root-job-{index}.json"));
    let place = |program: &Path| program.display().to_string();
    let job = job::describe(tests, &HOST_LIMITS, environment, place);
    std::fs::write(&path, job.to_string()).with_context(|| format!("write {}", path.display()))?;

    let mut runner = command::as_root(&executables.runner);
    let mut child = runner
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .context("start the runner")?;
    let stdout = child.stdout.take().expect("standard output is a pipe");
    let mut progress = Progress::default();
    for line in BufReader::new(stdout).lines() {
        progress.take(&line.context("read the runner's report")?, tests, "root")?;
    }
    let status = child.wait().context("wait for the runner")?;
    if !progress.is_done {
        progress.records.push(virtual_machine::crash(
            &progress,
            tests,
            format!("the runner ended with {status}"),
        ));
    }
    Ok(progress.records)
}

fn environment(executables: &Executables) -> BTreeMap<&'static str, String> {
    let compares_plugins = executables.tests.iter().any(|test| test.suite == "cni");
    let newest_plugins = compares_plugins.then(newest::plugins).transpose();
    let newest_plugins = newest_plugins.inspect_err(|error| eprintln!("root: no newest CNI plugins: {error:#}"));
    let newest_plugins = newest_plugins.ok().flatten().unwrap_or_default();
    let bin_dir = workspace::target_dir().join("debug").display().to_string();
    let inherited = |name: &str| std::env::var(name).unwrap_or_default();
    BTreeMap::from([
        ("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", inherited("PATH"))),
        ("HOME", inherited("HOME")),
        ("ORLOP_BIN_DIR", bin_dir),
        (newest::PLUGINS_VARIABLE, newest_plugins.display().to_string()),
        // Two runners share the machine with each other and with whatever else it does.
        ("ORLOP_SLOWNESS", "3".to_owned()),
        ("RUST_BACKTRACE", "1".to_owned()),
    ])
}

/// How long a runner may be silent: the limit of one test and the time to kill it.
pub(crate) const fn silence(limit: Duration) -> Duration {
    Duration::from_secs(limit.as_secs() + 60)
}
