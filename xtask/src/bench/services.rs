//! What a Service address costs: `connect` to it against `connect` to the backend itself, on the demo's node; and beside
//! rules of kube-proxy's shape in nftables, for few Services and for many, by `tests/tests/services/bench.rs`.

use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{MICROSECOND, Row, figures, interleave, node};

const ROUNDS: usize = 1000;
const LIMIT: Duration = Duration::from_secs(5);
/// Numbers of Services.
const SIZES: &str = "10,1000,10000,50000";

/// Measures from this machine to the demo's web server, then beside nftables in namespaces.
pub(super) fn rows() -> anyhow::Result<Vec<Row>> {
    let service = node::find("services", "web")?.context("no Service web")?;
    let pod = node::find("pods", "web")?.context("no pod web")?;
    let service = address(service["spec"]["clusterIP"].as_str(), 80)?;
    let backend = address(pod["status"]["podIP"].as_str(), 8080)?;
    let (ours, peer) = interleave(ROUNDS, MICROSECOND, || connect(&service), || connect(&backend))?;
    let peer = Some(("direct".to_owned(), peer));
    let mut rows = vec![Row {
        area: "services",
        case: "connect".to_owned(),
        ours,
        peer,
        unit: "us",
        goal: Some(1.05),
    }];
    rows.extend(figures::rows("services", SIZES, None, |_, peer| {
        Some(if peer == "direct" { 1.1 } else { 1.0 })
    })?);
    Ok(rows)
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
