//! `cargo xtask test`: unit tests, some of them in Miri, root tests on this machine, and the same root tests in VMs.

use std::time::{Duration, Instant};

use crate::{build, setup, vm};

pub(crate) mod executables;
pub(crate) mod job;
pub(crate) mod miri;
pub(crate) mod root;
pub(crate) mod summary;
pub(crate) mod unit;
pub(crate) mod virtual_machine;
pub(crate) mod wire;

use executables::Executables;
use job::Limits;
use summary::{Record, Summary, timed};
use virtual_machine::Prepared;

/// Which tests to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Empty for all of them.
    pub(crate) part: Option<Part>,
    /// Only this kernel of the matrix, or one outside of it.
    pub(crate) kernel: Option<String>,
    /// Only tests with this text in their name, `suite::name`.
    pub(crate) filter: Option<String>,
}

/// A part of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Needs no root.
    Unit,
    /// Of those, what Miri can run.
    Miri,
    /// On this machine, as root.
    Root,
    /// In a VM.
    Vm,
}

/// Runs the selected tests and prints the summary; whether all passed.
pub(crate) fn run(selection: &Selection) -> bool {
    let start = Instant::now();
    let wants = |part| selection.part.is_none_or(|wanted| wanted == part);
    let mut summary = Summary::default();
    if wants(Part::Unit) {
        summary.add("unit", timed(|| run_unit(selection)));
    }
    // With a filter it is for who asks for it: few names are among those that it runs.
    let is_for_all = selection.part.is_none() && selection.filter.is_none();
    let miri = || timed(|| miri::run(selection.filter.as_deref()));
    if selection.part == Some(Part::Miri) {
        summary.add("miri", miri());
    }
    if wants(Part::Root) || wants(Part::Vm) {
        let purpose = if wants(Part::Vm) {
            setup::Purpose::Vm
        } else {
            setup::Purpose::Test
        };
        match build(selection, purpose) {
            Err(error) => summary.add("build", (Duration::ZERO, Err(error))),
            Ok(executables) => {
                if wants(Part::Root) {
                    // Root tests wait for much, and leave the processors to it meanwhile.
                    let (root, miri) = std::thread::scope(|scope| {
                        let miri = is_for_all.then(|| scope.spawn(miri));
                        let root = timed(|| root::run(&executables));
                        (root, miri.map(|miri| miri.join().expect("running Miri does not panic")))
                    });
                    summary.add("root", root);
                    miri.into_iter().for_each(|miri| summary.add("miri", miri));
                }
                if wants(Part::Vm) {
                    run_vms(selection, &executables, &mut summary);
                }
            }
        }
    }
    summary.print(start.elapsed())
}

fn run_unit(selection: &Selection) -> anyhow::Result<Vec<Record>> {
    setup::tools(setup::Purpose::Build)?;
    unit::run(selection.filter.as_deref())
}

fn build(selection: &Selection, purpose: setup::Purpose) -> anyhow::Result<Executables> {
    setup::tools(purpose)?;
    build::binaries(build::Profile::Debug)?;
    build::weakened()?;
    Executables::build(selection.filter.as_deref())
}

/// Two VMs at a time: they have one processor each.
fn run_vms(selection: &Selection, executables: &Executables, summary: &mut Summary) {
    let names = match &selection.kernel {
        Some(name) => vec![name.as_str()],
        None => vm::kernel::MATRIX.iter().map(|(name, _)| *name).collect(),
    };
    let prepared = match Prepared::new(executables) {
        Ok(prepared) => prepared,
        Err(error) => return summary.add("vm", (Duration::ZERO, Err(error))),
    };
    for pair in names.chunks(2) {
        let run = |name: &&str| timed(|| prepared.run(name, executables));
        let results: Vec<_> = std::thread::scope(|scope| {
            let runs: Vec<_> = pair.iter().map(|name| scope.spawn(move || run(name))).collect();
            runs.into_iter()
                .map(|run| run.join().expect("running a VM does not panic"))
                .collect()
        });
        for (name, result) in pair.iter().zip(results) {
            summary.add(&format!("vm {name}"), result);
        }
    }
    let ([first, .., last] | [first @ last]) = names.as_slice() else {
        return;
    };
    for test in &executables.wire {
        summary.add("wire", timed(|| wire::run(&prepared, [first, last], test)));
    }
}

/// On this machine.
pub(crate) const HOST_LIMITS: Limits = Limits {
    test: Duration::from_secs(180),
    total: Duration::from_mins(12),
};
/// In a VM, where emulation makes processes and BPF programs about ten times as dear.
pub(crate) const VM_LIMITS: Limits = Limits {
    test: Duration::from_secs(480),
    total: Duration::from_mins(45),
};
