//! The names of pods as dnsmasq answers by them.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::json;
use tests::{LeakAudit, Need, NetworkNamespace, eventually, require};

use crate::node::{Node, addresses};

/// The node's own address, which all its pods reach.
const RESOLVER: &str = "10.244.0.1";
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

#[test]
fn dnsmasq_answers_by_the_aliases_of_pods_as_they_come_and_go() {
    require!(Need::Root, Need::Tool("dnsmasq"));
    let node = Node::new("resolver");
    node.prepare();
    let (web, client) = (NetworkNamespace::new(), NetworkNamespace::new());
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &web, &client]);
    let names = node.scratch.input().join("hosts/pods");
    std::fs::create_dir_all(&names).unwrap();
    let resolver = Resolver::start(&node);
    node.add("client", &client).succeeded();
    let mut config = node.with("capabilities", json!({"aliases": true}));
    config["runtimeConfig"] = json!({"aliases": ["web", "www.example"]});
    let result = node.verb("ADD", "web", &web.path(), &config).succeeded().json();
    for name in ["web", "www.example"] {
        eventually(PATIENCE, "both addresses are answered with", || {
            let found = client.run(|| look_up(name)).map_err(|error| error.to_string())?;
            let expected = addresses(&result);
            (found == expected).then_some(()).ok_or(format!("{found:?}"))
        });
    }
    node.del("web");
    eventually(PATIENCE, "the name is nobody's", || {
        client.run(|| look_up("web")).is_ok_and(|found| found.is_empty())
    });
    node.del("client");
    drop(resolver);
    node.namespace
        .run(|| cni::pod_network::teardown(&node.network()))
        .unwrap();
    node.prepare();
    audit.finish();
}

/// dnsmasq on the node, ended on drop.
struct Resolver(Child);

impl Resolver {
    /// With the names of pods as all that it knows.
    fn start(node: &Node) -> Self {
        let names = node.scratch.input().join("hosts/pods");
        let mut command = Command::new("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
            ])
            .args(["--user=root", "--group=", "--pid-file=", "--bind-interfaces"])
            .arg(format!("--listen-address={RESOLVER}"))
            .arg(format!("--hostsdir={}", names.display()))
            .stdin(Stdio::null());
        Self(node.namespace.run(|| command.spawn()).unwrap())
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The addresses of a name, IPv4 first; none of a name that nobody has.
fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    const A: u16 = 1;
    const AAAA: u16 = 28;
    let mut found = ask(name, A)?;
    found.extend(ask(name, AAAA)?);
    Ok(found)
}

/// Asks for the records of one kind (RFC 1035).
fn ask(name: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    socket.connect((RESOLVER, 53))?;
    let labels = name.split('.').flat_map(|label| {
        let length = u8::try_from(label.len()).unwrap();
        [&[length], label.as_bytes()].concat()
    });
    // One question, recursion desired; its class is that of the Internet.
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend(labels);
    question.push(0);
    question.extend(kind.to_be_bytes());
    question.extend([0, 1]);
    socket.send(&question)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    Ok(records(&answer[..length], question.len()))
}

/// The addresses of an answer, whose records follow the question that it repeats. Each begins with a pointer to the name.
fn records(answer: &[u8], question: usize) -> Vec<IpAddr> {
    const BEFORE_DATA: usize = 12;
    let count = u16::from_be_bytes([answer[6], answer[7]]);
    let mut rest = &answer[question..];
    let mut next = || {
        let length = u16::from_be_bytes([rest[BEFORE_DATA - 2], rest[BEFORE_DATA - 1]]).into();
        let (data, behind) = rest[BEFORE_DATA..].split_at(length);
        rest = behind;
        match <[u8; 4]>::try_from(data) {
            Ok(v4) => IpAddr::from(v4),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(data).unwrap()),
        }
    };
    (0..count).map(|_| next()).collect()
}
