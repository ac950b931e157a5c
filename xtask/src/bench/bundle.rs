//! Bundles whose root is a static busybox, made by `runc spec` and changed as a measurement needs it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use serde_json::{Value, json};

use crate::{command, workspace};

/// The profile that podman and containerd's clients give to containers, in Docker's format.
const PROFILE: &str = "/usr/share/containers/seccomp.json";

/// A bundle called `name`, whose process runs `arguments` without a terminal.
pub(super) fn bundle(name: &str, arguments: &[&str], change: impl FnOnce(&mut Value)) -> anyhow::Result<PathBuf> {
    let dir = workspace::target_dir().join("xtask/bundles").join(name);
    let bin = dir.join("rootfs/bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
    let busybox = command::find("busybox").context("busybox is not installed")?;
    for name in ["true", "sleep"] {
        std::fs::copy(&busybox, bin.join(name)).with_context(|| format!("copy busybox to {name}"))?;
    }
    let config = dir.join("config.json");
    let _ = std::fs::remove_file(&config);
    let runc = command::find("runc").context("runc is not installed")?;
    command::output(Command::new(runc).args(["spec", "--bundle"]).arg(&dir))?;
    let text = std::fs::read_to_string(&config).with_context(|| format!("read {}", config.display()))?;
    let mut spec: Value = serde_json::from_str(&text).context("parse the spec")?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(arguments);
    // Without inheritable ones there can be none; we say so in every run.
    spec["process"]["capabilities"]["ambient"] = json!([]);
    change(&mut spec);
    std::fs::write(&config, spec.to_string()).with_context(|| format!("write {}", config.display()))?;
    Ok(dir)
}

/// Limits as a pod with small ones has them.
pub(super) fn limits(spec: &mut Value) {
    let resources = &mut spec["linux"]["resources"];
    resources["memory"] = json!({ "limit": 64 << 20 });
    resources["cpu"] = json!({ "shares": 102, "quota": 50_000, "period": 100_000 });
    resources["pids"] = json!({ "limit": 1024 });
}

/// The calls that the profile allows everybody on this kind of machine; its other conditions are left out.
pub(super) fn seccomp() -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(PROFILE).with_context(|| format!("read {PROFILE}"))?;
    let profile: Value = serde_json::from_str(&text).with_context(|| format!("parse {PROFILE}"))?;
    let rules = profile["syscalls"].as_array().into_iter().flatten();
    let names: Vec<Value> = rules
        .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW" && is_for_all(rule))
        .filter_map(|rule| rule["names"].as_array())
        .flatten()
        .cloned()
        .collect();
    Ok(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }],
    }))
}

fn is_for_all(rule: &Value) -> bool {
    let has_arguments = rule["args"].as_array().is_some_and(|arguments| !arguments.is_empty());
    let conditions = rule["includes"].as_object();
    let holds = |(name, value): (&String, &Value)| {
        let machines = value.as_array().into_iter().flatten();
        name == "arches" && machines.into_iter().any(|machine| machine == "amd64")
    };
    !has_arguments && conditions.is_none_or(|conditions| conditions.iter().all(holds))
}
