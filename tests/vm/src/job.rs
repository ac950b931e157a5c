//! What the runner was started for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

/// The job as `cargo xtask` writes it.
#[derive(Debug, Deserialize)]
pub(crate) struct Job {
    /// In the order of running.
    pub(crate) tests: Vec<Test>,
    /// After this a test's cgroup is killed and the test has failed.
    pub(crate) limit_seconds: u64,
    /// After this no further test is started; each of the rest has failed.
    pub(crate) total_seconds: u64,
    /// The environment of every test, all of it.
    pub(crate) environment: BTreeMap<String, String>,
}

/// One test: one process.
#[derive(Debug, Deserialize)]
pub(crate) struct Test {
    /// Name of the test in its executable.
    pub(crate) name: String,
    /// The test executable.
    pub(crate) program: PathBuf,
}

impl Job {
    /// Reads a job.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))
    }
}
