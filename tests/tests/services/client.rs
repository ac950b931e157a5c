//! A client in a process of its own: this test executable once more, told by its standard input what to do. It enters
//! the test's cgroup before it makes a socket.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::server::{END, sctp_socket};

const ASKED: &str = "ORLOP_TEST_CLIENT";
/// Sets answers apart from what the test framework prints.
const MARK: &str = "answer: ";

/// The test's side of a client process.
pub(crate) struct Client {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// How a burst of connections ended.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) failed: u64,
    pub(crate) by_label: BTreeMap<String, u64>,
}

impl Counts {
    fn fail(&mut self, why: &str) {
        self.failed += 1;
        eprintln!("a connection failed: {why}");
    }

    pub(crate) fn total(&self) -> u64 {
        self.failed + self.by_label.values().sum::<u64>()
    }
}

impl Client {
    /// Starts a client in the namespace of the calling thread.
    pub(crate) fn start(cgroup: &Path) -> Self {
        let script = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script])
            .arg(cgroup)
            .arg(std::env::current_exe().unwrap());
        Self::spawn(shell)
    }

    /// Starts a client in the namespace of the calling thread that no hook of the node meets.
    pub(crate) fn start_outside() -> Self {
        Self::spawn(Command::new(std::env::current_exe().unwrap()))
    }

    /// Starts this executable once more, by a command that lacks its arguments.
    fn spawn(mut command: Command) -> Self {
        command
            .args(["--exact", "client_process", "--nocapture"])
            .env(ASKED, "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            child,
            input,
            output: BufReader::new(output),
        }
    }

    /// Has the client do one thing.
    #[track_caller]
    pub(crate) fn ask(&mut self, question: &str) -> String {
        self.tell(question);
        self.answer()
    }

    pub(crate) fn timed(&mut self, question: &str) -> (String, Duration) {
        let start = Instant::now();
        (self.ask(question), start.elapsed())
    }

    pub(crate) fn burst(&mut self, address: &str, count: u32) -> Counts {
        counts(&self.ask(&format!("burst {address} {count}")))
    }

    /// Connects over and over until [`Client::stop_burst`].
    pub(crate) fn start_burst(&mut self, address: &str) {
        assert_eq!(self.ask(&format!("start-burst {address}")), "started");
    }

    pub(crate) fn stop_burst(&mut self) -> Counts {
        counts(&self.ask("stop-burst"))
    }

    fn tell(&mut self, question: &str) {
        writeln!(self.input, "{question}").unwrap();
    }

    #[track_caller]
    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            let count = self.output.read_line(&mut line).unwrap();
            assert!(count > 0, "the client ended");
            if let Some((_, answer)) = line.split_once(MARK) {
                return answer.trim_end().to_owned();
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn counts(text: &str) -> Counts {
    let mut counts = Counts::default();
    for (label, count) in text.split(' ').filter_map(|word| word.split_once('=')) {
        match label {
            "failed" => counts.failed = count.parse().unwrap(),
            _ => drop(counts.by_label.insert(label.into(), count.parse().unwrap())),
        }
    }
    counts
}

/// The client's side.
pub(crate) fn serve_if_asked() {
    if std::env::var_os(ASKED).is_none() {
        return;
    }
    let mut burst: Option<Burst> = None;
    let mut held: Option<UdpSocket> = None;
    let mut stream: Option<TcpStream> = None;
    for line in io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[0] {
            "start-burst" => {
                burst = Some(Burst::start(words[1].parse().unwrap()));
                "started".into()
            }
            "hold-udp" => hold(words[1].parse().unwrap(), &mut held).unwrap_or_else(|error| format!("error {error:?}")),
            "held-udp" => again(held.as_ref()).unwrap_or_else(|error| format!("error {:?}", error.kind())),
            "hold-tcp" => {
                hold_tcp(words[1].parse().unwrap(), &mut stream).unwrap_or_else(|error| format!("error {error:?}"))
            }
            "held-peer" => stream
                .as_ref()
                .map_or_else(String::new, |stream| stream.peer_addr().unwrap().to_string()),
            "held-tcp" => again_tcp(stream.as_ref()).unwrap_or_else(|error| format!("error {:?}", error.kind())),
            "connects" => connects(words[1].parse().unwrap(), words[2].parse().unwrap()),
            "connect-pings" => connect_pings(words[1].parse().unwrap(), words[2].parse().unwrap()),
            "stop-burst" => burst.take().unwrap().stop(),
            _ => perform(&words).unwrap_or_else(|error| format!("error {:?}", error.kind())),
        };
        println!("{MARK}{answer}");
    }
}

