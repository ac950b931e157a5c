//! The ways to attach a pod that are compared.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use cni::bandwidth::Bandwidth;
use cni::identity::Identity;
use cni::netlink::Connection;
use cni::netns::Netns;
use cni::plan::{self, Means, Wanted};
use cni::pod_network::{self, AttachRequest, LinkKind, NodeNetwork};
use cni::step::LinkStep;
use serde_json::{Value, json};

const PLUGINS: &str = "/usr/lib/cni";
/// Where `cargo xtask bench` has the newest ones.
const NEWEST_PLUGINS: &str = "ORLOP_NEWEST_PLUGINS";
/// The range of pods that are attached by bare requests.
const RAW: &str = "10.243.0.0/16";

type Verb = Box<dyn Fn(usize, &Path) + Send + Sync>;

/// One way.
pub(super) struct Way {
    pub(super) name: &'static str,
    add: Verb,
    del: Verb,
}

impl Way {
    pub(super) fn add(&self, id: usize, netns: &Path) {
        (self.add)(id, netns);
    }

    pub(super) fn del(&self, id: usize, netns: &Path) {
        (self.del)(id, netns);
    }

    /// Ours in this process.
    pub(super) fn library(network: &NodeNetwork) -> Self {
        let (adding, deleting) = (network.clone(), network.clone());
        Self {
            name: "library",
            add: Box::new(move |id, netns| {
                let id = id.to_string();
                pod_network::attach(&adding, &AttachRequest::new(netns, &id, "eth0")).unwrap();
            }),
            del: Box::new(move |id, _| pod_network::detach(&deleting, &id.to_string(), "eth0").unwrap()),
        }
    }

    /// The kernel's requests for one pod and nothing else: nobody looks what is there, and addresses are known.
    pub(super) fn netlink(network: &NodeNetwork) -> Self {
        let mut raw = network.clone();
        raw.pod_cidrs = vec![RAW.parse().unwrap()];
        pod_network::prepare(&raw).unwrap();
        static MADE: Mutex<BTreeMap<usize, u32>> = Mutex::new(BTreeMap::new());
        Self {
            name: "netlink",
            add: Box::new(|id, netns| {
                let index = attach_barely(id, netns);
                MADE.lock().unwrap().insert(id, index);
            }),
            del: Box::new(|id, _| {
                let index = MADE.lock().unwrap().remove(&id).unwrap();
                let delete = [LinkStep::Delete { index }];
                Connection::open().unwrap().perform(&delete, None).unwrap();
            }),
        }
    }

    /// Our plugin.
    pub(super) fn plugin(network: &NodeNetwork) -> Self {
        Self::list("orlop-cni", vec![ours(network)])
    }

    /// Our plugin with all that [`Way::chain`] does.
    pub(super) fn plugin_with_all(network: &NodeNetwork) -> Self {
        let (program, mut config) = ours(network);
        config["name"] = json!("all");
        config["ipMasq"] = json!(true);
        config["runtimeConfig"] = wishes();
        Self::list("orlop-cni", vec![(program, config)])
    }

    /// The same, done by the agent at `socket`.
    pub(super) fn relayed_with_all(network: &NodeNetwork, socket: &Path) -> Self {
        let (program, mut config) = ours(network);
        config["name"] = json!("relayed");
        config["agentSocket"] = json!(socket);
        config["runtimeConfig"] = wishes();
        let settings = config.as_object_mut().unwrap();
        settings.remove("podCIDRs");
        Self::list("orlop-cni", vec![(program, config)])
    }

    /// Debian's routed pair.
    pub(super) fn ptp(network: &NodeNetwork) -> Self {
        Self::ptp_of("ptp", Path::new(PLUGINS), network, "10.245.0.0/16")
    }

    /// The newest of it, where it could be fetched.
    pub(super) fn newest_ptp(network: &NodeNetwork) -> Option<Self> {
        let dir = std::env::var_os(NEWEST_PLUGINS)?;
        Some(Self::ptp_of("ptp (sid)", Path::new(&dir), network, "10.248.0.0/16"))
    }

    fn ptp_of(name: &'static str, dir: &Path, network: &NodeNetwork, range: &str) -> Self {
        let mut ptp = config(&name.replace(['(', ')', ' '], ""), "ptp");
        ptp["ipam"] = leases(network, range);
        Self::list(name, vec![(dir.join("ptp"), ptp)])
    }

    /// Debian's bridge alone, with connection tracking as masquerading brings it.
    pub(super) fn bridge(network: &NodeNetwork) -> Self {
        let mut bridge = config("bridged", "bridge");
        bridge["bridge"] = json!("bench1");
        bridge["isGateway"] = json!(true);
        bridge["ipMasq"] = json!(true);
        bridge["ipam"] = leases(network, "10.247.0.0/16");
        Self::list("bridge", vec![theirs("bridge", bridge)])
    }

