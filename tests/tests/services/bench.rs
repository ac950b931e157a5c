//! What Services cost: ours, rules of kube-proxy's shape in nftables and iptables, and connections without any, in one run.
//!
//! Not a test of its own: `cargo xtask bench services` asks for it by `ORLOP_BENCH` and reads its lines. Each way has a
//! network namespace to itself, with the same servers on the same addresses, and a client behind a link; rounds alternate.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::json;
use tests::{NetworkNamespace, Scratch, on_one_processor};

use super::client::Client;
use super::node::Node;
use super::outside::shell;
use super::server::tcp;
use objects::{BACKENDS, NODE_PORT, PORT, address, service, services, slice, slices};
use rules::{IPTABLES, NFTABLES, Rules};

mod footprint;
mod hooks;
mod objects;
mod rules;

/// Asks for the figures; its value is the number of Services. One process for each: memory that an earlier one has given
/// back is not seen.
const ASKED: &str = "ORLOP_BENCH";
/// Measures everybody at every number of Services, however long that takes.
const ALL: &str = "ORLOP_BENCH_ALL";
/// With more Services the others take minutes.
const NFTABLES_MOST: u32 = 1_000;
const IPTABLES_MOST: u32 = 30_000;
/// Where all is programmed with many endpoints, too.
const LARGEST: u32 = 50_000;
const ROUNDS: usize = 15;
const CONNECTS: usize = 200;
const DATAGRAMS: usize = 20_000;
const CHANGES: u8 = 15;

#[test]
fn figures() {
    if let Ok(size) = std::env::var(ASKED) {
        measure(size.parse().unwrap());
    }
}

fn measure(size: u32) {
    let scratch = Scratch::new("bench");
    let (direct, ours, others) = (World::new(), World::new(), others(size));
    let before = footprint::of_process();
    let mut node = Node::with_uplinks(&scratch, &ours.node, &["up0"], &["198.51.100.1"]);
    program(&mut node, &scratch, size, before);
    for (peer, rules, world) in &others {
        let whole = rules.load(&world.node, size);
        let one = median((0..3).map(|round| rules.change(&world.node, size - 1, 2 + round % 2)));
        beside(size, "all programmed", peer, whole);
        beside(size, "one endpoint more or less", peer, one);
    }
    let last = format!("{}:80", address(size - 1));
    for (what, hook) in [("connect hook", "connect4"), ("close hook", "sock_release")] {
        figure(size, what, hooks::time(&node, hook, &last));
    }
    figure(size, "connect hook with nothing to do", hooks::empty(&node));
    let mut clients = vec![
        Clients::new(
            "direct",
            &direct,
            format!("10.0.0.1:{PORT}"),
            format!("10.0.0.1:{PORT}"),
            |world| world.node.run(Client::start_outside),
        ),
        Clients::new("ours", &ours, last.clone(), format!("198.51.100.1:{NODE_PORT}"), |_| {
            node.client()
        }),
    ];
    for (peer, _, world) in &others {
        let node_port = format!("198.51.100.1:{NODE_PORT}");
        let start = |world: &World| world.node.run(Client::start_outside);
        clients.push(Clients::new(peer, world, last.clone(), node_port, start));
    }
    traffic(size, "", &mut clients);
    for world in [&direct, &ours] {
        world.track();
    }
    traffic(size, ", tracked", &mut clients);
}

/// Those who are measured beside us at this size.
fn others(size: u32) -> Vec<(&'static str, Rules, World)> {
    let all = std::env::var_os(ALL).is_some();
    let wanted = [("nft", NFTABLES, NFTABLES_MOST), ("iptables", IPTABLES, IPTABLES_MOST)];
    let wanted = wanted.into_iter().filter(|(_, _, most)| all || size <= *most);
    wanted.map(|(peer, rules, _)| (peer, rules, World::new())).collect()
}

/// How long it takes from new lists until the kernel has them, and what room they take.
fn program(node: &mut Node<'_>, scratch: &Scratch, size: u32, before: u64) {
    let mut whole = |size, endpoints| {
        // Programs are loaded and maps made once, whatever they hold.
        node.change_timed(|facts| (facts.services, facts.slices) = (services(0), slices(0, 1)));
        let (services, slices) = (services(size), slices(size, endpoints));
        node.change_timed(|facts| (facts.services, facts.slices) = (services, slices))
    };
    if size >= LARGEST {
        let time = whole(size, 10);
        figure(size, "all programmed, 10 endpoints each", nanoseconds(time));
    }
    let time = whole(size, BACKENDS);
    figure(size, "all programmed", nanoseconds(time));
    figure(size, "agent memory", footprint::of_process() - before);
    figure(size, "maps", footprint::of_maps(&scratch.bpf_dir().join("v3/maps")));
    let one = median((0..CHANGES).map(|round| {
        let slice = slice(size - 1, 2 + round % 2);
        node.change_timed(|facts| facts.slices.put(slice))
    }));
    figure(size, "one endpoint more or less", nanoseconds(one));
    let one = median((0..CHANGES).map(|round| {
        let last = service(size);
        node.change_timed(|facts| match round % 2 {
            0 => facts.services.put(last),
            _ => facts.services.remove("default", &format!("s{size}")),
        })
    }));
    figure(size, "one Service more or less", nanoseconds(one));
}

