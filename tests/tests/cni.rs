//! The CNI plugin as runtimes call it: a process with an environment, standard input and standard output.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests panic like the tests")]

use std::{
    collections::BTreeSet,
    io::Write,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use cni::pod_network::{self, NodeNetwork};
use serde_json::{Value, json};
use tests::{LeakAudit, NetworkNamespace, Scratch};

/// A node with the plugin and its configuration.
struct Node {
    scratch: Scratch,
    namespace: NetworkNamespace,
    plugin: PathBuf,
    config: Value,
}

/// What a call came back with.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    code: i32,
    stdout: String,
}

impl Answer {
    fn of(output: &Output) -> Self {
        let stdout = String::from_utf8(output.stdout.clone()).unwrap();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout,
        }
    }

    /// The one document that was printed.
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The number of the failure; `None` for a success.
    fn failure(&self) -> Option<u64> {
        (self.code != 0).then(|| self.json()["code"].as_u64().unwrap())
    }

    #[track_caller]
    fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

impl Node {
    fn new(test: &str) -> Self {
        let scratch = Scratch::new(test);
        let config = json!({
            "cniVersion": "1.1.0",
            "name": "pods",
            "type": "orlop-cni",
            "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"],
            "runDir": scratch.input(),
        });
        Self {
            scratch,
            namespace: NetworkNamespace::new(),
            plugin: tests::binary_path("orlop-cni"),
            config,
        }
    }

    fn with(&self, key: &str, value: Value) -> Value {
        let mut config = self.config.clone();
        config[key] = value;
        config
    }

    fn network(&self) -> NodeNetwork {
        let cidrs = ["10.244.0.0/24", "fd00:10:244::/64"].map(|cidr| cidr.parse().unwrap());
        NodeNetwork::new("pods", &cidrs, &self.scratch.input())
    }

    /// What the node makes on the first ADD and keeps; a leak audit begins behind it.
    fn prepare(&self) {
        self.namespace.run(|| pod_network::prepare(&self.network())).unwrap();
    }

    fn spawn(&self, environment: &[(&str, &str)], stdin: &str) -> Child {
        let mut command = Command::new(&self.plugin);
        command.env_clear().envs(environment.iter().copied());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.namespace.run(|| command.spawn()).unwrap();
        // A plugin that answers without reading closes the pipe first.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child
    }

    fn call(&self, environment: &[(&str, &str)], stdin: &str) -> Answer {
        Answer::of(&self.spawn(environment, stdin).wait_with_output().unwrap())
    }

    fn verb(&self, verb: &str, id: &str, netns: &Path, config: &Value) -> Answer {
        self.call(&environment(verb, id, netns.to_str().unwrap()), &config.to_string())
    }

    fn add(&self, id: &str, pod: &NetworkNamespace) -> Answer {
        self.verb("ADD", id, &pod.path(), &self.config)
    }

    fn del(&self, id: &str) {
        let answer = self.verb("DEL", id, Path::new(""), &self.config);
        assert_eq!(
            answer,
            Answer {
                code: 0,
                stdout: String::new()
            }
        );
    }
}

fn environment<'a>(verb: &'a str, id: &'a str, netns: &'a str) -> [(&'static str, &'a str); 5] {
    [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", id),
        ("CNI_NETNS", netns),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/usr/lib/cni"),
    ]
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    cni::protocol::addresses_of_result(result).unwrap()
}

#[test]
fn add_check_and_del_in_every_version() {
    tests::require_root!();
    let node = Node::new("versions");
    node.prepare();
    let pod = NetworkNamespace::new();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &pod]);
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let config = node.with("cniVersion", json!(version));
        let result = node.verb("ADD", "abc", &pod.path(), &config).succeeded().json();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert_eq!(result["interfaces"][1]["sandbox"], pod.path().to_str().unwrap());
        assert_eq!(addresses(&result).len(), 2, "{result}");
        for address in addresses(&result) {
            let listener = pod.run(|| TcpListener::bind(SocketAddr::new(address, 80)).unwrap());
            node.namespace
                .run(|| TcpStream::connect(listener.local_addr().unwrap()))
                .unwrap();
        }
        if version != "0.3.0" && version != "0.3.1" {
            let mut check = config.clone();
            check["prevResult"] = result;
            let answer = node.verb("CHECK", "abc", &pod.path(), &check).succeeded();
            assert_eq!(answer.stdout, "");
        }
        node.del("abc");
    }
    audit.finish();
}