    /// Debian's bridge, portmap and bandwidth.
    pub(super) fn chain(network: &NodeNetwork) -> Self {
        let mut bridge = config("chain", "bridge");
        bridge["bridge"] = json!("bench0");
        bridge["isGateway"] = json!(true);
        bridge["ipMasq"] = json!(true);
        bridge["ipam"] = leases(network, "10.246.0.0/16");
        let wishing = |name| {
            let mut config = config("chain", name);
            config["runtimeConfig"] = wishes();
            theirs(name, config)
        };
        let plugins = vec![theirs("bridge", bridge), wishing("portmap"), wishing("bandwidth")];
        Self::list("chain", plugins)
    }

    /// A list of plugins as a runtime calls it: each by exec, with the result of the one before.
    fn list(name: &'static str, plugins: Vec<(PathBuf, Value)>) -> Self {
        let deleting = plugins.clone();
        Self {
            name,
            add: Box::new(move |id, netns| {
                let mut previous = Value::Null;
                for (program, config) in &plugins {
                    let mut config = for_pod(config, id);
                    config["prevResult"] = previous;
                    let result = exec(program, "ADD", id, netns, &config);
                    previous = serde_json::from_slice(&result).unwrap();
                }
            }),
            del: Box::new(move |id, netns| {
                for (program, config) in deleting.iter().rev() {
                    exec(program, "DEL", id, netns, &for_pod(config, id));
                }
            }),
        }
    }
}

/// The batches of a pod; answers the index of the host's end.
fn attach_barely(id: usize, netns: &Path) -> u32 {
    let netns = Netns::open(netns).unwrap();
    let node = Connection::open().unwrap();
    let pod = netns.run(Connection::open).unwrap().unwrap();
    let [.., high, low] = id.to_be_bytes();
    let wanted = Wanted {
        identity: Identity::new("raw", &id.to_string(), "eth0").unwrap(),
        kind: LinkKind::Veth,
        mtu: 1500,
        pod_cidrs: vec![RAW.parse().unwrap()],
        requested: Vec::new(),
        mac: None,
        bandwidth: Bandwidth::default(),
    };
    // The first addresses of the range are the node's.
    let claim = plan::claim(&wanted, &[IpAddr::from([10, 243, high + 1, low])]);
    let shown = node.perform(&claim, Some(netns.as_fd())).unwrap().unwrap();
    let host = cni::answer::decode_host_end(&shown).unwrap();
    let means = Means::default();
    node.perform(&plan::raise(&host, &means, false), None).unwrap();
    pod.perform(&plan::furnish(&host, &means), None).unwrap();
    let publish = plan::publish(&host, &wanted.pod_cidrs);
    node.perform(&publish, None).unwrap();
    host.index
}

fn ours(network: &NodeNetwork) -> (PathBuf, Value) {
    let mut ours = config("plugin", "orlop-cni");
    ours["podCIDRs"] = json!(["10.244.0.0/16"]);
    ours["runDir"] = json!(network.run_dir);
    (tests::binary_path("orlop-cni"), ours)
}

fn theirs(name: &str, config: Value) -> (PathBuf, Value) {
    (Path::new(PLUGINS).join(name), config)
}

fn config(name: &str, kind: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": name, "type": kind})
}

fn leases(network: &NodeNetwork, range: &str) -> Value {
    json!({"type": "host-local", "dataDir": network.run_dir.join("leases"), "ranges": [[{"subnet": range}]]})
}

/// What a runtime asks for: a port of the node, and limits.
fn wishes() -> Value {
    let (rate, burst) = (800_000_000, 8_000_000);
    json!({
        "portMappings": [{"hostPort": 0, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst},
    })
}

/// Each pod has a port of its own.
fn for_pod(config: &Value, id: usize) -> Value {
    let mut config = config.clone();
    if let Some(port) = config.pointer_mut("/runtimeConfig/portMappings/0/hostPort") {
        *port = json!(20_000 + id);
    }
    config
}

fn exec(plugin: &Path, verb: &str, id: usize, netns: &Path, config: &Value) -> Vec<u8> {
    let mut command = Command::new(plugin);
    command.env_clear().envs([
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", &id.to_string()),
        ("CNI_NETNS", netns.to_str().unwrap()),
        ("CNI_IFNAME", "eth0"),
        // Where a plugin is, its address manager is.
        ("CNI_PATH", plugin.parent().unwrap().to_str().unwrap()),
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    ]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(config.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{verb} by {}: {output:?}", plugin.display());
    output.stdout
}
