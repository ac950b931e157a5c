//! Containers through the command line, against Debian's runc and crun, the newest crun and the least that a container
//! takes; and within one process, against a floor and that least.
//!
//! Both of these are bare programs: a cgroup, clone3, mounts by mount(2), an exec, and nothing else. The *floor* makes every
//! mount that the bundle's configuration asks for, masked and read-only paths among them, so that it does the same work; the
//! *least* only the six that every container has.
//!
//! All take their turns in one run, each on the same bundle, which `runc spec` made. CPU time is that of the runtime and
//! all that it starts and waits for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::bundle::{bundle, limits, seccomp};
use super::view::{Run, Shell, View};
use super::{MICROSECOND, MILLISECOND, Row, median};
use crate::{build, command, newest, workspace};

const ROUNDS: usize = 30;
/// Of containers that start at once.
const CROWD: usize = 100;
const CROWD_ROUNDS: usize = 3;
const INSIDE_ROUNDS: &str = "200";
const MEBIBYTE: f64 = (1 << 20) as f64;
/// What our static program is to fit into.
const SIZE_GOAL: f64 = 2.0;

/// One who takes part.
struct Runner {
    name: String,
    /// What a line begins with.
    program: String,
    shell: Shell,
    goal: Option<f64>,
}

/// What is done again and again; `P` stands for the program, `B` for the bundle and `N` for a name of one's own.
struct Case {
    name: &'static str,
    bundle: PathBuf,
    before: &'static str,
    line: String,
    after: &'static str,
    rounds: usize,
    /// Whether all its processes are waited for by their parents: only then is their CPU time known.
    is_waited_for: bool,
}

/// Measures against each peer that runs here.
pub(super) fn rows() -> anyhow::Result<Vec<Row>> {
    build::floor()?;
    let ours = build::path(build::Profile::Release, "orlop-oci");
    let mut us = Runner::start("ours", ours.display().to_string(), View::Host, None, None)?;
    let mut peers = peers();
    let mut rows = Vec::new();
    for case in cases()? {
        rows.extend(case.rows(&mut us, &mut peers)?);
    }
    rows.push(beside_the_least(&mut us)?);
    rows.extend(inside()?);
    rows.extend(laps()?);
    let size = std::fs::metadata(&ours)
        .with_context(|| format!("look at {}", ours.display()))?
        .len();
    rows.push(Row {
        area: "runtime",
        case: "size of orlop-oci".to_owned(),
        ours: size as f64 / MEBIBYTE,
        peer: Some(("the goal".to_owned(), SIZE_GOAL)),
        unit: "MiB",
        goal: Some(1.0),
    });
    Ok(rows)
}

/// Those that start here.
fn peers() -> Vec<Runner> {
    let newest = newest::crun()
        .and_then(|root| Runner::start("crun (sid)", "crun".to_owned(), View::V2, Some(&root), Some(0.65)));
    let runc = Runner::start("runc", "runc".to_owned(), View::V2, None, Some(0.5));
    let crun = Runner::start("crun", "crun".to_owned(), View::V1, None, Some(0.65));
    let all = [runc, crun, newest].into_iter();
    all.filter_map(|peer| {
        peer.inspect_err(|error| eprintln!("bench: a peer does not start here: {error:#}"))
            .ok()
    })
    .collect()
}

fn cases() -> anyhow::Result<Vec<Case>> {
    let plain = bundle("plain", &["/bin/true"], |_| {})?;
    let sleeper = bundle("sleeper", &["/bin/sleep", "1000"], |_| {})?;
    let run = |name, bundle: &Path| Case {
        name,
        bundle: bundle.to_owned(),
        before: "true",
        line: "P run --bundle B N".to_owned(),
        after: "true",
        rounds: ROUNDS,
        is_waited_for: true,
    };
    let mut cases = vec![run("run /bin/true", &plain)];
    match seccomp() {
        Ok(profile) => {
            let filtered = bundle("filtered", &["/bin/true"], |spec| spec["linux"]["seccomp"] = profile)?;
            cases.push(run("run, seccomp", &filtered));
        }
        Err(error) => eprintln!("bench: no seccomp profile here: {error:#}"),
    }
    // On a hybrid host everybody would enforce something else, or nothing.
    if View::V2.where_hybrid() == View::Host {
        cases.push(run("run, limits", &bundle("limited", &["/bin/true"], limits)?));
    } else {
        eprintln!("bench: on this hybrid host limits can't be compared");
    }
    cases.push(Case {
        line: "P create --bundle B N && P start N && P delete --force N".to_owned(),
        is_waited_for: false,
        ..run("create, start, delete", &plain)
    });
    cases.push(Case {
        before: "P run --detach --bundle B N",
        line: "P exec N /bin/true".to_owned(),
        after: "P delete --force N",
        ..run("exec /bin/true", &sleeper)
    });
    cases.push(Case {
        line: format!("for n in $(seq {CROWD}); do P run --bundle B N-$n & done; wait"),
        rounds: CROWD_ROUNDS,
        ..run("100 at once", &plain)
    });
    Ok(cases)
}

impl Runner {
    fn start(name: &str, program: String, view: View, root: Option<&Path>, goal: Option<f64>) -> anyhow::Result<Self> {
        let view = view.where_hybrid();
        let mut shell = Shell::start(view, Run::Memory, root)?;
        shell
            .run(&format!("{program} --version"))
            .with_context(|| format!("ask {name} for its version"))?;
        Ok(Self {
            name: view.label(name),
            program,
            shell,
            goal,
        })
    }

