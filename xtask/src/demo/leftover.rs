//! Looks for what a node may have left on this machine, by the marks that its things carry.

use std::path::{Path, PathBuf};

use crate::command;

/// Directories that are gone, or empty, once a node is.
const DIRS: [&str; 6] = [
    "/run/orlop",
    "/run/orlop-demo",
    "/var/lib/orlop",
    "/var/lib/kubelet/pods",
    "/var/log/pods",
    "/var/log/containers",
];
const CGROUP_ROOTS: [&str; 2] = ["/sys/fs/cgroup/kubepods", "/sys/fs/cgroup/unified/kubepods"];
const PROGRAMS: [&str; 2] = ["orlop", "podshim"];
const MOUNT_MARKS: [&str; 3] = ["/run/orlop", "/var/lib/orlop", "/var/lib/kubelet/pods"];
/// The default ranges of pods and Services, as `/proc/net/route` writes their first two bytes.
const ROUTE_MARKS: [(&str, &str); 2] = [("F40A", "10.244.0.0"), ("600A", "10.96.0.0")];

/// Everything that is left, in words.
pub(super) fn find() -> Vec<String> {
    [processes(), mounts(), cgroups(), links(), routes(), tables(), files()].concat()
}

/// Our programs by the directories that they were told of, and containers by their cgroup. Other nodes on this machine,
/// as tests make them, have directories and cgroups of their own.
fn processes() -> Vec<String> {
    let read = |dir: &Path, file: &str| {
        std::fs::read(dir.join(file)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let is_ours = |dir: &Path, command: &str| {
        let program = command
            .split(' ')
            .next()
            .and_then(|path| path.rsplit('/').next())
            .unwrap_or_default();
        let is_told = PROGRAMS.contains(&program) && command.contains(" /run/orlop");
        is_told || read(dir, "cgroup").is_ok_and(|groups| groups.contains("0::/kubepods"))
    };
    let commands = list(Path::new("/proc")).into_iter().filter_map(|dir| {
        let command = read(&dir, "cmdline").ok()?.replace('\0', " ");
        Some((dir, command))
    });
    let ours = commands.filter(|(dir, command)| is_ours(dir, command));
    ours.map(|(dir, command)| format!("process {} {command}", dir.display()))
        .collect()
}

fn mounts() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = table
        .lines()
        .filter(|line| MOUNT_MARKS.iter().any(|mark| line.contains(mark)));
    ours.map(|line| format!("mount {line}")).collect()
}

fn cgroups() -> Vec<String> {
    CGROUP_ROOTS
        .iter()
        .filter(|path| Path::new(path).exists())
        .map(|path| format!("cgroup {path}"))
        .collect()
}

/// Links of the pod network say so in their alias.
fn links() -> Vec<String> {
    let is_ours =
        |link: &PathBuf| std::fs::read_to_string(link.join("ifalias")).is_ok_and(|alias| alias.contains("orlop"));
    let ours = list(Path::new("/sys/class/net")).into_iter().filter(is_ours);
    ours.map(|link| format!("link {}", link.display())).collect()
}

fn routes() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let destinations: Vec<_> = table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    let is_there = |mark: &str| destinations.iter().any(|destination| destination.ends_with(mark));
    let ours = ROUTE_MARKS.iter().filter(|(mark, _)| is_there(mark));
    ours.map(|(_, range)| format!("a route into {range}/16")).collect()
}

/// Where there is no `nft` to ask, `orlop cleanup` has said whether its table went.
fn tables() -> Vec<String> {
    let all = command::output(command::as_root("nft").args(["list", "tables"])).unwrap_or_default();
    let ours = all.lines().filter(|table| table.contains(" orlop_"));
    ours.map(|table| format!("nftables {table}")).collect()
}

fn files() -> Vec<String> {
    let pins = Path::new("/sys/fs/bpf/orlop");
    let pins = pins.exists().then(|| format!("pinned objects in {}", pins.display()));
    let full = DIRS.iter().filter(|dir| !list(Path::new(dir)).is_empty());
    full.map(|dir| format!("files in {dir}")).chain(pins).collect()
}

fn list(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}
