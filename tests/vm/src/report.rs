//! The events that go to `cargo xtask`, one line of JSON each.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

const PORT_NAME: &str = "orlop.results";

/// What the host is told.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Event<'a> {
    /// The machine is ready.
    Booted { uptime_seconds: f64 },
    /// The machine could not be made ready, and nothing runs.
    Broken { reason: String },
    /// A test begins; which of the job.
    Started { index: usize },
    /// A test is over.
    Finished {
        index: usize,
        #[serde(flatten)]
        outcome: &'a Outcome,
    },
    /// All tests ran; how many.
    Done { count: usize },
}

/// How a test ended.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) seconds: f64,
    /// The end of its standard output and error, cut to a limit.
    pub(crate) output: String,
}

impl Outcome {
    /// Of a test that was not started, because those before it took all the time there was.
    pub(crate) fn not_run(total_seconds: u64) -> Self {
        Self {
            verdict: Verdict::Failed,
            seconds: 0.0,
            output: format!("not run: the tests before it took the {total_seconds} s there are for all"),
        }
    }
}

/// The verdict on one test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// It exited with 0.
    Passed,
    /// It exited with anything else.
    Failed,
    /// It did not end within its limit.
    Timeout,
}

/// Where the events go. A write blocks when nobody reads.
pub(crate) struct Report {
    port: Box<dyn Write>,
}

impl Report {
    /// Reports to whoever started this process.
    pub(crate) fn to_stdout() -> Self {
        Self {
            port: Box::new(std::io::stdout()),
        }
    }

    /// Opens the virtio port by its name; the device appears some time after its driver is loaded.
    pub(crate) fn to_host() -> anyhow::Result<Self> {
        for _ in 0..500 {
            if let Some(path) = find_port() {
                let port = File::options()
                    .write(true)
                    .open(&path)
                    .with_context(|| format!("open {path}"))?;
                return Ok(Self { port: Box::new(port) });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        anyhow::bail!("no virtio port named {PORT_NAME} within 5 s")
    }

    /// Sends one event.
    pub(crate) fn send(&mut self, event: &Event<'_>) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(event).context("write an event as JSON")?;
        line.push(b'\n');
        self.port.write_all(&line).context("report an event")
    }
}

/// The device node of the port; there is no udev that would make links.
fn find_port() -> Option<String> {
    let class = Path::new("/sys/class/virtio-ports");
    let mut ports = std::fs::read_dir(class).ok()?.flatten();
    let is_ours = |dir: &Path| std::fs::read_to_string(dir.join("name")).is_ok_and(|name| name.trim() == PORT_NAME);
    let port = ports.find(|port| is_ours(&port.path()))?;
    let node = format!("/dev/{}", port.file_name().to_str()?);
    Path::new(&node).exists().then_some(node)
}
