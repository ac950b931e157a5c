//! Two pods of ours, two on a bridge and two on plain routed links, with connection tracking at work.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use agent::hands::inspector::Inspector;
use cni::netns::Netns;
use cni::pod_network::{self, AttachRequest, NodeNetwork};
use nix::time::{ClockId, clock_gettime};
use tests::{NetworkNamespace, on_one_processor};

use super::way::Way;
use super::{figure, next_id, percentile, timed};

/// Short ones, many: what else a machine does comes and goes within tenths of a second, and is to meet all alike.
const SHORT_ROUNDS: usize = 99;
const ROUND_TRIPS: usize = 400;
const CONNECTIONS: usize = 40;
/// Of those that take half a second each.
const LONG_ROUNDS: usize = 7;
/// How many of each kind take turns: where in memory the kernel has the two ends of one, and what else lies there, is a
/// matter of luck that stays with it.
const PAIRS: usize = 5;
const BLOCK: usize = 256 << 10;
/// Of a gigabyte.
const BLOCKS: usize = 4096;

type Measure = fn(&Pair) -> Duration;
const CASES: [(&str, &str, usize, Measure); 4] = [
    ("TCP_RR", "us", SHORT_ROUNDS, round_trip),
    ("TCP_CRR", "us", SHORT_ROUNDS, connection),
    ("1 GiB by TCP", "ms", LONG_ROUNDS, gigabyte),
    ("1 GiB by TCP, CPU time", "ms", LONG_ROUNDS, processor_time_of_gigabyte),
];

/// The medians of rounds in which all three kinds take turns, another one first each time. With an agent, pods are inspected; without one they are routed.
pub(super) fn compare(network: &NodeNetwork) {
    pod_network::prepare(network).unwrap();
    let inspector = Inspector::load().unwrap();
    let mut inspected = network.clone();
    inspected.inspector = Some(inspector.program());
    // As kube-proxy and most networks on bridges need it; where the kernel has no such setting, it does not matter.
    let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1");
    let bridge = Way::bridge(network);
    let pairs = |_| {
        [
            Pair::new(|netns| attach(&inspected, netns)),
            Pair::new(|netns| bridged(&bridge, netns)),
            Pair::new(|netns| attach(network, netns)),
        ]
    };
    let pairs: Vec<[Pair; 3]> = (0..PAIRS).map(pairs).collect();
    for (case, unit, rounds, measure) in CASES {
        let mut times = [const { Vec::new() }; 3];
        for round in 0..rounds {
            for turn in (0..3).map(|turn| (round + turn) % 3) {
                times[turn].push(measure(&pairs[round % PAIRS][turn]));
            }
        }
        let [ours, bridge, routed] = times.each_mut().map(|times| percentile(times, 50));
        figure(case, unit, ours, "bridge", bridge);
        figure(case, unit, ours, "routed", routed);
    }
}

fn attach(network: &NodeNetwork, netns: &Path) -> IpAddr {
    let id = next_id().to_string();
    let request = AttachRequest::new(netns, &id, "eth0");
    pod_network::attach(network, &request).unwrap().addresses[0]
}

fn bridged(bridge: &Way, netns: &Path) -> IpAddr {
    bridge.add(next_id(), netns);
    let show = || {
        Command::new("ip")
            .args(["-4", "-o", "address", "show", "eth0"])
            .output()
    };
    let shown = Netns::open(netns).unwrap().run(show).unwrap().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let address = shown.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
    address.parse().unwrap()
}

/// A client and a server with its address.
struct Pair {
    client: NetworkNamespace,
    server: NetworkNamespace,
    address: IpAddr,
}

impl Pair {
    fn new(attach: impl Fn(&Path) -> IpAddr) -> Self {
        let (client, server) = (NetworkNamespace::new(), NetworkNamespace::new());
        attach(&client.path());
        let address = attach(&server.path());
        Self {
            client,
            server,
            address,
        }
    }

    /// Does `ask` against `serve`, each in its pod; answers what the client says.
    fn talk(&self, serve: fn(&TcpListener), ask: fn(SocketAddr) -> Duration) -> Duration {
        let listener = self.server.run(|| TcpListener::bind((self.address, 0)).unwrap());
        let to = listener.local_addr().unwrap();
        on_one_processor(|| {
            thread::scope(|scope| {
                scope.spawn(|| serve(&listener));
                self.client.run(|| ask(to))
            })
        })
    }
}

/// A byte there and back.
fn round_trip(pods: &Pair) -> Duration {
    let serve = |listener: &TcpListener| {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() == 1 {
            stream.write_all(&byte).unwrap();
        }
    };
    pods.talk(serve, |to| {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        let there_and_back = |_| timed(|| exchange(&mut stream));
        let mut times: Vec<Duration> = (0..ROUND_TRIPS).map(there_and_back).collect();
        percentile(&mut times, 50)
    })
}

/// A connection, a byte there and back, and its end.
fn connection(pods: &Pair) -> Duration {
    let serve = |listener: &TcpListener| {
        for _ in 0..CONNECTIONS {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0]).unwrap();
            stream.write_all(&[1]).unwrap();
        }
    };
    pods.talk(serve, |to| {
        let connect = |_| timed(|| exchange(&mut TcpStream::connect(to).unwrap()));
        let mut times: Vec<Duration> = (0..CONNECTIONS).map(connect).collect();
        percentile(&mut times, 50)
    })
}

fn exchange(stream: &mut TcpStream) {
    stream.write_all(&[1]).unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

/// Both ends' and that of the packets between them, which the kernel moves on behalf of whoever sends.
fn processor_time_of_gigabyte(pods: &Pair) -> Duration {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap());
    let before = now();
    gigabyte(pods);
    now() - before
}

/// As much as that one way.
fn gigabyte(pods: &Pair) -> Duration {
    let serve = |listener: &TcpListener| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut block = vec![0; BLOCK];
        while stream.read(&mut block).unwrap() > 0 {}
        stream.write_all(&[1]).unwrap();
    };
    pods.talk(serve, |to| {
        let mut stream = TcpStream::connect(to).unwrap();
        let block = vec![1; BLOCK];
        let start = Instant::now();
        for _ in 0..BLOCKS {
            stream.write_all(&block).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        start.elapsed()
    })
}
