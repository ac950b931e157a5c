//! Root tests in a VM: one boot for all of them but those of SELinux, which have one to themselves, and another for the
//! rest when a test takes the machine down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use serde_json::Value;

use super::VM_LIMITS;
use super::executables::{Executables, Test};
use super::job::{self, Limits, Progress};
use super::root::silence;
use super::summary::Record;
use crate::vm::emulator::Emulator;
use crate::vm::qemu::Security;
use crate::vm::{initrd, kernel, peers, qemu};
use crate::{build, workspace};

/// So many crashes of the machine are borne before the rest of the tests is given up.
const CRASH_LIMIT: usize = 5;

/// The part of the initial file system that all kernels and boots share.
#[derive(Debug)]
pub(crate) struct Prepared {
    dir: PathBuf,
    base: PathBuf,
    peers: PathBuf,
    emulator: Emulator,
}

impl Prepared {
    /// Packs the initial file system.
    pub(crate) fn new(executables: &Executables) -> anyhow::Result<Self> {
        let dir = workspace::target_dir().join("xtask/vm");
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let base = dir.join("base.cpio");
        let binaries = build::tested();
        let contents = initrd::Contents {
            init: &executables.runner,
            binaries: &binaries,
            tests: &executables.programs,
        };
        initrd::pack(&contents, &base)?;
        Ok(Self {
            dir,
            base,
            peers: peers::obtain()?,
            emulator: Emulator::obtain()?,
        })
    }

    /// Runs all tests on one kernel.
    pub(crate) fn run(&self, kernel: &str, executables: &Executables) -> anyhow::Result<Vec<Record>> {
        let kernel = kernel::obtain(kernel)?;
        let deadline = Instant::now() + VM_LIMITS.total;
        let (selinux, others): (Vec<_>, Vec<_>) = executables.tests.iter().cloned().partition(Test::wants_selinux);
        let mut records = self.run_with(&kernel, Security::AppArmor, &others, deadline)?;
        records.extend(self.run_with(&kernel, Security::Selinux, &selinux, deadline)?);
        Ok(records)
    }

    fn run_with(
        &self,
        kernel: &kernel::Kernel,
        security: Security,
        tests: &[Test],
        deadline: Instant,
    ) -> anyhow::Result<Vec<Record>> {
        let mut records = Vec::new();
        for _ in 0..CRASH_LIMIT {
            let rest = &tests[records.len()..];
            if rest.is_empty() {
                return Ok(records);
            }
            let progress = self.boot(kernel, security, rest, deadline)?;
            records.extend(progress.records);
        }
        if records.len() < tests.len() {
            let left = tests.len() - records.len();
            records.push(Record::failure(
                "vm",
                format!("given up after {CRASH_LIMIT} crashes: {left} tests did not run"),
            ));
        }
        Ok(records)
    }

    fn boot(
        &self,
        kernel: &kernel::Kernel,
        security: Security,
        tests: &[Test],
        deadline: Instant,
    ) -> anyhow::Result<Progress> {
        let limits = Limits {
            total: deadline.saturating_duration_since(Instant::now()),
            ..VM_LIMITS
        };
        let job = job::describe(tests, &limits, &environment(), place);
        let vm = self.start(kernel, security, &kernel.name, &job, Vec::new())?;
        follow(&vm, tests, &format!("vm {}", kernel.name))
    }

    /// Boots a machine with a job; `name` is that of its directory.
    pub(crate) fn start(
        &self,
        kernel: &kernel::Kernel,
        security: Security,
        name: &str,
        job: &Value,
        nics: Vec<qemu::Nic>,
    ) -> anyhow::Result<qemu::Vm> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let job_archive = dir.join("job.cpio");
        initrd::pack_job(job, &job_archive)?;
        let machine = qemu::Machine {
            emulator: &self.emulator,
            kernel,
            initrd: vec![self.base.as_path(), &kernel.modules, &job_archive],
            disk: &self.peers,
            nics,
            security,
            dir: &dir,
        };
        machine.boot()
    }

    /// Where machines' directories are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Reads a machine's report to its end, or to that of the machine.
pub(crate) fn follow(vm: &qemu::Vm, tests: &[Test], label: &str) -> anyhow::Result<Progress> {
    let mut progress = Progress::default();
    while !progress.is_done {
        let crash = match vm.line(silence(VM_LIMITS.test)) {
            Ok(Some(line)) => {
                progress.take(&line, tests, label)?;
                continue;
            }
            Ok(None) => "the VM crashed".to_owned(),
            Err(error) => error.to_string(),
        };
        let report = format!("{crash}; the end of its console:\n{}", vm.console_tail());
        println!("{label}: {crash}");
        progress.records.push(self::crash(&progress, tests, report));
        break;
    }
    Ok(progress)
}

/// The record of the test that was running, or was to be the next, when its runner went away.
pub(crate) fn crash(progress: &Progress, tests: &[Test], report: String) -> Record {
    let test = tests.get(progress.running.unwrap_or(progress.records.len()));
    Record::failure(&test.map_or_else(|| "runner".to_owned(), Test::full_name), report)
}

/// Where a test executable is in a VM.
pub(crate) fn place(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default();
    Path::new(initrd::TEST_DIR).join(name).display().to_string()
}

/// What tests in a VM find in their environment.
pub(crate) fn environment() -> BTreeMap<&'static str, String> {
    let pairs = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("ORLOP_BIN_DIR", initrd::BIN_DIR),
        ("ORLOP_NO_SKIP", "1"),
        ("ORLOP_ALONE", "1"),
        ("ORLOP_SLOWNESS", "10"),
        ("ORLOP_EMULATED", "1"),
        ("RUST_BACKTRACE", "1"),
    ];
    pairs.map(|(name, value)| (name, value.to_owned())).into()
}
