//! Other people's CNI clients with `orlop-cni` in the place of `bridge`, `portmap` and the rest: podman with its CNI
//! backend, and `ctr run --cni`. Containers are `orlop-oci`'s all the while.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cni::pod_network::{self, Attachment, NodeNetwork};
use serde_json::{Value, json};
use tests::{LeakAudit, NetworkNamespace, Scratch, eventually, require};

use super::containerd::{self, Containerd};
use super::podman::{self, Podman};
use super::{PATIENCE, Said};

const RANGES: [&str; 2] = ["10.244.0.0/24", "fd00:10:244::/64"];
const SERVE: &str = "exec httpd -f -p 80 -h /www";
const ANSWER: &str = "hello from orlop";

/// A node in a network namespace, with a neighbour.
struct Node {
    scratch: Scratch,
    namespace: NetworkNamespace,
    outside: NetworkNamespace,
    network: NodeNetwork,
}

impl Node {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let ranges = RANGES.map(|range| range.parse().unwrap());
        let mut network = NodeNetwork::new("pods", &ranges, &scratch.input().join("hints"));
        network.masquerade = true;
        let node = Self {
            namespace: NetworkNamespace::new(),
            outside: NetworkNamespace::new(),
            scratch,
            network,
        };
        let other = node.outside.path();
        let link = ["link", "add", "wire0", "type", "veth", "peer", "name", "wire0", "netns"];
        node.ip(&node.namespace, &[&link[..], &[other.to_str().unwrap()]].concat());
        for (namespace, address) in [(&node.namespace, "192.0.2.1/24"), (&node.outside, "192.0.2.2/24")] {
            // No addresses that come later and look like a leak.
            node.ip(namespace, &["link", "set", "wire0", "addrgenmode", "none"]);
            node.ip(namespace, &["address", "add", address, "dev", "wire0"]);
            node.ip(namespace, &["link", "set", "wire0", "up"]);
        }
        // What the first ADD makes and later ones keep.
        node.namespace.run(|| pod_network::prepare(&node.network)).unwrap();
        node
    }

    fn ip(&self, namespace: &NetworkNamespace, arguments: &[&str]) {
        namespace.run(|| Said::by(Command::new("ip").args(arguments))).ok();
    }

    /// The list of plugins, as an administrator writes it.
    fn list(&self, version: &str) -> Value {
        let plugin = json!({
            "type": "orlop-cni", "podCIDRs": RANGES, "runDir": self.network.run_dir, "ipMasq": true,
            "capabilities": {"portMappings": true, "ips": true, "mac": true},
        });
        json!({"cniVersion": version, "name": self.network.name, "plugins": [plugin]})
    }

    fn attached(&self) -> Vec<Attachment> {
        self.namespace.run(|| pod_network::list(&self.network)).unwrap()
    }

    /// The addresses of the only container, once it is attached.
    fn addresses(&self) -> Vec<IpAddr> {
        eventually(PATIENCE, "the container is attached", || self.attached().len() == 1);
        self.attached()[0].addresses.clone()
    }

    /// Asks for the page at each address of the only container.
    fn is_answered(&self) {
        for address in self.addresses() {
            page(&self.namespace, SocketAddr::new(address, 80));
        }
    }
}

/// The page of the server at `to`, which may need a moment to begin.
#[track_caller]
fn page(from: &NetworkNamespace, to: SocketAddr) {
    eventually(PATIENCE, &format!("{to} answers"), || {
        from.run(|| get(to)).is_ok_and(|answer| answer.contains(ANSWER))
    });
}

