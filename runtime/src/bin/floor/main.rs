//! `floor`: what a container takes at least, once as a program and, with `--inside BUNDLE ROUNDS`, within one process beside
//! what this crate's own verbs take. For `cargo xtask bench runtime`.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime::Spec;
use runtime::cgroup::{self, Cgroup};
use runtime::container::{CreateRequest, Exit, Manner, Rootfs, SingleThreaded, Stdio, config, create};
use runtime::floor;

const USAGE: &str = "usage: floor ROOTFS | floor --inside BUNDLE ROUNDS";

fn main() -> Result<ExitCode> {
    let token = SingleThreaded::prove()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [root] => once(&token, Path::new(root)).map(|exit| ExitCode::from(exit.shell_code())),
        ["--inside", bundle, rounds] => {
            let rounds = rounds.parse().context("the number of rounds")?;
            inside(&token, Path::new(bundle), rounds).map(|()| ExitCode::SUCCESS)
        }
        _ => bail!(USAGE),
    }
}

fn once(token: &SingleThreaded, root: &Path) -> Result<Exit> {
    floor::run(token, root, &own_cgroup()?, c"/bin/true").context("run the floor")
}

/// Prints two numbers of nanoseconds: the medians of our own verbs and of the floor, taken in turn.
fn inside(token: &SingleThreaded, bundle: &Path, rounds: usize) -> Result<()> {
    let text = fs::read(bundle.join("config.json")).context("read the configuration")?;
    let spec: Spec = config::read(&text).context("parse the configuration")?;
    let root = bundle.join("rootfs");
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(timed(|| container(token, &spec, bundle, &root))?);
        floors.push(timed(|| once(token, &root))?);
    }
    println!("{} {}", median(ours).as_nanos(), median(floors).as_nanos());
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
    Cgroup::at(cgroup).remove()?;
    Ok(exit)
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
