//! `cargo xtask bench`: ours against a peer, interleaved in one run; figures are printed and none is asserted.
//!
//! Each area is a file that returns rows. Runs of ours and of the peer alternate, so that a machine that slows down slows
//! both; the figure of each is its median. Lower is better everywhere: a rate would be turned over first.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{build, setup};

mod bundle;
mod figures;
mod memory;
mod network;
mod node;
mod plot;
mod pods;
mod runtime;
mod services;
mod view;

/// One comparison.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    area: &'static str,
    case: String,
    ours: f64,
    /// Name and figure; none where nobody else does the thing.
    peer: Option<(String, f64)>,
    unit: &'static str,
    /// The highest ratio of ours to the peer's that counts as met.
    goal: Option<f64>,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|(_, figure)| self.ours / figure)
    }

    fn json(&self) -> Value {
        let (name, figure) = self.peer.clone().unzip();
        json!({
            "area": self.area, "case": self.case, "ours": self.ours, "peer": figure, "peer_name": name,
            "unit": self.unit, "ratio": self.ratio(), "goal": self.goal,
        })
    }

    fn line(&self) -> String {
        let number = |figure: f64| format!("{figure:.2}");
        let (name, figure) = self.peer.clone().unzip();
        let met = match (self.ratio(), self.goal) {
            (Some(ratio), Some(goal)) if ratio <= goal => "met",
            (Some(_), Some(_)) => "not met",
            _ => "",
        };
        format!(
            "{:<9} {:<49} {:>10} {:>10} {:<4} {:<12} {:>6} {:>6} {met}",
            self.area,
            self.case,
            number(self.ours),
            figure.map_or("-".to_owned(), number),
            self.unit,
            name.unwrap_or_else(|| "-".to_owned()),
            self.ratio().map_or("-".to_owned(), number),
            self.goal.map_or("-".to_owned(), number),
        )
    }
}

type Area = (&'static str, fn() -> anyhow::Result<Vec<Row>>);
const AREAS: [Area; 5] = [
    ("runtime", runtime::rows),
    ("services", services::rows),
    ("pods", pods::rows),
    ("memory", memory::rows),
    ("network", network::rows),
];
/// Areas that the demo's node has no part in.
const WITHOUT_NODE: [&str; 2] = ["runtime", "network"];

/// Measures one area or all; prints a table, or one JSON object a line.
pub(crate) fn run(only: Option<&str>, is_json: bool) -> anyhow::Result<()> {
    let names = AREAS.map(|(name, _)| name);
    let is_known = only.is_none_or(|only| names.contains(&only));
    anyhow::ensure!(
        is_known,
        "no area {}: there are {}",
        only.unwrap_or_default(),
        names.join(", ")
    );
    setup::tools(setup::Purpose::Vm)?;
    match only {
        Some("network") => build::packages(build::Profile::Release, &["cni"])?,
        Some("runtime") => build::packages(build::Profile::Release, &["runtime"])?,
        _ => build::binaries(build::Profile::Release)?,
    }
    if !is_json {
        println!(
            "{:<9} {:<49} {:>10} {:>10} {:<4} {:<12} {:>6} {:>6}",
            "area", "case", "ours", "peer", "", "", "ratio", "goal"
        );
    }
    let mut node = None;
    for (name, rows) in AREAS
        .into_iter()
        .filter(|(name, _)| only.is_none_or(|only| only == *name))
    {
        if !WITHOUT_NODE.contains(&name) && node.is_none() {
            node = Some(node::Node::start()?);
        }
        for row in rows()? {
            println!("{}", if is_json { row.json().to_string() } else { row.line() });
        }
    }
    node.map_or(Ok(()), node::Node::stop)
}

/// Runs both `rounds` times in turn, the order changing each time; the medians in `unit`s.
fn interleave(
    rounds: usize,
    unit: Duration,
    mut ours: impl FnMut() -> anyhow::Result<Duration>,
    mut peer: impl FnMut() -> anyhow::Result<Duration>,
) -> anyhow::Result<(f64, f64)> {
    let (mut our_times, mut peer_times) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        if round % 2 == 0 {
            our_times.push(ours()?);
            peer_times.push(peer()?);
        } else {
            peer_times.push(peer()?);
            our_times.push(ours()?);
        }
    }
    let median = |times: Vec<Duration>| median(times).as_secs_f64() / unit.as_secs_f64();
    Ok((median(our_times), median(peer_times)))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

const MILLISECOND: Duration = Duration::from_millis(1);
const MICROSECOND: Duration = Duration::from_micros(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        let times = [5, 1, 9].map(Duration::from_secs).to_vec();
        assert_eq!(median(times), Duration::from_secs(5));
    }

    #[test]
    fn a_row_without_a_peer_has_no_ratio() {
        let row = Row {
            area: "memory",
            case: "x".to_owned(),
            ours: 2.0,
            peer: None,
            unit: "MiB",
            goal: None,
        };
        assert_eq!(row.json()["ratio"], Value::Null);
        let row = Row {
            peer: Some(("runc".to_owned(), 4.0)),
            goal: Some(0.6),
            ..row
        };
        assert_eq!(row.json()["ratio"], 0.5);
        assert!(row.line().ends_with("met"));
    }
}
