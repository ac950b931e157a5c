//! From a manifest in the directory to a running pod whose image is local: namespaces, cgroup, shim, network, container.
//! The peer is runc starting the bare container alone.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::view::{Run, Shell, View};
use super::{MILLISECOND, Row, bundle, interleave, node, timed};
use crate::demo;

const ROUNDS: usize = 15;
const NAME: &str = "bench";
const LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(1);
const MANIFEST: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bench"}, "spec": {
  "terminationGracePeriodSeconds": 0,
  "containers": [{"name": "sleep", "image": "localhost/busybox:demo", "command": ["sleep", "1000"]}]}}"#;

/// Measures against runc.
pub(super) fn rows() -> anyhow::Result<Vec<Row>> {
    let bundle = bundle::bundle("sleeper", &["/bin/sleep", "1000"], |_| {})?;
    let mut shell = Shell::start(View::V2.where_hybrid(), Run::Host, None)?;
    // One that an interrupted run may have left.
    shell.run("runc delete --force bench-pod")?;
    start_pod()?;
    let (ours, peer) = interleave(ROUNDS, MILLISECOND, start_pod, || start_container(&mut shell, &bundle))?;
    let peer = Some(("runc (bare)".to_owned(), peer));
    let case = "manifest to running".to_owned();
    Ok(vec![Row {
        area: "pods",
        case,
        ours,
        peer,
        unit: "ms",
        goal: Some(1.0),
    }])
}

/// The time until the pod runs; then it is removed.
fn start_pod() -> anyhow::Result<Duration> {
    let path = demo::manifest_dir().join("bench.json");
    // Written aside and renamed, so that the agent never reads half of it.
    let aside = demo::manifest_dir().join(".bench.json.tmp");
    std::fs::write(&aside, MANIFEST).context("write the manifest")?;
    let time = timed(|| {
        std::fs::rename(&aside, &path).context("rename the manifest")?;
        wait("run", is_running)
    });
    std::fs::remove_file(&path).context("remove the manifest")?;
    wait("go", || Ok(node::find("pods", NAME)?.is_none()))?;
    time
}

fn is_running() -> anyhow::Result<bool> {
    Ok(node::find("pods", NAME)?.is_some_and(|pod| pod["status"]["phase"] == "Running"))
}

fn wait(what: &str, is_so: impl Fn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !is_so()? {
        anyhow::ensure!(Instant::now() < deadline, "the pod did not {what} within {LIMIT:?}");
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn start_container(shell: &mut Shell, bundle: &Path) -> anyhow::Result<Duration> {
    let time = shell.time(&format!("runc run --detach --bundle {} bench-pod", bundle.display()))?;
    shell.run("runc delete --force bench-pod")?;
    Ok(time)
}
