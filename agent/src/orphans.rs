//! Removes what pods left behind whose records are gone: `/run` is empty after a reboot, the other directories are not.
//! Only what is surely ours is touched: a kubelet may keep its pods beside.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cni::pod_network;

use crate::hands::network::INTERFACE;
use crate::hands::{cgroup, files};
use crate::node::Node;

/// Removes everything of pods that are not in `known`, by uid. Blocks; a failure is logged and the rest goes on.
pub fn remove(node: &Node, known: &BTreeSet<String>) {
    let mut uids: BTreeSet<String> = node.images.snapshots().iter().map(|id| id.pod().to_owned()).collect();
    uids.retain(|uid| !known.contains(uid));
    for uid in &uids {
        tracing::info!(pod = uid, "removing what is left of a pod that is gone");
        report(uid, remove_pod(node, uid));
    }
    match pod_network::list(&node.network) {
        Ok(links) => {
            for link in links.iter().filter(|link| !known.contains(&link.container_id)) {
                report(
                    &link.container_id,
                    pod_network::detach(&node.network, &link.container_id, INTERFACE),
                );
            }
        }
        Err(error) => report("every pod", Err::<(), _>(error)),
    }
    for (uid, group) in cgroups(node) {
        if !known.contains(&uid) {
            report(&uid, cgroup::kill(&group).and_then(|()| cgroup::remove(&group)));
        }
    }
}

fn remove_pod(node: &Node, uid: &str) -> anyhow::Result<()> {
    let places = &node.config.places;
    let suffix = format!("_{uid}");
    for logs in children(&places.log_dir)
        .into_iter()
        .filter(|dir| name(dir).ends_with(&suffix))
    {
        files::remove_links(&places.container_log_dir, &logs)?;
        absent_is_fine(fs::remove_dir_all(logs))?;
    }
    absent_is_fine(fs::remove_dir_all(places.root_dir.join("pods").join(uid)))?;
    for id in node.images.snapshots() {
        if id.pod() == uid {
            node.images.remove_snapshot(&id)?;
        }
    }
    Ok(())
}

/// The cgroups of pods, with the pods' uids.
fn cgroups(node: &Node) -> Vec<(String, PathBuf)> {
    let kubepods = node
        .cgroup_root
        .join(&node.config.places.cgroup_parent)
        .join("kubepods");
    let tiers = [
        kubepods.clone(),
        kubepods.join("burstable"),
        kubepods.join("besteffort"),
    ];
    let groups = tiers.iter().flat_map(|tier| children(tier));
    groups
        .filter_map(|group| Some((name(&group).strip_prefix("pod")?.to_owned(), group)))
        .collect()
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn report<E: Into<anyhow::Error>>(uid: &str, result: Result<(), E>) {
    if let Err(error) = result {
        tracing::warn!(
            pod = uid,
            error = format!("{:#}", error.into()),
            "what is left of a pod stays"
        );
    }
}
