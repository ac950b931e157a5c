//! What the user sees of the demo: the pods becoming ready, the objects, and the Service's answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::orlop;
use crate::command;

const PODS: [&str; 2] = ["web", "client"];
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A page of the demo has one line.
const PAGE_LIMIT: u64 = 64 * 1024;

/// Waits until both pods are ready; tells each change on the way.
pub(super) fn wait_for_pods(limit: Duration, tell: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    let mut shown = String::new();
    loop {
        let pods = items("pods")?;
        let states = PODS.map(|name| state(&pods, name));
        let text = states
            .iter()
            .map(|(text, _)| text.as_str())
            .collect::<Vec<_>>()
            .join("; ");
        if text != shown {
            tell(&text);
            shown = text;
        }
        if states.iter().all(|(_, is_ready)| *is_ready) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let report = command::output(&mut orlop(&["describe", "pods"])).unwrap_or_default();
            bail!("the pods are not ready after {limit:?}\n{report}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Prints the tables; returns the address of the Service.
pub(super) fn objects() -> anyhow::Result<SocketAddr> {
    for arguments in [["get", "pods", "-o", "wide"], ["get", "services", "-o", "wide"]] {
        println!("\n$ orlop {}", arguments.join(" "));
        command::run(&mut orlop(&arguments))?;
    }
    println!();
    let services = items("services")?;
    let service = services
        .iter()
        .find(|service| service["metadata"]["name"] == "web")
        .context("no Service web")?;
    let address = service["spec"]["clusterIP"]
        .as_str()
        .context("the Service has no address")?;
    format!("{address}:80")
        .parse()
        .with_context(|| format!("{address} is not an address"))
}

/// Asks the Service from this machine and from the client pod.
pub(super) fn answers(service: &SocketAddr) -> anyhow::Result<()> {
    let url = format!("http://{service}/");
    println!("$ curl {url}");
    print!("{}", get(service).with_context(|| format!("get {url}"))?);
    let arguments = ["exec", "client", "--", "wget", "-q", "-O", "-", &url];
    println!("$ orlop {}", arguments.join(" "));
    command::run(&mut orlop(&arguments))
}

fn items(resource: &str) -> anyhow::Result<Vec<Value>> {
    let text = command::output(&mut orlop(&["get", resource, "-o", "json"]))?;
    let list: Value = serde_json::from_str(&text).with_context(|| format!("parse the list of {resource}"))?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// A pod's phase, why its containers wait, and whether it is ready.
fn state(pods: &[Value], name: &str) -> (String, bool) {
    let Some(pod) = pods.iter().find(|pod| pod["metadata"]["name"] == name) else {
        return (format!("{name}: not seen yet"), false);
    };
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let is_ready = conditions
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let statuses = pod["status"]["containerStatuses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let reasons = statuses
        .iter()
        .filter_map(|status| status["state"]["waiting"]["reason"].as_str());
    let reasons = reasons.map(|reason| format!(", {reason}")).collect::<String>();
    let phase = pod["status"]["phase"].as_str().unwrap_or("Unknown");
    let ready = if is_ready { ", ready" } else { "" };
    (format!("{name}: {phase}{ready}{reasons}"), is_ready)
}

/// The body of `GET /`.
fn get(address: &SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(address, ANSWER_LIMIT).context("connect")?;
    stream
        .set_read_timeout(Some(ANSWER_LIMIT))
        .context("set a time limit")?;
    write!(stream, "GET / HTTP/1.0\r\nHost: web\r\n\r\n").context("send")?;
    let mut text = String::new();
    stream.take(PAGE_LIMIT).read_to_string(&mut text).context("receive")?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no body")?;
    anyhow::ensure!(
        head.contains(" 200 "),
        "the answer is {:?}",
        head.lines().next().unwrap_or_default()
    );
    Ok(body.to_owned())
}
