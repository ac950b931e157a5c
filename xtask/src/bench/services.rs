//! What a Service address costs: `connect` to it against `connect` to the backend itself, on the demo's node; and beside
//! rules of kube-proxy's shape in nftables and iptables, for few Services and for many, by `tests/tests/services/bench.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use super::plot::{Plot, Series};
use super::{MICROSECOND, Row, figures, interleave, node};
use crate::workspace;

const ROUNDS: usize = 1000;
const LIMIT: Duration = Duration::from_secs(5);
/// Numbers of Services.
const SIZES: [&str; 5] = ["10", "1000", "10000", "30000", "50000"];

/// The highest ratio to a peer that counts as met, by case and numbers of Services.
const GOALS: [(&str, &str, u64, u64, f64); 6] = [
    ("connect p50", "direct", 1, u64::MAX, 1.1),
    ("connect p50", "nft", 1, u64::MAX, 1.0),
    ("connect p50", "iptables", 1, u64::MAX, 1.0),
    ("short connection", "iptables", 10, 10, 1.0),
    ("short connection", "iptables", 30_000, u64::MAX, 1.0 / 3.0),
    ("short connection, tracked", "iptables", 30_000, u64::MAX, 1.0 / 3.0),
];
/// What counts as met without a peer, in the unit of the case.
const LIMITS: [(&str, u64, f64); 6] = [
    ("connect hook", 10_000, 0.2),
    ("all programmed", 10_000, 100.0),
    ("all programmed, 10 endpoints each", 50_000, 1500.0),
    ("one endpoint more or less", 50_000, 1.0),
    ("agent memory", 10_000, 64.0),
    ("maps", 10_000, 64.0),
];

/// Measures from this machine to the demo's web server, then beside the others in namespaces; draws what depends on the
/// number of Services.
pub(super) fn rows() -> anyhow::Result<Vec<Row>> {
    let mut rows = vec![demo()?];
    let lines = SIZES.map(|size| figures::lines("services", size, None));
    let lines = lines.into_iter().collect::<anyhow::Result<Vec<_>>>()?.concat();
    let figures = lines.iter().map(Figure::read).collect::<anyhow::Result<Vec<_>>>()?;
    let mut cases: BTreeMap<(&str, u64), Vec<&Figure>> = BTreeMap::new();
    for figure in &figures {
        cases.entry((&figure.case, figure.services)).or_default().push(figure);
    }
    for ((case, services), figures) in cases {
        rows.extend(compare(case, services, &figures));
    }
    let dir = draw(&lines, &figures)?;
    eprintln!("plots and figures are in {}", dir.display());
    Ok(rows)
}

/// One line of the test executable.
struct Figure {
    case: String,
    services: u64,
    who: String,
    /// In the unit of its case.
    value: f64,
}

impl Figure {
    fn read(line: &Value) -> anyhow::Result<Self> {
        let text = |name: &str| Some(line[name].as_str()?.to_owned());
        let read = || {
            let case = text("case")?;
            Some(Self {
                services: line["services"].as_u64()?,
                who: text("who")?,
                value: line["value"].as_f64()? / unit(&case).1,
                case,
            })
        };
        read().with_context(|| format!("{line} is not a figure"))
    }
}

/// The unit of a case, and how many nanoseconds or bytes it is.
fn unit(case: &str) -> (&'static str, f64) {
    match case {
        "agent memory" | "maps" => ("MiB", 1_048_576.0),
        _ if case.contains("programmed") || case.contains("more or less") => ("ms", 1e6),
        _ => ("us", 1e3),
    }
}

/// A row for each peer, and one for the limit if there is one.
fn compare(case: &str, services: u64, figures: &[&Figure]) -> Vec<Row> {
    let Some(ours) = figures.iter().find(|figure| figure.who == "ours") else {
        return Vec::new();
    };
    let row = |peer: Option<(String, f64)>, goal: Option<f64>| Row {
        area: "services",
        case: format!("{case}, {services} Services"),
        ours: ours.value,
        peer,
        unit: unit(case).0,
        goal,
    };
    let limit = LIMITS.iter().find(|(of, at, _)| *of == case && *at == services);
    let limit = limit.map(|(_, _, limit)| row(Some(("the goal".to_owned(), *limit)), Some(1.0)));
    let peers = figures.iter().filter(|figure| figure.who != "ours");
    let mut rows: Vec<Row> = peers
        .map(|peer| row(Some((peer.who.clone(), peer.value)), goal(case, &peer.who, services)))
        .chain(limit)
        .collect();
    if rows.is_empty() {
        rows.push(row(None, None));
    }
    rows
}

