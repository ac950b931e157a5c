//! `floor`: what a container takes at least, once as a program with the usual mounts alone and, with `--inside BUNDLE ROUNDS`,
//! within one process beside what this crate's own verbs take. For `cargo xtask bench runtime`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use runtime::cgroup::{self, Cgroup};
use runtime::container::{CreateRequest, Exit, Manner, Rootfs, SingleThreaded, Stdio, config, create};
use runtime::floor::{self, Mounts};
use runtime::spec::Spec;

/// As in the shim.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: runtime::sys::allocator::Kept = runtime::sys::allocator::Kept;

const USAGE: &str = "usage: floor ROOTFS | floor --inside BUNDLE ROUNDS | floor --laps BUNDLE ROUNDS";

fn main() -> Result<ExitCode> {
    let token = SingleThreaded::prove()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [root] => {
            let mounts = Mounts::usual(Path::new(root))?;
            once(&token, &mounts).map(|exit| ExitCode::from(exit.shell_code()))
        }
        ["--inside", bundle, rounds] => {
            let rounds = rounds.parse().context("the number of rounds")?;
            inside(&token, Path::new(bundle), rounds).map(|()| ExitCode::SUCCESS)
        }
        ["--laps", bundle, rounds] => {
            let rounds = rounds.parse().context("the number of rounds")?;
            laps(&token, Path::new(bundle), rounds).map(|()| ExitCode::SUCCESS)
        }
        _ => bail!(USAGE),
    }
}

fn once(token: &SingleThreaded, mounts: &Mounts) -> Result<Exit> {
    floor::run(token, mounts, &own_cgroup()?, c"/bin/true").context("run the floor")
}

/// Prints three numbers of nanoseconds: the medians of our own verbs, of the floor with every mount of the bundle, and of the
/// one with the usual mounts alone, taken in turn.
fn inside(token: &SingleThreaded, bundle: &Path, rounds: usize) -> Result<()> {
    let spec = spec(bundle)?;
    let root = bundle.join("rootfs");
    let (all, usual) = (Mounts::of(&spec, &root, &own_cgroup()?)?, Mounts::usual(&root)?);
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        times[0].push(timed(|| container(token, &spec, bundle, &root))?);
        times[1].push(timed(|| once(token, &all))?);
        times[2].push(timed(|| once(token, &usual))?);
    }
    let [ours, floor, least] = times.map(|times| median(times).as_nanos());
    println!("{ours} {floor} {least}");
    Ok(())
}

/// Prints what takes how many microseconds, in the order in which it is done: medians.
fn laps(token: &SingleThreaded, bundle: &Path, rounds: usize) -> Result<()> {
    let spec = spec(bundle)?;
    let mut order = Vec::new();
    let mut times: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for _ in 0..rounds {
        floor::start_stopwatch().context("start the stopwatch")?;
        container(token, &spec, bundle, &bundle.join("rootfs"))?;
        for (name, nanoseconds) in floor::laps() {
            if !times.contains_key(&name) {
                order.push(name.clone());
            }
            times.entry(name).or_default().push(Duration::from_nanos(nanoseconds));
        }
    }
    for name in order {
        let spent = median(times.remove(&name).unwrap_or_default());
        println!("{:8.1} {name}", spent.as_secs_f64() * 1e6);
    }
    Ok(())
}

fn container(token: &SingleThreaded, spec: &Spec, bundle: &Path, root: &Path) -> Result<Exit> {
    let cgroup = own_cgroup()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let request = CreateRequest {
        spec,
        bundle,
        rootfs: Rootfs::Directory(root.to_owned()),
        cgroup: Some(cgroup.clone()),
        stdio: Stdio::Streams {
            stdin: null.try_clone()?.into(),
            stdout: null.try_clone()?.into(),
            stderr: null.into(),
        },
        manner: Manner {
            starts_at_once: true,
            ..Manner::default()
        },
    };
    let running = create(token, request)?.start()?;
    let exit = Exit::wait(running.pidfd.as_fd())?;
    floor::ended();
    Cgroup::at(cgroup).remove()?;
    Ok(exit)
}

fn spec(bundle: &Path) -> Result<Spec> {
    let text = fs::read(bundle.join("config.json")).context("read the configuration")?;
    config::read(&text).context("parse the configuration")
}

fn own_cgroup() -> Result<PathBuf> {
    Ok(cgroup::root()?.join(format!("orlop-floor-{}", std::process::id())))
}

fn timed(work: impl FnOnce() -> Result<Exit>) -> Result<Duration> {
    let start = Instant::now();
    let exit = work()?;
    ensure!(exit.shell_code() == 0, "it ended with {}", exit.shell_code());
    Ok(start.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