#[test]
fn check_sees_what_was_changed() {
    tests::require_root!();
    let node = Node::new("check");
    let changes: [(&str, &[&str], bool); 5] = [
        ("address", &["ip", "address", "flush", "dev", "eth0"], true),
        ("default-route", &["ip", "route", "del", "default"], true),
        (
            "link",
            &["ip", "link", "set", "eth0", "address", "02:00:00:00:00:09"],
            true,
        ),
        (
            "route-of-the-node",
            &["ip", "-6", "route", "flush", "proto", "111", "type", "unicast"],
            false,
        ),
        ("container", &[], false),
    ];
    for (id, change, is_inside) in changes {
        let pod = NetworkNamespace::new();
        let result = node.add(id, &pod).succeeded().json();
        let check = node.with("prevResult", result);
        node.verb("CHECK", id, &pod.path(), &check).succeeded();
        let expected = match change.split_first() {
            Some((tool, arguments)) => {
                let namespace = if is_inside { &pod } else { &node.namespace };
                let run = || Command::new(tool).args(arguments).status().unwrap();
                assert!(namespace.run(run).success(), "{id}");
                103
            }
            None => {
                node.del(id);
                3
            }
        };
        let answer = node.verb("CHECK", id, &pod.path(), &check);
        assert_eq!(answer.failure(), Some(expected), "{id}: {answer:?}");
        node.del(id);
    }
    let pod = NetworkNamespace::new();
    node.add("other", &pod).succeeded();
    let check = node.with("prevResult", json!({"ips": [{"address": "10.244.0.250/32"}]}));
    assert_eq!(node.verb("CHECK", "other", &pod.path(), &check).failure(), Some(103));
}

#[test]
fn del_works_whatever_is_gone() {
    tests::require_root!();
    let node = Node::new("del");
    node.prepare();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace]);
    let pod = NetworkNamespace::new();
    let result = node.add("abc", &pod).succeeded().json();
    node.verb("DEL", "abc", &pod.path(), &node.with("prevResult", result))
        .succeeded();
    for netns in ["", "/nonexistent", "/proc/self/status"] {
        let answer = node.verb("DEL", "abc", Path::new(netns), &node.config).succeeded();
        assert_eq!(answer.stdout, "");
    }
    node.add("abc", &pod).succeeded();
    node.verb(
        "DEL",
        "abc",
        Path::new(""),
        &json!({"cniVersion": "1.1.0", "name": "pods", "runDir": node.scratch.input(), "new": 1}),
    )
    .succeeded();
    node.add("abc", &pod).succeeded();
    drop(pod);
    node.del("abc");
    node.del("never-added");
    audit.finish();
}

#[test]
fn a_second_add_is_refused_and_changes_nothing() {
    tests::require_root!();
    let node = Node::new("twice");
    let pod = NetworkNamespace::new();
    node.add("abc", &pod).succeeded();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace, &pod]);
    assert_eq!(node.add("abc", &pod).failure(), Some(100));
    assert_eq!(node.add("other", &pod).failure(), Some(100));
    audit.finish();
}

#[test]
fn addresses_can_be_asked_for() {
    tests::require_root!();
    let node = Node::new("ips");
    let (a, b) = (NetworkNamespace::new(), NetworkNamespace::new());
    let mut config = node.with("capabilities", json!({"ips": true}));
    config["runtimeConfig"] = json!({"ips": ["10.244.0.77/24"]});
    let result = node.verb("ADD", "a", &a.path(), &config).succeeded().json();
    assert_eq!(addresses(&result)[0], "10.244.0.77".parse::<IpAddr>().unwrap());
    assert_eq!(node.verb("ADD", "b", &b.path(), &config).failure(), Some(102));
    let netns = b.path();
    let mut environment = environment("ADD", "b", netns.to_str().unwrap()).to_vec();
    environment.push(("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=b;IP=10.244.0.78"));
    let result = node.call(&environment, &node.config.to_string()).succeeded().json();
    assert_eq!(addresses(&result)[0], "10.244.0.78".parse::<IpAddr>().unwrap());
}

