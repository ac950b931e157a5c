//! What attaching a pod costs, and traffic between pods, beside Debian's plugins, the kernel's own requests and a bridge, by
//! `tests/tests/network/bench.rs`.

use super::{Row, figures};
use crate::newest;

/// The highest ratios that count as met, by case and peer.
const GOALS: [(&str, &str, f64); 7] = [
    ("ADD in-process p50", "netlink", 1.5),
    ("ADD by plugin p50", "ptp", 1.0 / 6.0),
    ("ADD by plugin, 32 at once, each", "ptp", 1.0 / 6.0),
    ("ADD by plugin p50", "ptp (sid)", 1.0 / 6.0),
    ("ADD by plugin, 32 at once, each", "ptp (sid)", 1.0 / 6.0),
    ("ADD with all p50", "chain", 1.0 / 40.0),
    ("TCP_RR", "bridge", 0.8),
];

/// Measures in a network namespace of its own.
pub(super) fn rows() -> anyhow::Result<Vec<Row>> {
    let newest = newest::plugins().map(|dir| (newest::PLUGINS_VARIABLE, dir));
    let newest = newest.inspect_err(|error| eprintln!("bench: the newest CNI plugins are missing: {error:#}"));
    figures::rows("network", "yes", newest.ok(), |case, peer| {
        let goal = GOALS.iter().find(|(of, beside, _)| (*of, *beside) == (case, peer));
        goal.map(|(_, _, goal)| *goal)
    })
}