/// Connections and packets, in rounds in which all take turns.
fn traffic(size: u32, how: &str, clients: &mut [Clients]) {
    for round in 0..ROUNDS {
        for turn in 0..clients.len() {
            clients[(round + turn) % clients.len()].round();
        }
    }
    for (place, what) in ["connect p50", "connect p99", "short connection", "NodePort packet"]
        .into_iter()
        .enumerate()
    {
        let what = format!("{what}{how}");
        for client in clients.iter_mut() {
            let middle = middle(client.times.iter().map(|times| times[place]).collect());
            match client.who {
                "ours" => figure(size, &what, middle),
                peer => beside(size, &what, peer, Duration::from_nanos(middle)),
            }
        }
    }
    for client in clients {
        client.times.clear();
    }
}

/// Those who connect, one where the servers are and one behind a link, all on one processor.
struct Clients {
    who: &'static str,
    near: Client,
    far: Client,
    connect: String,
    send: String,
    times: Vec<[u64; 4]>,
}

impl Clients {
    fn new(
        who: &'static str,
        world: &World,
        connect: String,
        send: String,
        start: impl FnOnce(&World) -> Client,
    ) -> Self {
        Self {
            who,
            near: on_one_processor(|| start(world)),
            far: on_one_processor(|| world.far.run(Client::start_outside)),
            connect,
            send,
            times: Vec::new(),
        }
    }

    fn round(&mut self) {
        let answer = self.near.ask(&format!("connects {} {CONNECTS}", self.connect));
        let connects: Vec<u64> = answer.split(' ').map(|word| word.parse().unwrap()).collect();
        let sent: u64 = self
            .far
            .ask(&format!("datagrams {} {DATAGRAMS}", self.send))
            .parse()
            .unwrap();
        self.times
            .push([connects[0], connects[1], connects[2], sent / DATAGRAMS as u64]);
    }
}

/// A node whose loopback has the servers' addresses and takes what is for Services, and a client behind a link.
struct World {
    node: NetworkNamespace,
    far: NetworkNamespace,
    /// Takes datagrams that nobody reads.
    _sink: UdpSocket,
}

impl World {
    fn new() -> Self {
        let (node, far) = (NetworkNamespace::new(), NetworkNamespace::new());
        shell(
            &node,
            &format!(
                "for last in 1 2 3; do ip address add 10.0.0.$last/32 dev lo; done
                 ip route add 10.96.0.0/12 dev lo src 10.0.0.1
                 ip link add up0 type veth peer name eth0 netns {}
                 ip address add 198.51.100.1/24 dev up0
                 ip link set up0 up",
                far.path().display()
            ),
        );
        shell(
            &far,
            "ip address add 198.51.100.2/24 dev eth0; ip link set eth0 up; ip route add default via 198.51.100.1",
        );
        for end in 1..=BACKENDS {
            on_one_processor(|| node.run(tcp(&format!("10.0.0.{end}:{PORT}"))));
        }
        let sink = node.run(|| UdpSocket::bind(("10.0.0.1", PORT))).unwrap();
        Self { node, far, _sink: sink }
    }

    /// Has the kernel track connections, as any rule that asks for their state does.
    fn track(&self) {
        let rules = "table ip track {
            chain output { type filter hook output priority 0; ct state established accept; }
            chain input { type filter hook input priority 0; ct state established accept; }
        }";
        shell(&self.node, &format!("nft '{rules}'"));
    }
}

/// A figure of ours, a line of JSON.
fn figure(size: u32, what: &str, value: u64) {
    println!(
        "{}",
        json!({"case": what, "services": size, "who": "ours", "value": value})
    );
}

/// The same figure of somebody else.
fn beside(size: u32, what: &str, who: &str, time: Duration) {
    println!(
        "{}",
        json!({"case": what, "services": size, "who": who, "value": nanoseconds(time)})
    );
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}

fn middle(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    Duration::from_nanos(middle(times.map(nanoseconds).collect()))
}
