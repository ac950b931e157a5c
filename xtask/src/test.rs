//! `cargo xtask test`: unit tests, root tests on this machine, and the same root tests in VMs.

use std::time::{Duration, Instant};

use crate::{build, setup, vm};

pub(crate) mod executables;
pub(crate) mod job;
pub(crate) mod root;
pub(crate) mod summary;
pub(crate) mod unit;
pub(crate) mod virtual_machine;

use executables::Executables;
use summary::Summary;

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
    /// On this machine, as root.
    Root,
    /// In a VM.
    Vm,
}

/// Runs the selected tests and prints the summary; whether all passed.
pub(crate) fn run(selection: &Selection) -> anyhow::Result<bool> {
    let start = Instant::now();
    let wants = |part| selection.part.is_none_or(|wanted| wanted == part);
    setup::tools(if wants(Part::Vm) {
        setup::Purpose::Vm
    } else {
        setup::Purpose::Build
    })?;
    let mut summary = Summary::default();
    if wants(Part::Unit) {
        summary.stage("unit", || unit::run(selection.filter.as_deref()));
    }
    if wants(Part::Root) || wants(Part::Vm) {
        build::binaries(build::Profile::Debug)?;
        let executables = Executables::build(selection.filter.as_deref())?;
        if wants(Part::Root) {
            summary.stage("root", || root::run(&executables));
        }
        if wants(Part::Vm) {
            run_vms(selection, &executables, &mut summary)?;
        }
    }
    Ok(summary.print(start.elapsed()))
}

/// Two VMs at a time: they have one processor each, and so has this machine at least two to give.
fn run_vms(selection: &Selection, executables: &Executables, summary: &mut Summary) -> anyhow::Result<()> {
    let names = match &selection.kernel {
        Some(name) => vec![name.as_str()],
        None => vm::kernel::MATRIX.iter().map(|(name, _)| *name).collect(),
    };
    let prepared = virtual_machine::Prepared::new(executables)?;
    for pair in names.chunks(2) {
        std::thread::scope(|scope| {
            let runs: Vec<_> = pair
                .iter()
                .map(|name| (name, scope.spawn(|| prepared.run(name, executables))))
                .collect();
            for (name, run) in runs {
                let result = run.join().expect("running a VM does not panic");
                summary.stage(&format!("vm {name}"), || result);
            }
        });
    }
    Ok(())
}

/// Limit for one test on this machine.
pub(crate) const HOST_LIMIT: Duration = Duration::from_secs(180);
/// Limit for one test in a VM, where emulation makes processes and BPF programs about ten times as dear.
pub(crate) const VM_LIMIT: Duration = Duration::from_secs(480);
