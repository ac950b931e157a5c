//! `exec`: one more process in a container that `run` keeps in the foreground elsewhere.

use std::fs;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use oci_spec::runtime::{Process, Spec};
use runtime::container::{self, SingleThreaded, Target};
use runtime::sys::pidfd::pidfd_open;

use crate::arguments::Exec;
use crate::foreground::{Foreground, stdio};
use crate::state::{State, read_spec};

pub(crate) fn exec(exec: &Exec) -> Result<u8> {
    let pidfd = pidfd_open(State::read(&exec.root, &exec.id)?.pid).context("open the container's process")?;
    // Read again: the pidfd now holds on to the process that this state is about.
    let state = State::read(&exec.root, &exec.id)?;
    let spec = read_spec(&state.bundle)?;
    let process = process(exec, &spec)?;
    let foreground = Foreground::take()?;
    let target = Target {
        pidfd: pidfd.as_fd(),
        cgroup: Some(&state.cgroup),
        spec: &spec,
    };
    let stdio = stdio(process.terminal().unwrap_or(false))?;
    let running = container::exec(&SingleThreaded::prove()?, target, &process, stdio)?;
    Ok(foreground.wait(running)?.shell_code())
}

fn process(exec: &Exec, spec: &Spec) -> Result<Process> {
    if let Some(file) = &exec.process {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        return serde_json::from_str(&text).with_context(|| format!("parse {}", file.display()));
    }
    let mut process = spec.process().clone().context("config.json: process: is missing")?;
    process
        .set_args(Some(exec.command.clone()))
        .set_terminal(Some(exec.terminal));
    let environment = process
        .env()
        .iter()
        .flatten()
        .chain(&exec.environment)
        .cloned()
        .collect();
    process.set_env(Some(environment));
    if let Some(cwd) = &exec.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some((uid, gid)) = exec.user {
        let mut user = process.user().clone();
        user.set_uid(uid).set_gid(gid.unwrap_or_else(|| process.user().gid()));
        process.set_user(user);
    }
    Ok(process)
}
