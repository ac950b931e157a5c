//! How a process becomes a podshim: it takes the socket that it was handed, leaves its parent, says who it is and that
//! it is ready.
//!
//! The parent passes the listening socket as standard input and reads standard output: `ready`, or nothing and the
//! reason on standard error. After that both are `/dev/null`, and standard error remains as the shim's own log.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::prctl;
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stdin, dup2_stdout, setsid};

use super::create::start_time;
use super::record::{self, RecordError};
use super::report;
use crate::container::{SingleThreaded, ThreadsError};
use crate::proto::{NEWEST_VERSION, Welcome};
use crate::sys::fork::{Fork, fork};

/// Protects the shim, without which its containers can't be managed, from the OOM killer. The kubelet gives the same to
/// itself.
const OOM_SCORE_ADJ: &str = "-999";

/// What a podshim is told on its command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    /// The pod's directory, absolute.
    pub(super) pod_dir: PathBuf,
    /// A cgroup to move to, if any.
    pub(super) cgroup: Option<PathBuf>,
}

/// Why a process could not become a podshim.
#[derive(Debug, thiserror::Error)]
pub(super) enum DetachError {
    #[error("unexpected argument {0:?}; usage: podshim --pod-dir DIR [--cgroup DIR]")]
    Argument(String),
    #[error("option {0} needs an absolute path")]
    Path(&'static str),
    #[error("standard input is not a listening unix socket")]
    Socket,
    #[error("leave the parent")]
    Threads(#[from] ThreadsError),
    #[error("{0}")]
    Host(&'static str, #[source] io::Error),
    #[error("say who we are")]
    Record(#[from] RecordError),
}

impl Arguments {
    pub(super) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, DetachError> {
        let (mut pod_dir, mut cgroup) = (None, None);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--pod-dir" => pod_dir = Some(absolute("--pod-dir", words.next())?),
                "--cgroup" => cgroup = Some(absolute("--cgroup", words.next())?),
                _ => return Err(DetachError::Argument(word)),
            }
        }
        Ok(Self {
            pod_dir: pod_dir.ok_or(DetachError::Path("--pod-dir"))?,
            cgroup,
        })
    }
}

fn absolute(option: &'static str, path: Option<String>) -> Result<PathBuf, DetachError> {
    path.map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .ok_or(DetachError::Path(option))
}

/// Forks. The parent's side ends the process here; the child goes on in a session of its own, as a subreaper.
pub(super) fn leave_parent(arguments: &Arguments) -> Result<(), DetachError> {
    let token = SingleThreaded::prove()?;
    if fork(&token).map_err(host("fork"))? == Fork::Parent {
        std::process::exit(0);
    }
    setsid().map_err(host("start a session"))?;
    prctl::set_child_subreaper(true).map_err(host("become a subreaper"))?;
    std::env::set_current_dir("/").map_err(|error| DetachError::Host("change to /", error))?;
    umask(Mode::from_bits_truncate(0o022));
    // Both make the shim a better neighbour and neither is needed: without CAP_SYS_RESOURCE the first is refused.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ) {
        report("set oom_score_adj", &error);
    }
    if let Some(cgroup) = &arguments.cgroup
        && let Err(error) = std::fs::write(cgroup.join("cgroup.procs"), "0")
    {
        report("move to the cgroup", &error);
    }
    Ok(())
}

/// Takes the listening socket from standard input, which becomes `/dev/null`.
pub(super) fn take_listener() -> Result<UnixListener, DetachError> {
    let stdin = io::stdin();
    if !matches!(getsockopt(&stdin, sockopt::AcceptConn), Ok(true)) {
        return Err(DetachError::Socket);
    }
    let listener = stdin
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| DetachError::Host("keep the socket", error))?;
    let null = null()?;
    dup2_stdin(&null).map_err(host("close standard input"))?;
    Ok(listener.into())
}

/// Writes `shim.json`.
pub(super) fn introduce(pod_dir: &Path) -> Result<Welcome, DetachError> {
    let pid = std::process::id();
    let build = env!("CARGO_PKG_VERSION").into();
    let welcome = Welcome {
        version: NEWEST_VERSION,
        pid,
        start_time: start_time(pid),
        build,
    };
    record::write_shim(pod_dir, &welcome)?;
    Ok(welcome)
}

/// Tells the parent that connections are answered from now on, and lets go of standard output.
pub(super) fn say_ready() -> Result<(), DetachError> {
    // A parent that does not listen any more changes nothing: it finds the shim through the socket.
    let _ = io::stdout().write_all(b"ready\n").and_then(|()| io::stdout().flush());
    let null = null()?;
    dup2_stdout(&null).map_err(host("close standard output"))
}

fn null() -> Result<File, DetachError> {
    let null = File::options().read(true).write(true).open("/dev/null");
    null.map_err(|error| DetachError::Host("open /dev/null", error))
}

fn host<E: Into<io::Error>>(action: &'static str) -> impl Fn(E) -> DetachError {
    move |error| DetachError::Host(action, error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, DetachError> {
        Arguments::parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn arguments_name_absolute_paths() {
        let both = parse(&["--pod-dir", "/run/p", "--cgroup", "/sys/fs/cgroup/c"]).unwrap();
        assert_eq!(
            both,
            Arguments {
                pod_dir: "/run/p".into(),
                cgroup: Some("/sys/fs/cgroup/c".into())
            }
        );
        assert!(parse(&["--pod-dir", "/run/p"]).is_ok());
        for bad in [
            &[][..],
            &["--pod-dir"],
            &["--pod-dir", "p"],
            &["--pod-dir", "/p", "more"],
            &["--cgroup", "/c"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