#[test]
fn status_tells_of_exhaustion_before_add_does() {
    tests::require_root!();
    let node = Node::new("status");
    let config = node.with("podCIDRs", json!(["10.244.0.0/30"]));
    let (a, b) = (NetworkNamespace::new(), NetworkNamespace::new());
    assert_eq!(node.verb("STATUS", "", Path::new(""), &config).succeeded().stdout, "");
    node.verb("ADD", "a", &a.path(), &config).succeeded();
    assert_eq!(node.verb("STATUS", "", Path::new(""), &config).failure(), Some(50));
    let answer = node.verb("ADD", "b", &b.path(), &config);
    assert_eq!(answer.failure(), Some(101));
    assert_eq!(
        answer.json()["msg"],
        "no address is free in 10.244.0.0/30: all 1 are held"
    );
}

#[test]
fn gc_keeps_what_is_listed_and_refuses_no_list() {
    tests::require_root!();
    let node = Node::new("gc");
    let pods = ["a", "b", "c"].map(|id| (id, NetworkNamespace::new()));
    pods.iter().for_each(|(id, pod)| drop(node.add(id, pod).succeeded()));
    let other = NetworkNamespace::new();
    let other_network = node.with("name", json!("other"));
    node.verb("ADD", "d", &other.path(), &other_network).succeeded();
    let gc = |config: &Value| node.verb("GC", "", Path::new(""), config);
    let ids = |name: &str| -> Vec<String> {
        let network = NodeNetwork {
            name: name.to_owned(),
            ..node.network()
        };
        let listed = node.namespace.run(|| pod_network::list(&network)).unwrap();
        listed.into_iter().map(|attachment| attachment.container_id).collect()
    };
    assert_eq!(gc(&node.config).failure(), Some(7));
    let valid = json!([{"containerID": "b", "ifname": "eth0"}, {"containerID": "c", "ifname": "eth1"}]);
    gc(&node.with("cni.dev/valid-attachments", valid)).succeeded();
    assert_eq!(
        (ids("pods"), ids("other")),
        (vec!["b".to_owned()], vec!["d".to_owned()])
    );
    gc(&node.with("cni.dev/valid-attachments", json!([]))).succeeded();
    assert_eq!((ids("pods").len(), ids("other").len()), (0, 1));
}

#[test]
fn many_processes_at_once_get_different_addresses() {
    tests::require_root!();
    let node = Node::new("burst");
    node.prepare();
    let pods: Vec<NetworkNamespace> = (0..32).map(|_| NetworkNamespace::new()).collect();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace]);
    let results: Vec<Value> = thread::scope(|scope| {
        let add = |(number, pod)| {
            let node = &node;
            scope.spawn(move || node.add(&format!("pod-{number}"), pod).succeeded().json())
        };
        let adds: Vec<_> = pods.iter().enumerate().map(add).collect();
        adds.into_iter().map(|add| add.join().unwrap()).collect()
    });
    let held: Vec<IpAddr> = results.iter().flat_map(addresses).collect();
    assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), 64, "{held:?}");
    (0..pods.len()).for_each(|number| node.del(&format!("pod-{number}")));
    audit.finish();
}

