//! Whether the kernel killed for want of memory: `memory.events` of a cgroup, before and after.

use std::path::Path;

use crate::container::Exit;

const SIGKILL: i32 = libc::SIGKILL;

/// How often the kernel has killed a process of this cgroup, or below it, for want of memory. 0 where nobody counts.
///
/// <https://docs.kernel.org/admin-guide/cgroup-v2.html> (memory.events, `oom_kill`)
pub(super) fn kills(cgroup: Option<&Path>) -> u64 {
    let events = cgroup.and_then(|cgroup| std::fs::read_to_string(cgroup.join("memory.events")).ok());
    events.as_deref().map_or(0, count)
}

/// Whether an end with these counts before and after is to be called an OOM kill. A shell whose child was killed passes
/// the news on as exit code 137.
pub(super) fn explains(exit: Exit, before: u64, after: u64) -> bool {
    after > before && i32::from(exit.shell_code()) == 128 + SIGKILL
}

fn count(events: &str) -> u64 {
    let line = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_kills_only() {
        assert_eq!(count("low 0\nhigh 4\nmax 5\noom 3\noom_kill 2\noom_group_kill 1\n"), 2);
        assert_eq!(count("oom_kill x\n"), 0);
        assert_eq!(count(""), 0);
    }

    #[test]
    fn only_a_kill_with_a_new_count_is_an_oom_kill() {
        for (exit, before, after, expected) in [
            (Exit::Signal(9), 0, 1, true),
            (Exit::Code(137), 1, 2, true),
            (Exit::Signal(9), 1, 1, false),
            (Exit::Signal(15), 0, 1, false),
            (Exit::Code(0), 0, 1, false),
        ] {
            assert_eq!(explains(exit, before, after), expected, "{exit:?} {before} {after}");
        }
    }
}