    fn line(&self, case: &Case, pattern: &str) -> String {
        let words = pattern.split(' ').map(|word| match word {
            "P" => self.program.clone(),
            "B" => case.bundle.display().to_string(),
            _ if word.starts_with('N') => word.replacen('N', "bench-$$", 1),
            _ => word.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    fn run(&mut self, case: &Case, pattern: &str) -> anyhow::Result<()> {
        let line = self.line(case, pattern);
        self.shell.run(&line)
    }
}

impl Case {
    /// A row of wall time for each peer, and one of CPU time.
    fn rows(&self, us: &mut Runner, peers: &mut [Runner]) -> anyhow::Result<Vec<Row>> {
        us.run(self, self.before).context("get ready")?;
        us.run(self, &self.line).context("a first run of ours")?;
        let mut able = Vec::new();
        for peer in peers {
            match peer.run(self, self.before).and_then(|()| peer.run(self, &self.line)) {
                Ok(()) => able.push(peer),
                Err(error) => eprintln!("bench: {}: {} does not run here: {error:#}", self.name, peer.name),
            }
        }
        let mut all: Vec<&mut Runner> = std::iter::once(us).chain(able).collect();
        let figures = self.measure(&mut all)?;
        for runner in &mut all {
            runner.run(self, self.after).context("clean up")?;
        }
        let ours = figures[0];
        let peers = all[1..].iter().zip(&figures[1..]);
        let rows = peers.flat_map(|(peer, theirs)| {
            let row = |case: String, ours: f64, theirs: f64| Row {
                area: "runtime",
                case,
                ours,
                peer: Some((peer.name.clone(), theirs)),
                unit: "ms",
                goal: peer.goal,
            };
            let cpu = self
                .is_waited_for
                .then(|| row(format!("{}: CPU", self.name), ours[1], theirs[1]));
            [row(self.name.to_owned(), ours[0], theirs[0])].into_iter().chain(cpu)
        });
        Ok(rows.collect())
    }

    /// Median of the wall time and mean of the CPU time, in milliseconds. Each round begins with another one.
    fn measure(&self, all: &mut [&mut Runner]) -> anyhow::Result<Vec<[f64; 2]>> {
        let mut times = vec![Vec::new(); all.len()];
        let before = all
            .iter()
            .map(|runner| runner.shell.cpu())
            .collect::<anyhow::Result<Vec<_>>>()?;
        for round in 0..self.rounds {
            for turn in 0..all.len() {
                let index = (round + turn) % all.len();
                let line = all[index].line(self, &self.line);
                times[index].push(all[index].shell.time(&line)?);
            }
        }
        let milliseconds = |time: Duration| time.as_secs_f64() / MILLISECOND.as_secs_f64();
        let figures = all.iter().zip(times).zip(before).map(|((runner, times), before)| {
            let cpu = milliseconds(runner.shell.cpu()?.saturating_sub(before)) / self.rounds as f64;
            Ok([milliseconds(median(times)), cpu])
        });
        figures.collect()
    }
}

/// `run /bin/true` beside a program that does nothing but clone3, the usual mounts and exec.
fn beside_the_least(us: &mut Runner) -> anyhow::Result<Row> {
    let bundle = bundle("plain", &["/bin/true"], |_| {})?;
    let case = Case {
        name: "run /bin/true",
        line: "P run --bundle B N".to_owned(),
        bundle,
        before: "true",
        after: "true",
        rounds: ROUNDS,
        is_waited_for: true,
    };
    let program = format!("{} {}/rootfs #", build::floor_path().display(), case.bundle.display());
    let mut least = Runner {
        name: "least".to_owned(),
        program,
        shell: Shell::start(View::Host, Run::Memory, None)?,
        goal: None,
    };
    let rows = case.rows(us, std::slice::from_mut(&mut least))?;
    rows.into_iter().next().context("the least does not run here")
}

/// What the program of the floor says with an option, in one process.
fn floor(option: &str) -> anyhow::Result<String> {
    let bundle = workspace::target_dir().join("xtask/bundles/plain");
    let mut floor = command::as_root(build::floor_path());
    command::output(floor.arg(option).arg(&bundle).arg(INSIDE_ROUNDS))
}

/// Where each microsecond of that goes: the host's part, and the container's process step by step. Where the two take
/// their turns, what is waited for is in the time of who waits.
fn laps() -> anyhow::Result<Vec<Row>> {
    let text = floor("--laps")?;
    let rows = text.lines().map(|line| {
        let (spent, what) = line.trim().split_once(' ').context("read what the floor says")?;
        Ok(Row {
            area: "runtime",
            case: format!("of it: {what}"),
            ours: spent.parse().context("read a time of the floor's")?,
            peer: None,
            unit: "us",
            goal: None,
        })
    });
    rows.collect()
}

/// From the call of `create` to the end of `/bin/true`, in one process: beside the floor, and beside the least.
fn inside() -> anyhow::Result<[Row; 2]> {
    let text = floor("--inside")?;
    let mut figures = text.split_whitespace().map(str::parse::<f64>);
    let mut next = || {
        let figure = figures.next().context("the floor says too little")?;
        let nanoseconds = figure.context("read the floor's figures")?;
        anyhow::Ok(nanoseconds / MICROSECOND.as_nanos() as f64)
    };
    let (ours, floor, least) = (next()?, next()?, next()?);
    let row = |peer: &str, figure: f64, goal: Option<f64>| Row {
        area: "runtime",
        case: "/bin/true within one process".to_owned(),
        ours,
        peer: Some((peer.to_owned(), figure)),
        unit: "us",
        goal,
    };
    Ok([row("floor", floor, Some(1.3)), row("least", least, None)])
}