/// Each round kills some of the ADDs and DELs that run at once at random moments, then looks at the kernel.
#[test]
fn kills_at_random_moments_leak_nothing_and_give_no_address_twice() {
    tests::require_root!();
    const PODS: usize = 8;
    const ROUNDS: usize = 20;
    let node = Node::new("kill");
    node.prepare();
    let pods: Vec<NetworkNamespace> = (0..PODS).map(|_| NetworkNamespace::new()).collect();
    let audit = LeakAudit::begin(&node.scratch, &[&node.namespace]);
    let mut dice = Dice(0x6f72_6c6f_7021);
    let mut kills = 0;
    for round in 0..ROUNDS {
        let mut children = Vec::new();
        for (number, pod) in pods.iter().enumerate() {
            let verb = if dice.roll(3) == 0 { "DEL" } else { "ADD" };
            let netns = pod.path();
            let id = format!("pod-{number}");
            children.push(node.spawn(
                &environment(verb, &id, netns.to_str().unwrap()),
                &node.config.to_string(),
            ));
        }
        thread::sleep(Duration::from_micros(dice.roll(6000)));
        for child in &mut children {
            if dice.roll(2) == 0 {
                kills += usize::from(child.try_wait().unwrap().is_none());
                child.kill().unwrap();
            }
        }
        for child in &mut children {
            child.wait().unwrap();
        }
        let listed = node.namespace.run(|| pod_network::list(&node.network())).unwrap();
        let held: Vec<IpAddr> = listed
            .iter()
            .flat_map(|attachment| attachment.addresses.clone())
            .collect();
        assert_eq!(
            held.iter().collect::<BTreeSet<_>>().len(),
            held.len(),
            "round {round}: {held:?}"
        );
    }
    eprintln!("{kills} of {} processes were killed at work", PODS * ROUNDS);
    (0..PODS).for_each(|number| node.del(&format!("pod-{number}")));
    audit.finish();
    // Nothing that a killed process left in the hints keeps an address from being given.
    let config = node.with("podCIDRs", json!(["10.244.0.0/29"]));
    for (number, pod) in pods.iter().enumerate().take(5) {
        let id = format!("pod-{number}");
        node.verb("ADD", &id, &pod.path(), &config).succeeded();
    }
}

/// A small generator of random numbers (xorshift), the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A call that never gets to work, and the code it fails with: ours, and that of the reference plugins.
struct Golden {
    case: &'static str,
    environment: Vec<(&'static str, String)>,
    stdin: String,
    ours: Option<u64>,
    reference: Option<u64>,
}

fn golden(config: &Value) -> Vec<Golden> {
    let good = environment("ADD", "abc", "/nonexistent").map(|(key, value)| (key, value.to_owned()));
    let but = |key: &'static str, value: &str| {
        let mut environment = good.to_vec();
        environment.retain(|(other, _)| *other != key);
        environment.push((key, value.to_owned()));
        environment
    };
    let with = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        config.to_string()
    };
    let row = |case, environment, stdin, ours, reference| Golden {
        case,
        environment,
        stdin,
        ours,
        reference,
    };
    let text = config.to_string();
    let nameless = json!({"cniVersion": "1.0.0", "type": "orlop-cni"}).to_string();
    vec![
        row("no command", Vec::new(), String::new(), None, None),
        row(
            "unknown command",
            but("CNI_COMMAND", "FOO"),
            text.clone(),
            Some(4),
            Some(4),
        ),
        row("missing id", but("CNI_CONTAINERID", ""), text.clone(), Some(4), Some(4)),
        row("missing netns", but("CNI_NETNS", ""), text.clone(), Some(4), Some(4)),
        row("bad id", but("CNI_CONTAINERID", "a/b"), text.clone(), Some(4), Some(4)),
        row(
            "long ifname",
            but("CNI_IFNAME", "sixteen-bytes-ab"),
            text.clone(),
            Some(4),
            Some(4),
        ),
        row(
            "ifname with a colon",
            but("CNI_IFNAME", "a:b"),
            text.clone(),
            Some(4),
            Some(4),
        ),
        row("no JSON", good.to_vec(), "{".to_owned(), Some(6), Some(6)),
        row("no name", good.to_vec(), nameless, Some(7), Some(7)),
        row("bad name", good.to_vec(), with("name", json!("a/b")), Some(7), Some(7)),
        row(
            "unknown version",
            good.to_vec(),
            with("cniVersion", json!("2.0.0")),
            Some(1),
            Some(1),
        ),
        row(
            "CHECK of 0.3.1",
            but("CNI_COMMAND", "CHECK"),
            with("cniVersion", json!("0.3.1")),
            Some(1),
            Some(1),
        ),
        // The reference plugins answer 999 to nearly everything; the specification's numbers say more.
        row(
            "CHECK without prevResult",
            but("CNI_COMMAND", "CHECK"),
            text.clone(),
            Some(7),
            Some(999),
        ),
        row("namespace is gone", good.to_vec(), text.clone(), Some(8), Some(999)),
        row(
            "DEL of a namespace that is gone",
            but("CNI_COMMAND", "DEL"),
            text,
            None,
            None,
        ),
    ]
}