fn perform(words: &[&str]) -> io::Result<String> {
    let addresses: Vec<SocketAddr> = words[1..].iter().filter_map(|word| word.parse().ok()).collect();
    match words[0] {
        "tcp" => tcp(addresses[0]).map(|(label, peer)| format!("{label} {peer}")),
        "burst" => Ok(text(&burst(addresses[0], |done| {
            done == words[2].parse::<u64>().unwrap()
        }))),
        "udp" => udp(&addresses),
        "udp-label" => exchange(&socket(addresses[0])?, Some(addresses[0])).map(|(label, _)| label),
        "udp-connected" => udp_connected(addresses[0]),
        "udp-connected-named" => udp_connected_named(addresses[0]),
        "udp-sent-then-connected" => udp_sent_then_connected(addresses[0], addresses[1]),
        "udp-failed" => udp_failed(addresses[0], addresses[1]),
        "udp-reconnect" => udp_reconnect(&addresses),
        "flood-tcp" => flood_tcp(addresses[0], words[2].parse().unwrap()),
        "flood-udp" => flood_udp(addresses[0], words[2].parse().unwrap()),
        "say" => say(addresses[0], words[2].parse().unwrap()),
        "say-sctp" => say_sctp(addresses[0], words[2].parse().unwrap()),
        "say-udp" => say_udp(addresses[0], words[2].parse().unwrap()),
        "datagrams" => datagrams(addresses[0], words[2].parse().unwrap()),
        "bind-tcp" => std::net::TcpListener::bind(addresses[0]).map(|_| "bound".into()),
        "bind-udp" => UdpSocket::bind(addresses[0]).map(|_| "bound".into()),
        other => panic!("what is {other}?"),
    }
}

fn tcp(address: SocketAddr) -> io::Result<(String, SocketAddr)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    let peer = stream.peer_addr()?;
    let mut label = String::new();
    stream.read_to_string(&mut label)?;
    Ok((label, peer))
}

/// Connects a datagram socket and keeps it.
fn hold(address: SocketAddr, held: &mut Option<UdpSocket>) -> io::Result<String> {
    let socket = socket(address)?;
    socket.connect(address)?;
    let label = exchange(&socket, None)?.0;
    *held = Some(socket);
    Ok(label)
}

/// Asks once more through the socket that was kept; its owner connects anew when it is told to.
fn again(held: Option<&UdpSocket>) -> io::Result<String> {
    let socket = held.ok_or(io::ErrorKind::NotFound)?;
    exchange(socket, None).map(|(label, _)| label)
}

/// Connects and keeps the connection.
fn hold_tcp(address: SocketAddr, held: &mut Option<TcpStream>) -> io::Result<String> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    again_tcp(Some(held.insert(stream)))
}

/// Asks once more through the connection that was kept.
fn again_tcp(held: Option<&TcpStream>) -> io::Result<String> {
    let mut stream = held.ok_or(io::ErrorKind::NotFound)?;
    stream.write_all(b"who")?;
    let mut buffer = [0; 64];
    let count = stream.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

/// Begins so many connections, each from a port of its own, and waits for none of them.
fn flood_tcp(address: SocketAddr, count: usize) -> io::Result<String> {
    let sockets: Vec<_> = (0..count)
        .map(|_| {
            let family = if address.is_ipv4() {
                AddressFamily::Inet
            } else {
                AddressFamily::Inet6
            };
            let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)?;
            match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
                Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
                Err(errno) => Err(errno.into()),
            }
        })
        .collect::<io::Result<_>>()?;
    Ok(format!("sent {}", sockets.len()))
}

/// Sends so many datagrams, each from a port of its own.
fn flood_udp(address: SocketAddr, count: usize) -> io::Result<String> {
    for _ in 0..count {
        socket(address)?.send_to(b"who", address)?;
    }
    Ok(format!("sent {count}"))
}

/// Times of so many connections, one after the other: of the connects the median and the 99th of a hundred, and what a whole
/// one takes with its answer and its end, in nanoseconds.
fn connects(address: SocketAddr, count: usize) -> String {
    let start = Instant::now();
    let mut times: Vec<u128> = (0..count)
        .map(|_| {
            let start = Instant::now();
            let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
            let time = start.elapsed().as_nanos();
            // The server closes first, so that no port of ours waits.
            let _ = (&stream).read(&mut [0; 64]);
            time
        })
        .collect();
    let each = start.elapsed().as_nanos() / count as u128;
    times.sort_unstable();
    format!("{} {} {each}", times[count / 2], times[count * 99 / 100])
}

/// Connects so many sockets of a protocol that no Service has: the hooks are called and find nothing to do.
fn connect_pings(address: SocketAddr, count: usize) -> String {
    for _ in 0..count {
        let protocol = SockProtocol::Icmp;
        let socket = socket::socket(AddressFamily::Inet, SockType::Datagram, SockFlag::empty(), protocol).unwrap();
        socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    }
    "connected".into()
}

