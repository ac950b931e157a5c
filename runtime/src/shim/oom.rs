//! Whether the kernel killed for want of memory: the count of a cgroup, before and after.

use std::path::Path;

use crate::cgroup::Cgroup;
use crate::container::Exit;

/// How often the kernel has killed a process of this cgroup, or below it, for want of memory. 0 where nobody counts.
pub(super) fn kills(cgroup: Option<&Path>) -> u64 {
    cgroup.and_then(|cgroup| Cgroup::at(cgroup).oom_kills()).unwrap_or(0)
}

/// Whether an end with these counts before and after is to be called an OOM kill. A shell whose child was killed passes
/// the news on as exit code 137.
pub(super) fn explains(exit: Exit, before: u64, after: u64) -> bool {
    after > before && i32::from(exit.shell_code()) == 128 + libc::SIGKILL
}

#[cfg(test)]
mod tests {
    use super::*;

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
