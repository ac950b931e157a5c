//! The root test executables and the tests in them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context;
use serde_json::Value;

use crate::{command, workspace};

/// One test of one executable.
#[derive(Debug, Clone)]
pub(crate) struct Test {
    /// Name of the source file, for instance `pods`.
    pub(crate) suite: String,
    /// Its path within the executable.
    pub(crate) name: String,
    /// The executable on this machine.
    pub(crate) program: PathBuf,
}

impl Test {
    /// What a person calls it.
    pub(crate) fn full_name(&self) -> String {
        format!("{}::{}", self.suite, self.name)
    }

    /// Whether it wants a machine with SELinux, which has no AppArmor.
    pub(crate) fn wants_selinux(&self) -> bool {
        self.name.split("::").next() == Some(SELINUX)
    }

    fn is_of_two(&self) -> bool {
        self.suite == WIRE || self.name.split("::").next() == Some(WIRE)
    }
}

/// Everything that the runs of root tests share.
#[derive(Debug)]
pub(crate) struct Executables {
    /// The runner: host program and init of the VM.
    pub(crate) runner: PathBuf,
    /// Test executables, each once.
    pub(crate) programs: Vec<PathBuf>,
    /// The tests that the filter leaves, but for those of two machines.
    pub(crate) tests: Vec<Test>,
    /// The tests of two machines on one wire that the filter leaves.
    pub(crate) wire: Vec<Test>,
}

/// The suite, or the module of a suite, of tests of two machines.
const WIRE: &str = "wire";
/// The module of a suite with tests of SELinux.
const SELINUX: &str = "selinux";

impl Executables {
    /// Builds the tests and lists them.
    pub(crate) fn build(filter: Option<&str>) -> anyhow::Result<Self> {
        command::run(workspace::cargo().args(["build", "--package", "tests-vm"]))?;
        let built = compile()?;
        let mut tests = Vec::new();
        for (suite, program) in &built {
            tests.extend(list(suite, program)?);
        }
        tests.retain(|test| filter.is_none_or(|text| test.full_name().contains(text)));
        let (wire, tests): (Vec<_>, Vec<_>) = tests.into_iter().partition(Test::is_of_two);
        let programs = built.into_iter().map(|(_, program)| program);
        let programs = programs
            .filter(|program| tests.iter().chain(&wire).any(|test| test.program == *program))
            .collect();
        Ok(Self {
            runner: workspace::target_dir().join("debug/tests-vm"),
            programs,
            tests,
            wire,
        })
    }
}

/// The executables of the `tests` crate by the names of their sources.
fn compile() -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut cargo = workspace::cargo();
    cargo.args([
        "test",
        "--package",
        "tests",
        "--lib",
        "--tests",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    let output = cargo.stderr(Stdio::inherit()).output().context("start cargo")?;
    anyhow::ensure!(
        output.status.success(),
        "building the root tests ended with {}",
        output.status
    );
    let text = String::from_utf8(output.stdout).context("read cargo's messages")?;
    Ok(text.lines().filter_map(executable).collect())
}

/// Name and path in one of cargo's messages, if it is about a test executable and not a program that tests run.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message.pointer("/profile/test") != Some(&Value::Bool(true)) {
        return None;
    }
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), PathBuf::from(path)))
}

fn list(suite: &str, program: &PathBuf) -> anyhow::Result<Vec<Test>> {
    let listing = command::output(Command::new(program).args(["--list", "--format", "terse"]))?;
    let names = listing.lines().filter_map(|line| line.strip_suffix(": test"));
    let test = |name: &str| Test {
        suite: suite.to_owned(),
        name: name.to_owned(),
        program: program.clone(),
    };
    Ok(names.map(test).collect())
}
