//! A container's whole life, `run /bin/true`, against Debian's runc and crun, each on a bundle that `runc spec` made.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use super::view::{Shell, View};
use super::{MILLISECOND, Row, interleave};
use crate::{build, command, workspace};

const ROUNDS: usize = 30;
/// Peers, the cgroup tree that they can work with on a hybrid host, and the goal against each.
const PEERS: [(&str, View, f64); 2] = [("runc", View::V2, 0.5), ("crun", View::V1, 1.0)];

/// Measures against each peer that runs here.
pub(super) fn rows() -> anyhow::Result<Vec<Row>> {
    let bundle = bundle(&["/bin/true"])?;
    let ours = build::path(build::Profile::Release, "orlop-oci");
    let mut rows = Vec::new();
    for (peer, view, goal) in PEERS {
        match row(&ours, &bundle, peer, view, goal) {
            Ok(row) => rows.push(row),
            Err(error) => eprintln!("bench: {peer} does not run here: {error:#}"),
        }
    }
    Ok(rows)
}

fn row(ours: &Path, bundle: &Path, peer: &str, view: View, goal: f64) -> anyhow::Result<Row> {
    let mut our_shell = Shell::start(View::Host)?;
    let view = view.where_hybrid();
    let mut peer_shell = Shell::start(view)?;
    let line = |program: &str| format!("{program} run --bundle {} bench-$$", bundle.display());
    let (our_line, peer_line) = (line(&ours.display().to_string()), line(peer));
    our_shell.run(&our_line).context("a first run of ours")?;
    peer_shell
        .run(&peer_line)
        .with_context(|| format!("a first run of {peer}"))?;
    let (our_time, peer_time) = interleave(
        ROUNDS,
        MILLISECOND,
        || our_shell.time(&our_line),
        || peer_shell.time(&peer_line),
    )?;
    let case = "run /bin/true".to_owned();
    Ok(Row {
        area: "runtime",
        case,
        ours: our_time,
        peer: Some((view.label(peer), peer_time)),
        unit: "ms",
        goal: Some(goal),
    })
}

/// A bundle with a static busybox as its root, made by `runc spec`; its process runs `arguments` without a terminal.
pub(super) fn bundle(arguments: &[&str]) -> anyhow::Result<PathBuf> {
    let dir = workspace::target_dir().join("xtask/bundle");
    let bin = dir.join("rootfs/bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
    let busybox = command::find("busybox").context("busybox is not installed")?;
    for name in ["true", "sleep"] {
        std::fs::copy(&busybox, bin.join(name)).with_context(|| format!("copy busybox to {name}"))?;
    }
    let config = dir.join("config.json");
    let _ = std::fs::remove_file(&config);
    let runc = command::find("runc").context("runc is not installed")?;
    command::output(std::process::Command::new(runc).args(["spec", "--bundle"]).arg(&dir))?;
    let text = std::fs::read_to_string(&config).with_context(|| format!("read {}", config.display()))?;
    let mut spec: Value = serde_json::from_str(&text).context("parse the spec")?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(arguments);
    std::fs::write(&config, spec.to_string()).with_context(|| format!("write {}", config.display()))?;
    Ok(dir)
}
