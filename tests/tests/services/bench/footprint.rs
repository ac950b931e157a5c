//! What Services take of the machine's memory.

use std::path::Path;

use aya::maps::MapData;
use std::os::fd::{AsFd as _, AsRawFd as _};

/// Bytes of this process that no file stands behind: with the agent in it, what the agent has, and what its memory
/// allocator has not given back.
pub(super) fn of_process() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    1024 * number(&status, "RssAnon:")
}

/// Bytes that the kernel counts for the maps that are pinned in a directory.
pub(super) fn of_maps(directory: &Path) -> u64 {
    let maps = std::fs::read_dir(directory).unwrap().flatten();
    maps.map(|entry| {
        let map = MapData::from_pin(entry.path()).unwrap();
        let info = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        number(&std::fs::read_to_string(info).unwrap(), "memlock:")
    })
    .sum()
}

fn number(text: &str, field: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
