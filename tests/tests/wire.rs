//! One end of a wire between two machines: every pod of one reaches every pod of the other by host-gw routes, in packets as
//! large as the wire takes. `cargo xtask test vm` boots both ends. The second goes away when it is told to, and is booted
//! again.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests panic like the tests")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use cni::pod_network::{self, AttachRequest, NodeNetwork, Peer};
use tests::{NetworkNamespace, Scratch, eventually};

/// Says which end this is: 0, or 1 for the one that goes away.
const END: &str = "ORLOP_WIRE";
const RANGES: [[&str; 2]; 2] = [
    ["10.244.0.0/24", "fd00:10:244::/64"],
    ["10.244.1.0/24", "fd00:10:244:1::/64"],
];
const NODES: [[&str; 2]; 2] = [["192.0.2.1", "2001:db8::1"], ["192.0.2.2", "2001:db8::2"]];
const PODS: [[[&str; 2]; 2]; 2] = [
    [["10.244.0.9", "fd00:10:244::9"], ["10.244.0.10", "fd00:10:244::10"]],
    [["10.244.1.9", "fd00:10:244:1::9"], ["10.244.1.10", "fd00:10:244:1::10"]],
];
const PORT: u16 = 7;
/// Bytes of the largest packet on the wire.
const MTU: usize = 1500;
/// How long the other end may take to boot, or to be found gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Commands, of a byte each; the answer is the address that was seen.
const WHO_AM_I: u8 = b'?';
const GO_AWAY: u8 = b'!';

#[test]
fn pods_of_two_machines_reach_one_another() {
    let Ok(end) = std::env::var(END) else {
        eprintln!("SKIP: wire needs two machines, which `cargo xtask test vm wire` boots");
        return;
    };
    let end: usize = end.parse().unwrap();
    let scratch = Scratch::new("wire");
    plug_in(NODES[end]);
    let network = network(end, &scratch);
    pod_network::prepare(&network).unwrap();
    let (told, to_go) = channel();
    let pods: Vec<Pod> = PODS[end]
        .iter()
        .map(|addresses| Pod::new(&network, addresses, &told))
        .collect();
    let others = &PODS[1 - end];
    if end == 1 {
        reach_all(&pods, others);
        go_when_told(&to_go);
    } else {
        reach_all(&pods, others);
        send_away(&pods[0], others);
        reach_all(&pods, others);
        send_away(&pods[0], others);
    }
    assert_eq!(fragments(), "0", "fragments were made");
}

/// The machine's only link.
fn plug_in(addresses: [&str; 2]) {
    let [v4, v6] = addresses;
    for arguments in [
        format!("address add {v4}/24 dev eth0"),
        format!("address add {v6}/64 dev eth0 nodad"),
        "link set eth0 up".to_owned(),
    ] {
        let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {output:?}");
    }
}

/// Pods leave the node under its address, but for those of the peer.
fn network(end: usize, scratch: &Scratch) -> NodeNetwork {
    let ranges = |end: usize| RANGES[end].map(|range| range.parse().unwrap());
    let mut network = NodeNetwork::new("orlop", &ranges(end), &scratch.input());
    network.masquerade = true;
    network.peers = vec![Peer {
        pod_cidrs: ranges(1 - end).to_vec(),
        addresses: NODES[1 - end].map(|address| address.parse().unwrap()).to_vec(),
    }];
    network
}

struct Pod {
    namespace: NetworkNamespace,
    addresses: Vec<IpAddr>,
}

impl Pod {
    /// Attaches a pod that answers at both addresses.
    fn new(network: &NodeNetwork, addresses: &[&str; 2], told: &Sender<()>) -> Self {
        let pod = Self {
            namespace: NetworkNamespace::new(),
            addresses: addresses.map(|address| address.parse().unwrap()).to_vec(),
        };
        let netns = pod.namespace.path();
        let request = AttachRequest {
            addresses: &pod.addresses,
            ..AttachRequest::new(&netns, addresses[0], "eth0")
        };
        pod_network::attach(network, &request).unwrap();
        for address in &pod.addresses {
            let at = SocketAddr::new(*address, PORT);
            let (stream, datagram) = pod
                .namespace
                .run(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
            let told = told.clone();
            thread::spawn(move || answer_commands(&stream, &told));
            thread::spawn(move || echo_datagrams(&datagram));
        }
        pod
    }

    /// Has one at the other end do a command; answers what it said.
    fn ask(&self, to: IpAddr, command: u8) -> io::Result<String> {
        self.namespace.run(|| {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, PORT), Duration::from_secs(2))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&[command])?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }

    /// How many bytes of a datagram, with its headers as large as the wire takes, come back. No router may cut it: Linux
    /// sets "don't fragment" on datagrams by itself.
    fn bounce(&self, to: IpAddr) -> io::Result<usize> {
        let (own, headers) = if to.is_ipv4() {
            (self.addresses[0], 28)
        } else {
            (self.addresses[1], 48)
        };
        self.namespace.run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(own, 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.send_to(&vec![7; MTU - headers], SocketAddr::new(to, PORT))?;
            Ok(socket.recv(&mut [0; MTU])? + headers)
        })
    }
}

fn answer_commands(listener: &TcpListener, told: &Sender<()>) {
    for stream in listener.incoming() {
        let answer = || {
            let mut stream = stream?;
            let mut command = [0];
            stream.read_exact(&mut command)?;
            stream.write_all(stream.peer_addr()?.ip().to_string().as_bytes())?;
            Ok::<_, io::Error>(command[0])
        };
        // Whoever asks tries again.
        if answer().is_ok_and(|command| command == GO_AWAY) {
            let _ = told.send(());
        }
    }
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut datagram = [0; MTU];
    while let Ok((length, from)) = socket.recv_from(&mut datagram) {
        let _ = socket.send_to(&datagram[..length], from);
    }
}

/// Every pod of this end is seen at every address of the other end under its own address.
fn reach_all(pods: &[Pod], others: &[[&str; 2]; 2]) {
    for pod in pods {
        for (family, address) in others.iter().flat_map(|addresses| addresses.iter().enumerate()) {
            let to: IpAddr = address.parse().unwrap();
            let seen = eventually(PATIENCE, &format!("{to} answers"), || pod.ask(to, WHO_AM_I));
            assert_eq!(seen, pod.addresses[family].to_string());
            let back = eventually(PATIENCE, &format!("a large packet to {to} comes back"), || {
                pod.bounce(to)
            });
            assert_eq!(back, MTU);
        }
    }
}

/// Tells the other end to go, and waits until nobody is there.
fn send_away(pod: &Pod, others: &[[&str; 2]; 2]) {
    let to: IpAddr = others[0][0].parse().unwrap();
    eventually(PATIENCE, "the other end goes", || pod.ask(to, GO_AWAY));
    eventually(PATIENCE, "the other end is gone", || pod.ask(to, WHO_AM_I).is_err());
}

/// The answer to the command is on its way when it is heard of; it may arrive.
fn go_when_told(to_go: &Receiver<()>) {
    to_go.recv_timeout(tests::stretched(PATIENCE)).unwrap();
    thread::sleep(Duration::from_millis(500));
}

/// How many fragments the machine has made.
fn fragments() -> String {
    let counters = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let mut lines = counters.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|name| name == "FragCreates").unwrap();
    values.split(' ').nth(place).unwrap().to_owned()
}
