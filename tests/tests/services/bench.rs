//! What Services cost: ours, rules of kube-proxy's shape in nftables, and a connection without either, in one run.
//!
//! Not a test of its own: `cargo xtask bench services` asks for it by `ORLOP_BENCH` and reads its lines. Each way has a
//! network namespace to itself, with the same server on the same address; rounds of the three alternate.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::{NetworkNamespace, Scratch};

use super::client::Client;
use super::node::Node;
use super::server::tcp;

/// Asks for the figures; its value is the numbers of Services, for instance `10,10000`.
const ASKED: &str = "ORLOP_BENCH";
/// With more Services nftables takes minutes.
const NFT_MOST: u32 = 10_000;
const ROUNDS: usize = 7;
const CONNECTS: usize = 400;
const BACKENDS: u8 = 3;
const PORT: u16 = 8080;

#[test]
fn figures() {
    let Ok(sizes) = std::env::var(ASKED) else {
        return;
    };
    for size in sizes.split(',').map(|size| size.parse().unwrap()) {
        measure(size);
    }
}

fn measure(size: u32) {
    let scratch = Scratch::new("bench");
    let (direct, ours, nft) = (world(), world(), world());
    for world in [&direct, &ours, &nft] {
        for end in 1..=BACKENDS {
            world.run(tcp(&format!("10.0.0.{end}:{PORT}")));
        }
    }
    let mut node = Node::new(&scratch, &ours);
    let addresses: Vec<Ipv4Addr> = (0..size).map(address).collect();
    let last = address(size - 1);
    // Programs are loaded and maps made once, whatever they hold.
    node.set_many(&[], PORT, BACKENDS);
    let ours_whole = node.set_many(&addresses, PORT, BACKENDS);
    let ours_one = median((0..15).map(|round| node.set_one(addresses.len() - 1, PORT, 2 + round % 2)));

    let nft_times = (size <= NFT_MOST).then(|| nft_times(&nft, size));

    let mut clients = [
        direct.run(Client::start_outside),
        node.client(),
        nft.run(Client::start_outside),
    ];
    let targets = [format!("10.0.0.1:{PORT}"), format!("{last}:80"), format!("{last}:80")];
    let mut times: [Vec<(u128, u128)>; 3] = Default::default();
    let ways = if nft_times.is_some() { 3 } else { 2 };
    for round in 0..ROUNDS {
        for turn in 0..ways {
            let who = (round + turn) % ways;
            let answer = clients[who].ask(&format!("connects {} {CONNECTS}", targets[who]));
            let (half, most) = answer.split_once(' ').unwrap();
            times[who].push((half.parse().unwrap(), most.parse().unwrap()));
        }
    }
    let [direct, ours, nft] = times.map(|times| {
        let pick = |one: fn(&(u128, u128)) -> u128| {
            let mut all: Vec<u128> = times.iter().map(one).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied()
        };
        [pick(|times| times.0), pick(|times| times.1)]
    });
    for (place, what) in ["connect p50", "connect p99"].into_iter().enumerate() {
        let peers = [("direct", direct[place]), ("nft", nft[place])];
        figure(size, what, "us", ours[place].unwrap(), &peers);
    }
    let (nft_whole, nft_one) = nft_times.map(|(whole, one)| (whole.as_nanos(), one.as_nanos())).unzip();
    figure(
        size,
        "all programmed",
        "ms",
        ours_whole.as_nanos(),
        &[("nft", nft_whole)],
    );
    let what = "one endpoint more or less";
    figure(size, what, "ms", ours_one.as_nanos(), &[("nft", nft_one)]);
}

/// How long nftables takes for all rules, and for one endpoint more or less.
fn nft_times(nft: &NetworkNamespace, size: u32) -> (Duration, Duration) {
    let rules = rules(size);
    let start = Instant::now();
    load(nft, &rules);
    let whole = start.elapsed();
    let one = median((0..5_u8).map(|round| {
        let chain = format!("service-{}", size - 1);
        let ends: Vec<String> = (0..2 + round % 2)
            .map(|end| format!("{end} : goto endpoint-{}-{end}", size - 1))
            .collect();
        let text = format!(
            "flush chain ip kube-proxy {chain}\nadd rule ip kube-proxy {chain} numgen random mod {} vmap {{ {} }}\n",
            ends.len(),
            ends.join(", ")
        );
        let start = Instant::now();
        load(nft, &text);
        start.elapsed()
    }));
    (whole, one)
}

/// One line of JSON for each peer; one without where nobody is measured beside us.
fn figure(size: u32, what: &str, unit: &str, ours: u128, peers: &[(&str, Option<u128>)]) {
    let what = format!("{what}, {size} Services");
    let measured = peers.iter().filter_map(|(peer, theirs)| Some((*peer, (*theirs)?)));
    let lines: Vec<_> = measured
        .map(|(peer, theirs)| serde_json::json!({"figure": what, "unit": unit, "ours_ns": ours, "peer": peer, "peer_ns": theirs}))
        .collect();
    if lines.is_empty() {
        println!("{}", serde_json::json!({"figure": what, "unit": unit, "ours_ns": ours}));
    }
    lines.iter().for_each(|line| println!("{line}"));
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// A namespace whose loopback has the servers' address and takes what is for Services.
fn world() -> NetworkNamespace {
    let namespace = NetworkNamespace::new();
    let script = "for last in 1 2 3; do ip address add 10.0.0.$last/32 dev lo; done; ip route add 10.96.0.0/12 dev lo src 10.0.0.1";
    let status = namespace
        .run(|| Command::new("sh").args(["-c", script]).status())
        .unwrap();
    assert!(status.success());
    namespace
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 1, 0).to_bits() + number)
}

/// The rules that kube-proxy 1.36 would write: a verdict map of all addresses, a chain for each Service and endpoint.
fn rules(size: u32) -> String {
    let mut text = String::from("add table ip kube-proxy\n");
    text += "add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n";
    text += "add chain ip kube-proxy services\nadd chain ip kube-proxy mark-for-masquerade\n";
    text += "add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000\n";
    text += "add chain ip kube-proxy nat-output { type nat hook output priority -100; }\n";
    text += "add rule ip kube-proxy nat-output jump services\n";
    for number in 0..size {
        let _ = writeln!(text, "add chain ip kube-proxy service-{number}");
        let mut ends = Vec::new();
        for end in 0..BACKENDS {
            let chain = format!("endpoint-{number}-{end}");
            let _ = writeln!(text, "add chain ip kube-proxy {chain}");
            let _ = writeln!(
                text,
                "add rule ip kube-proxy {chain} ip saddr 10.244.{end}.1 jump mark-for-masquerade"
            );
            let _ = writeln!(
                text,
                "add rule ip kube-proxy {chain} meta l4proto tcp dnat to 10.0.0.{}:{PORT}",
                end + 1
            );
            ends.push(format!("{end} : goto {chain}"));
        }
        let all = ends.join(", ");
        let _ = writeln!(
            text,
            "add rule ip kube-proxy service-{number} numgen random mod {BACKENDS} vmap {{ {all} }}"
        );
        let key = format!("{} . tcp . 80", address(number));
        let _ = writeln!(
            text,
            "add element ip kube-proxy service-ips {{ {key} : goto service-{number} }}"
        );
    }
    text + "add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips\n"
}

fn load(namespace: &NetworkNamespace, rules: &str) {
    let mut nft = namespace
        .run(|| Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn())
        .unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
}
