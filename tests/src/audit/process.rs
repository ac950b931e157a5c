//! Processes and the namespaces that they or pins hold, from `/proc`.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Processes that carry `id`, or are in one of the network namespaces; all processes but kernel threads for a machine.
/// This process is not among them.
pub(super) fn processes(id: &str, network_namespaces: &[u64], is_machine: bool) -> Vec<String> {
    let own = std::process::id().to_string();
    let others = process_dirs().filter(|(pid, _)| *pid != own);
    let mine = others.filter(|(_, dir)| {
        is_in(dir, network_namespaces) || carries(dir, id) || (is_machine && !is_kernel_thread(dir))
    });
    mine.filter_map(|(pid, dir)| Some(format!("process {pid} {}", describe(&dir)?)))
        .collect()
}

/// Network namespaces that some process is in or that a mount pins.
pub(super) fn namespaces() -> BTreeSet<String> {
    let of_processes = process_dirs().filter_map(|(_, dir)| inode(&dir.join("ns/net")));
    let of_processes = of_processes.map(|inode| format!("network namespace net:[{inode}]"));
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let roots = table
        .lines()
        .filter_map(|line| line.split(' ').nth(3))
        .filter(|root| root.starts_with("net:["));
    let pinned: Vec<_> = roots.map(|root| format!("network namespace {root}")).collect();
    of_processes.chain(pinned).collect()
}

fn process_dirs() -> impl Iterator<Item = (String, PathBuf)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    named.filter(|(name, _)| name.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_in(process: &Path, network_namespaces: &[u64]) -> bool {
    inode(&process.join("ns/net")).is_some_and(|inode| network_namespaces.contains(&inode)) && !is_own_thread(process)
}

fn is_own_thread(process: &Path) -> bool {
    process.ends_with(std::process::id().to_string())
}

fn inode(path: &Path) -> Option<u64> {
    Some(std::fs::metadata(path).ok()?.ino())
}

fn carries(process: &Path, id: &str) -> bool {
    let text_has = |file: &str| {
        let bytes = std::fs::read(process.join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(id)
    };
    let link_has = |link: &str| {
        let target = std::fs::read_link(process.join(link)).unwrap_or_default();
        target.to_string_lossy().contains(id)
    };
    text_has("cmdline") || text_has("cgroup") || link_has("cwd") || link_has("root") || link_has("exe")
}

/// Kernel threads have no executable and an empty command line; a zombie has neither but a parent other than 2.
fn is_kernel_thread(process: &Path) -> bool {
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let parent = after_name.split(' ').nth(1).unwrap_or_default();
    parent == "2" || process.ends_with("2")
}

/// State and command line; `None` when the process is gone by now.
fn describe(process: &Path) -> Option<String> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    let state = stat.rsplit(") ").next()?.split(' ').next()?.to_owned();
    let command = std::fs::read(process.join("cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let name = std::fs::read_to_string(process.join("comm")).ok()?;
    // The state of a living process changes from look to look; only a zombie's is worth a word.
    let zombie = if state == "Z" { " (zombie)" } else { "" };
    Some(format!(
        "{}{zombie}",
        if command.is_empty() {
            name.trim()
        } else {
            command.trim()
        }
    ))
}