fn check_golden(node: &Node, config: &Value, expected: impl Fn(&Golden) -> Option<u64>) {
    for row in golden(config) {
        let environment: Vec<(&str, &str)> = row
            .environment
            .iter()
            .map(|(key, value)| (*key, value.as_str()))
            .collect();
        let answer = node.call(&environment, &row.stdin);
        assert_eq!(answer.failure(), expected(&row), "{}: {answer:?}", row.case);
        if answer.code == 0 {
            assert_eq!(answer.stdout, "", "{}", row.case);
        } else {
            assert!(!answer.json()["msg"].as_str().unwrap().is_empty(), "{}", row.case);
        }
    }
}

#[test]
fn failures_have_the_codes_of_the_specification() {
    tests::require_root!();
    let node = Node::new("golden");
    let config = node.with("cniVersion", json!("1.0.0"));
    check_golden(&node, &config, |row| row.ours);
    let own = node.namespace.path();
    assert_eq!(node.verb("ADD", "abc", &own, &config).failure(), Some(8));
    let about = node.spawn(&[], "").wait_with_output().unwrap();
    assert!(
        String::from_utf8(about.stderr)
            .unwrap()
            .contains("CNI protocol versions supported: 0.3.0")
    );
}

/// The same table for Debian's plugins, so that the table itself is tested, and one pod by each.
#[test]
fn the_reference_plugins_agree_but_for_the_listed_differences() {
    // Debian's containernetworking-plugins.
    tests::require!(tests::Need::Root, tests::Need::Path("/usr/lib/cni/ptp"));
    let reference = Path::new("/usr/lib/cni/ptp");
    let ours = Node::new("golden-ours");
    let mut theirs = Node::new("golden-ptp");
    theirs.plugin = reference.to_owned();
    theirs.config = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "type": "ptp",
        "ipam": {
            "type": "host-local",
            "dataDir": theirs.scratch.input(),
            "ranges": [[{"subnet": "10.244.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    check_golden(&theirs, &theirs.config, |row| row.reference);
    let (a, b) = (NetworkNamespace::new(), NetworkNamespace::new());
    let mut config = ours.with("cniVersion", json!("1.0.0"));
    config["podCIDRs"] = json!(["10.244.0.0/24"]);
    let our_result = ours.verb("ADD", "abc", &a.path(), &config).succeeded().json();
    let their_result = theirs.add("abc", &b).succeeded().json();
    // Both list the node's interface first and point each address at the pod's. They differ in the address's prefix and
    // gateway: ours has neither a subnet nor a gateway of its own.
    for result in [&our_result, &their_result] {
        assert_eq!(result["cniVersion"], "1.0.0");
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 2);
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert_eq!(result["ips"][0]["interface"], 1);
        assert_eq!(addresses(result).len(), 1);
        assert_eq!(result["routes"][0]["dst"], "0.0.0.0/0");
    }
    let prefix = |result: &Value| {
        result["ips"][0]["address"]
            .as_str()
            .unwrap()
            .split('/')
            .nth(1)
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        (prefix(&our_result), prefix(&their_result)),
        ("32".to_owned(), "24".to_owned())
    );
    theirs.del("abc");
    ours.del("abc");
}

#[test]
fn version_is_answered_without_standard_input() {
    let plugin = tests::binary_path("orlop-cni");
    let mut command = Command::new(plugin);
    command
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    // Standard input stays open and empty: a plugin that reads it would hang.
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let answer = Answer::of(&output).succeeded().json();
    assert_eq!(
        answer["supportedVersions"],
        json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
    );
}