/// Sends so many datagrams of one flow and waits for no answer; how long that took, in nanoseconds. Between namespaces the
/// sender's time has the whole way in it, up to the socket that they are for.
fn datagrams(address: SocketAddr, count: usize) -> io::Result<String> {
    let socket = socket(address)?;
    socket.connect(address)?;
    let start = Instant::now();
    for _ in 0..count {
        socket.send(&[0; 18])?;
    }
    Ok(start.elapsed().as_nanos().to_string())
}

/// Sends so many bytes over TCP; the answer and whom it came from.
fn say(address: SocketAddr, count: usize) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let peer = stream.peer_addr()?;
    stream.write_all(&vec![b'x'; count])?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(format!("{answer} from {peer}"))
}

/// Sends so many bytes over SCTP; the answer and whom it came from.
fn say_sctp(address: SocketAddr, count: usize) -> io::Result<String> {
    let socket = sctp_socket(address)?;
    socket::setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(2))?;
    socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let peer = stream.peer_addr()?;
    let mut message = vec![b'x'; count];
    message.push(END);
    stream.write_all(&message)?;
    let mut answer = [0; 128];
    let length = stream.read(&mut answer)?;
    Ok(format!("{} from {peer}", String::from_utf8_lossy(&answer[..length])))
}

/// Sends one datagram of so many bytes.
fn say_udp(address: SocketAddr, count: usize) -> io::Result<String> {
    let socket = socket(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    socket.connect(address)?;
    socket.send(&vec![b'x'; count])?;
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned())
}

fn socket(peer: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match peer {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(socket)
}

/// Sends a datagram and waits for the answer: its label and where it came from.
fn exchange(socket: &UdpSocket, to: Option<SocketAddr>) -> io::Result<(String, SocketAddr)> {
    match to {
        Some(address) => socket.send_to(b"who", address)?,
        None => socket.send(b"who")?,
    };
    let mut buffer = [0; 64];
    let (count, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..count]).into_owned(), from))
}

fn udp(addresses: &[SocketAddr]) -> io::Result<String> {
    let socket = socket(addresses[0])?;
    let from = |address: &SocketAddr| exchange(&socket, Some(*address)).map(|(_, from)| from.to_string());
    addresses
        .iter()
        .map(from)
        .collect::<io::Result<Vec<String>>>()
        .map(|all| all.join(" "))
}

fn udp_connected(address: SocketAddr) -> io::Result<String> {
    let socket = socket(address)?;
    socket.connect(address)?;
    let (label, from) = exchange(&socket, None)?;
    Ok(format!("{label} from {from} peer {}", socket.peer_addr()?))
}

fn udp_connected_named(address: SocketAddr) -> io::Result<String> {
    let socket = socket(address)?;
    socket.connect(address)?;
    exchange(&socket, Some(address)).map(|(_, from)| from.to_string())
}

fn udp_sent_then_connected(first: SocketAddr, second: SocketAddr) -> io::Result<String> {
    let socket = socket(first)?;
    let (_, before) = exchange(&socket, Some(first))?;
    socket.connect(second)?;
    let (_, after) = exchange(&socket, None)?;
    Ok(format!("{before} {after}"))
}

/// A connect that fails leaves the socket as it was.
fn udp_failed(address: SocketAddr, nowhere: SocketAddr) -> io::Result<String> {
    let socket = socket(address)?;
    socket.connect(address)?;
    let kind = socket.connect(nowhere).map_err(|error| error.kind());
    let (_, from) = exchange(&socket, None)?;
    Ok(format!("{kind:?} {from} {}", socket.peer_addr()?))
}

fn udp_reconnect(addresses: &[SocketAddr]) -> io::Result<String> {
    let socket = socket(addresses[0])?;
    let mut peers = Vec::new();
    for address in addresses {
        socket.connect(address)?;
        let (_, from) = exchange(&socket, None)?;
        assert_eq!(from, socket.peer_addr()?);
        peers.push(from.to_string());
    }
    Ok(peers.join(" "))
}

fn burst(address: SocketAddr, is_enough: impl Fn(u64) -> bool) -> Counts {
    let mut counts = Counts::default();
    while !is_enough(counts.total()) {
        match tcp(address) {
            Ok((label, peer)) if peer == address => *counts.by_label.entry(label).or_default() += 1,
            Ok((_, peer)) => counts.fail(&format!("peer-{peer}")),
            Err(error) => counts.fail(&format!("{:?}", error.kind())),
        }
    }
    counts
}

fn text(counts: &Counts) -> String {
    let labels = counts.by_label.iter().map(|(label, count)| format!(" {label}={count}"));
    format!("failed={}{}", counts.failed, labels.collect::<String>())
}

struct Burst {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Counts>,
}

impl Burst {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || burst(address, |_| stopped.load(Ordering::Relaxed)));
        Self { stop, thread }
    }

    fn stop(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        text(&self.thread.join().unwrap())
    }
}
