//! What a Service address costs: `connect` to it against `connect` to the backend itself.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;

use super::{MICROSECOND, Row, interleave, node, timed};

const ROUNDS: usize = 60;
const CONNECTS: u32 = 50;
const LIMIT: Duration = Duration::from_secs(5);

/// Measures from this machine to the demo's web server.
pub(super) fn rows() -> anyhow::Result<Vec<Row>> {
    let service = node::find("services", "web")?.context("no Service web")?;
    let pod = node::find("pods", "web")?.context("no pod web")?;
    let service = address(service["spec"]["clusterIP"].as_str(), 80)?;
    let backend = address(pod["status"]["podIP"].as_str(), 8080)?;
    let (ours, peer) = interleave(ROUNDS, MICROSECOND, || connect(&service), || connect(&backend))?;
    let peer = Some(("direct".to_owned(), peer));
    Ok(vec![Row {
        area: "services",
        case: "connect".to_owned(),
        ours,
        peer,
        unit: "us",
        goal: Some(1.05),
    }])
}

fn address(ip: Option<&str>, port: u16) -> anyhow::Result<SocketAddr> {
    let ip = ip.context("no address yet")?;
    Ok(SocketAddr::new(
        ip.parse().with_context(|| format!("{ip} is not an address"))?,
        port,
    ))
}

/// One of many connects.
fn connect(address: &SocketAddr) -> anyhow::Result<Duration> {
    let connect = || TcpStream::connect_timeout(address, LIMIT).with_context(|| format!("connect to {address}"));
    let all = timed(|| (0..CONNECTS).try_for_each(|_| connect().map(drop)))?;
    Ok(all / CONNECTS)
}