fn get(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What a second container does to the first: one packet there and back, then a page.
fn visit(addresses: &[IpAddr]) -> String {
    let visit = |address: &IpAddr| {
        let host = SocketAddr::new(*address, 80);
        format!("ping -c 1 -W 5 {address} | grep -c '1 packets received' && wget -q -O - http://{host}/")
    };
    addresses.iter().map(visit).collect::<Vec<_>>().join(" && ")
}

const VISITED: &str = "1\nhello from orlop\n1\nhello from orlop";

fn directory_of_plugins() -> PathBuf {
    tests::binary_path("orlop-cni").parent().unwrap().to_owned()
}

fn write(path: &Path, value: &Value) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn podman_attaches_and_maps_ports_by_the_plugin() {
    require!(podman::NEEDS[0], podman::NEEDS[1], podman::NEEDS[2], podman::NEEDS[3]);
    let node = Node::new("podman-cni");
    let lists = node.scratch.input().join("net.d");
    write(&lists.join("pods.conflist"), &node.list("0.4.0"));
    let settings = node.scratch.input().join("containers.conf");
    let text = format!(
        "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [{:?}]\nnetwork_config_dir = {lists:?}\n",
        directory_of_plugins()
    );
    std::fs::write(&settings, text).unwrap();
    let podman = Podman::new("podman-net");
    let run = |arguments: &[&str]| {
        let mut command = podman.command();
        command.env("CONTAINERS_CONF", &settings).args(arguments);
        node.namespace.run(|| Said::by(&mut command))
    };
    let image = podman.image.as_str();
    // Podman's own places on the machine come with the first container.
    run(&["run", "--rm", "--network", "pods", image, "true"]).ok();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace]);
    let server = [
        "run",
        "--detach",
        "--network",
        "pods",
        "--publish",
        "8080:80",
        "--name",
        "web",
    ];
    run(&[&server[..], &[image, "sh", "-c", SERVE]].concat()).ok();

    node.is_answered();
    let addresses = node.addresses();
    let shown = "{{.NetworkSettings.Networks.pods.IPAddress}} {{.NetworkSettings.Networks.pods.GlobalIPv6Address}}";
    let told = run(&["inspect", "--format", shown, "web"]).ok();
    assert_eq!(told, format!("{} {}", addresses[0], addresses[1]));
    let client = [
        "run",
        "--rm",
        "--network",
        "pods",
        "--cap-add",
        "net_raw",
        image,
        "sh",
        "-c",
    ];
    assert_eq!(run(&[&client[..], &[&visit(&addresses)]].concat()).ok(), VISITED);
    let port: SocketAddr = "192.0.2.1:8080".parse().unwrap();
    page(&node.outside, port);
    page(&node.namespace, "127.0.0.1:8080".parse().unwrap());

    run(&["restart", "--time", "0", "web"]).ok();
    node.is_answered();
    page(&node.outside, port);

    run(&["rm", "--force", "--time", "0", "web"]).ok();
    assert_eq!(node.attached(), []);
    node.outside.run(|| get(port)).unwrap_err();
    podman.finish();
    audit.finish();
}

/// `ctr` looks for plugins and lists in fixed places, which are ours here in a mount namespace of its own.
#[test]
fn containerd_attaches_by_the_plugin() {
    require!(containerd::NEEDS[0], containerd::NEEDS[1], containerd::NEEDS[2]);
    let node = Node::new("ctr-cni");
    let places = node.scratch.input();
    write(&places.join("etc/cni/net.d/10-pods.conflist"), &node.list("1.0.0"));
    std::fs::create_dir_all(places.join("opt/cni/bin")).unwrap();
    std::fs::copy(tests::binary_path("orlop-cni"), places.join("opt/cni/bin/orlop-cni")).unwrap();
    let containerd = Containerd::start("ctr-net");
    let run = |name: &str, script: &str| {
        let ctr = containerd.ctr();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c"]);
        command.arg("mount --bind \"$0/etc\" /etc && mount --bind \"$0/opt\" /opt && exec \"$@\"");
        command.arg(&places).arg(ctr.get_program()).args(ctr.get_args());
        command
            .args(["run", "--rm", "--cni", "--runc-binary"])
            .arg(super::runtime());
        command.args([tests::image::BUSYBOX, name, "sh", "-c", script]);
        command
    };
    // containerd's own places on the machine come with the first container.
    node.namespace.run(|| Said::by(&mut run("first", "true"))).ok();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace]);
    let mut server = run("web", SERVE);
    server
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    let mut server = node.namespace.run(|| server.spawn()).unwrap();

    node.is_answered();
    let mut client = run("client", &visit(&node.addresses()));
    assert_eq!(node.namespace.run(|| Said::by(&mut client)).ok(), VISITED);

    containerd.ok(&["tasks", "kill", "--signal", "SIGKILL", "web"]);
    server.wait().unwrap();
    assert_eq!(node.attached(), []);
    audit.finish();
    containerd.finish();
}