fn goal(case: &str, peer: &str, services: u64) -> Option<f64> {
    let is_meant = |(of, beside, from, to, _): &&(&str, &str, u64, u64, f64)| {
        (*of, *beside) == (case, peer) && (*from..=*to).contains(&services)
    };
    GOALS.iter().find(is_meant).map(|(.., goal)| *goal)
}

/// Writes the figures, and a picture of each case, to `target/bench`.
fn draw(lines: &[Value], figures: &[Figure]) -> anyhow::Result<PathBuf> {
    let dir = workspace::target_dir().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let write = |name: String, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    write("services.jsonl".to_owned(), text)?;
    let mut cases: BTreeMap<&str, Vec<Series>> = BTreeMap::new();
    for figure in figures {
        let series = cases.entry(&figure.case).or_default();
        let point = (figure.services as f64, figure.value);
        match series.iter_mut().find(|series| series.name == figure.who) {
            Some(series) => series.points.push(point),
            None => series.push(Series {
                name: figure.who.clone(),
                points: vec![point],
            }),
        }
    }
    // The first colour is ours.
    let ours_first = |series: &mut Vec<Series>| series.sort_by_key(|one| one.name != "ours");
    cases.values_mut().for_each(ours_first);
    for (case, series) in cases
        .iter()
        .filter(|(_, series)| series.iter().any(|one| one.points.len() > 1))
    {
        let plot = Plot {
            title: format!("{case}, {}", unit(case).0),
            across: "Services".to_owned(),
            series,
        };
        write(
            format!("services-{}.svg", case.replace([' ', ','], "-").replace("--", "-")),
            plot.svg(),
        )?;
    }
    Ok(dir)
}

/// One connect to the demo's Service, and to its pod.
fn demo() -> anyhow::Result<Row> {
    let service = node::find("services", "web")?.context("no Service web")?;
    let pod = node::find("pods", "web")?.context("no pod web")?;
    let service = address(service["spec"]["clusterIP"].as_str(), 80)?;
    let backend = address(pod["status"]["podIP"].as_str(), 8080)?;
    let (ours, peer) = interleave(ROUNDS, MICROSECOND, || connect(&service), || connect(&backend))?;
    Ok(Row {
        area: "services",
        case: "connect".to_owned(),
        ours,
        peer: Some(("direct".to_owned(), peer)),
        unit: "us",
        goal: Some(1.05),
    })
}

fn address(ip: Option<&str>, port: u16) -> anyhow::Result<SocketAddr> {
    let ip = ip.context("no address yet")?;
    Ok(SocketAddr::new(
        ip.parse().with_context(|| format!("{ip} is not an address"))?,
        port,
    ))
}

/// The time of one connect. The server then sees the end of the connection, and we see the server's, so that the next one
/// finds it idle: a full backlog would be measured otherwise.
fn connect(address: &SocketAddr) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(address, LIMIT).with_context(|| format!("connect to {address}"))?;
    let time = start.elapsed();
    stream.set_read_timeout(Some(LIMIT)).context("set a time limit")?;
    stream.shutdown(Shutdown::Write).context("end the connection")?;
    stream
        .read_to_end(&mut Vec::new())
        .with_context(|| format!("wait for {address} to end the connection"))?;
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(line: &str) -> Figure {
        Figure::read(&serde_json::from_str(line).unwrap()).unwrap()
    }

    #[test]
    fn figures_meet_peers_and_limits() {
        let ours = figure(r#"{"case": "all programmed", "services": 10000, "who": "ours", "value": 50000000}"#);
        let peer = figure(r#"{"case": "all programmed", "services": 10000, "who": "nft", "value": 200000000}"#);
        let rows = compare("all programmed", 10_000, &[&ours, &peer]);
        let told: Vec<_> = rows.iter().map(|row| (row.ours, row.peer.clone(), row.goal)).collect();
        let nft = (50.0, Some(("nft".to_owned(), 200.0)), None);
        let limit = (50.0, Some(("the goal".to_owned(), 100.0)), Some(1.0));
        assert_eq!(told, [nft, limit]);
        assert_eq!(goal("short connection", "iptables", 30_000), Some(1.0 / 3.0));
        assert_eq!(goal("short connection", "iptables", 1000), None);
    }
}
