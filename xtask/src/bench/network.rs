//! What attaching a pod costs, and traffic between pods, beside Debian's plugins, the kernel's own requests and a bridge, by
//! `tests/tests/network/bench.rs`.

use super::{Row, figures};

/// The highest ratios that count as met, by case and peer.
const GOALS: [(&str, &str, f64); 5] = [
    ("ADD in-process p50", "netlink", 1.5),
    ("ADD by plugin p50", "ptp", 1.0 / 6.0),
    ("ADD by plugin, 32 at once, each", "ptp", 1.0 / 6.0),
    ("ADD with all p50", "chain", 1.0 / 40.0),
    ("TCP_RR", "bridge", 0.8),
];

/// Measures in a network namespace of its own.
pub(super) fn rows() -> anyhow::Result<Vec<Row>> {
    figures::rows("network", "yes", |case, peer| {
        let goal = GOALS.iter().find(|(of, beside, _)| (*of, *beside) == (case, peer));
        goal.map(|(_, _, goal)| *goal)
    })
}
