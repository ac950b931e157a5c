//! podshim, the supervisor of one pod: parent and subreaper of its containers, writer of their logs, keeper of their
//! exits. One thread, one loop; it decides nothing about the pod, that is the agent's.
//!
//! | module | what it is |
//! |---|---|
//! | `detach` | from a process that an agent spawned to a shim of its own |
//! | `serve` | the loop: descriptors, signals, clock |
//! | `answer`, `create`, `exec` | what requests do |
//! | `reap` | what exits do: drain, record, report, in this order |
//! | `children` | the book of containers and execs |
//! | `clients`, `poller`, `output` | one connection, epoll, one stream of output |
//! | [`cri`], [`logs`] | entries of a log, a log file |
//! | [`record`] | the files of a pod's directory; the agent reads them when the shim is dead |
//! | `oom` | was it the kernel's OOM killer |

mod answer;
mod children;
mod clients;
mod create;
pub mod cri;
mod detach;
mod exec;
pub mod logs;
mod oom;
mod output;
mod poller;
mod reap;
pub mod record;
mod serve;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

use detach::{Arguments, DetachError};
use serve::Shim;
pub(crate) use serve::now;

use crate::container::SingleThreaded;
use crate::sys::seal::run_from_read_only_file;

/// How many lines a shim writes to its own log in its life; later ones are dropped.
const REPORT_LIMIT: u32 = 1000;

/// The podshim program: `podshim --pod-dir DIR [--cgroup DIR]`, with a listening unix socket as standard input.
pub fn main() -> ExitCode {
    match become_shim().and_then(|shim| shim.run().map_err(|error| DetachError::Host("serve", error))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report("podshim ends", &error);
            ExitCode::FAILURE
        }
    }
}

fn become_shim() -> Result<Shim, DetachError> {
    run_from_read_only_file(&SingleThreaded::prove()?)
        .map_err(|error| DetachError::Host("execute this program once more, from a read-only mount", error))?;
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let listener = detach::take_listener()?;
    detach::leave_parent(&arguments)?;
    let welcome = detach::introduce(&arguments.pod_dir)?;
    let shim =
        Shim::new(arguments.pod_dir, listener, welcome).map_err(|error| DetachError::Host("set the loop up", error))?;
    detach::say_ready()?;
    Ok(shim)
}

/// Writes one line to the shim's own log. Who can't be told is not told.
fn report(action: &str, error: &dyn Error) {
    static LINES: AtomicU32 = AtomicU32::new(0);
    if LINES.fetch_add(1, Ordering::Relaxed) < REPORT_LIMIT {
        let _ = writeln!(io::stderr(), "{action}: {}", answer::chain(error));
    }
}
