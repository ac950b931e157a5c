//! Tests of two machines on one wire: both are booted, and the second ends when the first tells it to. For
//! `tests/tests/wire.rs` it is booted once more, as a node that goes away and comes back.

use std::time::Duration;

use super::executables::Test;
use super::job::{self, Limits};
use super::summary::Record;
use super::virtual_machine::{Prepared, environment, follow, place};
use crate::vm::qemu::Security;
use crate::vm::{kernel, qemu};

/// For one stay of a machine; a test takes half a minute.
const LIMITS: Limits = Limits {
    test: Duration::from_mins(4),
    total: Duration::from_mins(5),
};
/// Says to the test which end it is.
const END: &str = "ORLOP_WIRE";
/// The suite whose second machine goes away and comes back.
const LEAVING: &str = "wire";

/// Runs the test; each end has a kernel of its own.
pub(crate) fn run(prepared: &Prepared, kernels: [&str; 2], test: &Test) -> anyhow::Result<Vec<Record>> {
    let kernels = [kernel::obtain(kernels[0])?, kernel::obtain(kernels[1])?];
    let tests = std::slice::from_ref(test);
    let start = |end: usize| {
        let mut environment = environment();
        environment.insert(END, end.to_string());
        let job = job::describe(tests, &LIMITS, &environment, place);
        let nics = vec![nic(prepared, end)];
        prepared.start(&kernels[end], Security::AppArmor, &directory(end), &job, nics)
    };
    let stays = start(0)?;
    let mut records = Vec::new();
    let stays_of_other: &[&str] = if test.suite == LEAVING {
        &["first", "second"]
    } else {
        &["only"]
    };
    for stay in stays_of_other {
        let goes = start(1)?;
        let label = format!("wire {}, {stay} stay", kernels[1].name);
        records.extend(follow(&goes, tests, &label)?.records);
    }
    let label = format!("wire {}", kernels[0].name);
    records.extend(follow(&stays, tests, &label)?.records);
    Ok(records)
}

fn directory(end: usize) -> String {
    format!("wire-{end}")
}

fn nic(prepared: &Prepared, end: usize) -> qemu::Nic {
    let socket = |end: usize| prepared.dir().join(directory(end)).join("wire");
    qemu::Nic {
        mac: format!("52:54:00:00:00:{end:02x}"),
        local: socket(end),
        remote: socket(1 - end),
    }
}
